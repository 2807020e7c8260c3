import pytest
import torch

from attention_blocks import Residual


def test_adds_the_scaled_branch() -> None:
    residual = Residual(3, layer_scale=0.25, dropout=0.5, drop_path=0.5).eval()
    x, branch = torch.randn(2, 4, 5, 3)
    torch.testing.assert_close(residual(x, branch), x + branch / 4)
    torch.testing.assert_close(Residual(3)(x, branch), x + branch)


def test_training_drops_features_and_rows_of_the_branch_only() -> None:
    torch.manual_seed(0)
    residual = Residual(64, layer_scale=0.5, dropout=0.5, drop_path=0.5)
    x = torch.full((200, 1, 64), 10.0)
    found = (residual(x, torch.ones_like(x)) - x).squeeze(1)
    # A feature that survives both is 1 · 2 (dropout) · 1/2 (scale) · 2 (drop path).
    assert set(found.flatten().tolist()) == {0.0, 2.0}
    kept = found.any(dim=1)
    assert kept.double().mean().item() == pytest.approx(0.5, abs=0.18)
    assert (found[kept] != 0).double().mean().item() == pytest.approx(0.5, abs=0.05)


def test_parts_that_are_not_requested_are_not_created() -> None:
    assert list(Residual(3).children()) == []
    assert list(Residual(3, layer_scale=0.1).state_dict()) == ["scale.gamma"]


def test_refuses_rates_outside_their_range() -> None:
    with pytest.raises(ValueError, match=r"dropout must lie in \[0, 1\), got 1.0"):
        Residual(3, dropout=1.0)
    with pytest.raises(ValueError, match=r"drop_path must lie in \[0, 1\), got -1"):
        Residual(3, drop_path=-1)
