import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attention_blocks import RMSNorm


def formula(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    x = x.double()
    return x / ((x**2).mean(-1, keepdim=True) + eps).sqrt() * weight.double()


@pytest.fixture(params=["torch", "formula"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both implementations: torch's function, and the formula for torch 2.3."""
    if request.param == "formula":
        monkeypatch.delattr(F, "rms_norm", raising=False)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_equals_the_formula(eps: float) -> None:
    norm = RMSNorm(7, eps).double()
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(2, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(norm(x), formula(x, norm.weight, eps))


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("half_model", [True, False], ids=["half-model", "autocast"])
def test_large_half_precision_features_neither_overflow_nor_lose_the_mean(half_model: bool) -> None:
    norm = RMSNorm(512)
    x = (torch.randn(3, 512) * 1000).half()
    with torch.autocast("cpu", dtype=torch.float16, enabled=not half_model):
        y = (norm.half() if half_model else norm)(x)
    assert y.dtype == torch.float16
    torch.testing.assert_close(y.double(), formula(x, norm.weight, 1e-6), atol=2e-3, rtol=2e-3)


@pytest.mark.usefixtures("path")
def test_gradcheck() -> None:
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(RMSNorm(4).double(), x)


def test_a_row_of_zeros_stays_zero_with_finite_gradient() -> None:
    x = torch.zeros(1, 4, requires_grad=True)
    y = RMSNorm(4)(x)
    y.sum().backward()
    assert y.tolist() == [[0, 0, 0, 0]]
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_starts_with_ones_and_returns_to_them() -> None:
    norm = RMSNorm(4)
    assert norm.weight.tolist() == [1, 1, 1, 1]
    torch.nn.init.constant_(norm.weight, 7.0)
    norm.reset_parameters()
    assert norm.weight.tolist() == [1, 1, 1, 1]


def test_refuses_unfit_arguments() -> None:
    with pytest.raises(ValueError, match="dim must be a positive feature size, got 0"):
        RMSNorm(0)
    with pytest.raises(ValueError, match="eps must be positive, got 0"):
        RMSNorm(4, eps=0)
