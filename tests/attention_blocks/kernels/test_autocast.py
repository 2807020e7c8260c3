import warnings

import pytest
import torch

from attention_blocks.kernels import autocast as module
from attention_blocks.kernels import autocast_dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_returns_the_dtype_of_products(dtype: torch.dtype) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert autocast_dtype("cpu") is None
        with torch.autocast("cpu", dtype):
            assert autocast_dtype("cpu") is (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is dtype
            assert autocast_dtype("cuda") is None
            with torch.autocast("cpu", enabled=False):
                assert autocast_dtype("cpu") is None
        assert autocast_dtype("meta") is None


@pytest.mark.filterwarnings("ignore:.*autocast.*deprecated")
def test_uses_the_older_api_with_old_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BY_DEVICE", False)
    test_pairs = [("cpu", torch.bfloat16), ("cuda", None)]
    with torch.autocast("cpu", torch.bfloat16):
        assert [(device, autocast_dtype(device)) for device, _ in test_pairs] == test_pairs
