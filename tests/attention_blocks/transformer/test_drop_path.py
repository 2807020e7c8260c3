import pytest
import torch

from attention_blocks import DropPath


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_drops_whole_rows_at_the_rate_and_keeps_the_mean(rate: float) -> None:
    torch.manual_seed(0)
    rows = 20_000
    y = DropPath(rate)(torch.ones(rows, 2, 3))
    assert (y == y[:, :1, :1]).all(), "a row is kept or dropped as a whole"
    values = y[:, 0, 0]
    kept = values != 0
    torch.testing.assert_close(values[kept], torch.full_like(values[kept], 1 / (1 - rate)))
    # Five standard deviations of a binomial proportion.
    assert kept.double().mean().item() == pytest.approx(1 - rate, abs=5 * (rate * (1 - rate) / rows) ** 0.5)


def test_dropped_rows_get_no_gradient_and_kept_ones_a_rescaled_one() -> None:
    x = torch.randn(64, 4, requires_grad=True)
    y = DropPath(0.5)(x)
    y.sum().backward()
    assert x.grad is not None
    kept = (y != 0).all(dim=1)
    assert 0 < kept.sum() < 64
    assert torch.equal(x.grad, 2.0 * kept[:, None].expand(64, 4))


def test_is_the_identity_in_evaluation_and_at_rate_zero() -> None:
    x = torch.randn(8, 3)
    assert DropPath(0.9).eval()(x) is x
    assert DropPath(0.0)(x) is x


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_keeps_the_dtype(dtype: torch.dtype) -> None:
    assert DropPath(0.5)(torch.ones(4, 3, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_refuses_a_rate_outside_its_range(rate: float) -> None:
    with pytest.raises(ValueError, match=rf"rate must lie in \[0, 1\), got {rate}"):
        DropPath(rate)
