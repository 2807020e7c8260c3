import warnings

import pytest
import torch

from attention_blocks.kernels import autocast as module
from attention_blocks.kernels import autocast_dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_dtype_of_products_is_named(dtype: torch.dtype) -> None:
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
def test_old_torch_is_asked_the_old_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BY_DEVICE", False)
    test_pairs = [("cpu", torch.bfloat16), ("cuda", None)]
    with torch.autocast("cpu", torch.bfloat16):
        assert [(device, autocast_dtype(device)) for device, _ in test_pairs] == test_pairs
