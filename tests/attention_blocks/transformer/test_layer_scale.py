import pytest
import torch

from attention_blocks import LayerScale


def test_multiplies_each_feature_by_its_own_factor() -> None:
    scale = LayerScale(3)
    scale.load_state_dict({"gamma": torch.tensor([1.0, 2.0, -3.0])})
    x = torch.randn(2, 5, 3)
    y = scale(x)
    for feature, factor in enumerate([1.0, 2.0, -3.0]):
        torch.testing.assert_close(y[..., feature], x[..., feature] * factor)


@pytest.mark.parametrize("init", [1e-5, 0.1, 1])
def test_all_factors_start_equal_and_are_learned(init: float) -> None:
    scale = LayerScale(3, init=init)
    assert scale.gamma.dtype == torch.float32
    assert scale.gamma.tolist() == pytest.approx([init] * 3)
    scale(torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert scale.gamma.grad is not None
    assert scale.gamma.grad.tolist() == [1, 2, 3]
    torch.nn.init.constant_(scale.gamma, 7.0)
    scale.reset_parameters()
    assert scale.gamma.tolist() == pytest.approx([init] * 3)
    assert f"3, init={init:g}" in repr(scale)


def test_refuses_no_features() -> None:
    with pytest.raises(ValueError, match="dim must be a positive feature size, got 0"):
        LayerScale(0)
