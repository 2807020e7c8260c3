from __future__ import annotations

import pytest
import torch
from torch import nn

from attention_blocks import EaseIn, GlobalContext, SqueezeExcite


def test_starts_as_the_identity_and_mixes_in_the_block() -> None:
    eased, x = EaseIn(32, SqueezeExcite), torch.randn(2, 32, 3, 4)
    assert torch.equal(eased(x), x)
    nn.init.constant_(eased.scale, 0.25)
    torch.testing.assert_close(eased(x), 0.75 * x + 0.25 * eased.block(x))
    nn.init.constant_(eased.scale, 1.0)
    torch.testing.assert_close(eased(x), eased.block(x))


def test_the_scale_gets_a_gradient_at_zero() -> None:
    eased, x = EaseIn(32, SqueezeExcite), torch.randn(2, 32, 3, 4)
    (gradient,) = torch.autograd.grad(eased(x).square().sum(), [eased.scale])
    assert gradient.abs() > 0.1


def test_eases_in_modules_that_are_not_ours() -> None:
    def norm(channels: int) -> nn.Module:
        return nn.BatchNorm2d(channels)

    eased, x = EaseIn(4, norm), torch.randn(2, 4, 3, 3)
    assert torch.equal(eased(x), x)
    with pytest.raises(TypeError, match="BatchNorm2d has no gate; only a FeatureMapAttention has"):
        eased.gate(x)


def test_its_gate_opens_at_one() -> None:
    eased, x = EaseIn(32, SqueezeExcite), torch.randn(2, 32, 3, 4)
    assert torch.equal(eased.gate(x), torch.ones(2, 32, 1, 1))
    assert torch.equal(EaseIn(32, GlobalContext)(x), x)


def test_resets_its_own_scale_alone() -> None:
    eased = EaseIn(32, SqueezeExcite)
    nn.init.ones_(eased.scale)
    before = {name: value.clone() for name, value in eased.block.state_dict().items()}
    eased.reset_parameters()
    assert eased.scale.item() == 0
    torch.testing.assert_close(dict(eased.block.state_dict()), before, rtol=0, atol=0)
