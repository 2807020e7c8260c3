from collections.abc import Callable
from functools import partial

import pytest
import torch
from timm.layers.mlp import Mlp
from torch import Tensor, nn

from attention_blocks import FeedForward


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


@pytest.mark.parametrize(
    ("activation", "formula"), [(nn.ReLU, lambda x: x.clamp(min=0)), (nn.GELU, gelu)], ids=["relu", "gelu"]
)
def test_equals_the_formula(activation: Callable[[], nn.Module], formula: Callable[[Tensor], Tensor]) -> None:
    feed_forward = FeedForward(6, activation=activation).double()
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    up, down = feed_forward.up_proj, feed_forward.down_proj
    assert up.weight.shape == (24, 6)
    wanted = formula(x @ up.weight.T + up.bias) @ down.weight.T + down.bias
    torch.testing.assert_close(feed_forward(x), wanted)


def test_equals_timm() -> None:
    theirs, ours = Mlp(6, 10), FeedForward(6, 10)
    ours.up_proj.load_state_dict(theirs.fc1.state_dict())
    ours.down_proj.load_state_dict(theirs.fc2.state_dict())
    x = torch.randn(2, 5, 6)
    torch.testing.assert_close(ours(x), theirs(x))


def test_dropout_of_the_hidden_features_in_training_only() -> None:
    feed_forward = FeedForward(1, 4000, activation=nn.Identity, dropout=0.25)
    with torch.no_grad():
        for parameter in feed_forward.parameters():
            parameter.fill_(1.0)
    # Each kept hidden feature is (1 + 1) / 0.75; the bias at the end is 1.
    kept = [(feed_forward(torch.ones(1, 1)) - 1).item() / (2 / 0.75) for _ in range(20)]
    assert kept == pytest.approx([round(count) for count in kept], abs=1e-2)
    assert kept == pytest.approx([3000] * 20, abs=150)
    assert len(set(kept)) > 1, "always the mean: nothing is dropped"
    assert feed_forward.eval()(torch.ones(1, 1)).item() == pytest.approx(8001)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_same_without_gradients_and_does_not_change_its_input(approximate: str) -> None:
    feed_forward = FeedForward(4, activation=partial(nn.GELU, approximate=approximate))
    x = torch.randn(2, 3, 4)
    before = x.clone()
    with torch.no_grad():
        frozen = feed_forward(x)
    torch.testing.assert_close(frozen, feed_forward(x).detach())
    assert torch.equal(x, before)


def test_starts_with_xavier_uniform_weights_and_returns_to_them() -> None:
    feed_forward = FeedForward(64, 200)
    for reset in (False, True):
        if reset:
            with torch.no_grad():
                for parameter in feed_forward.parameters():
                    parameter.fill_(7.0)
            feed_forward.reset_parameters()
        for linear in (feed_forward.up_proj, feed_forward.down_proj):
            bound = (6 / 264) ** 0.5
            assert linear.weight.abs().max().item() <= bound
            assert linear.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
            assert not linear.bias.any()


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU])
def test_hooks_of_its_layers_see_the_whole_input(activation: type[nn.Module]) -> None:
    feed_forward, seen = FeedForward(4, 6, activation=activation), []
    for part in feed_forward.children():
        assert type(part) in (nn.Linear, activation)
        part.register_forward_hook(lambda module, inputs, output: seen.append((type(module), inputs[0].shape)))
    for training in (True, False):
        with torch.set_grad_enabled(training):
            feed_forward.train(training)(torch.randn(2, 3, 4))
    assert seen == 2 * [(nn.Linear, (2, 3, 4)), (activation, (2, 3, 6)), (nn.Linear, (2, 3, 6))]


def test_gradcheck() -> None:
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(FeedForward(4).double(), x)


def test_refuses_unfit_arguments() -> None:
    with pytest.raises(ValueError, match="dim and hidden_dim must be positive, got dim=4, hidden_dim=0"):
        FeedForward(4, 0)
    with pytest.raises(ValueError, match=r"dropout must lie in \[0, 1\), got 1"):
        FeedForward(4, dropout=1)
