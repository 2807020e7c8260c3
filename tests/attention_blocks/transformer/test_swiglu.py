import pytest
import torch
from timm.layers.mlp import SwiGLU as TimmSwiGLU

from attention_blocks import FeedForward, SwiGLU


@pytest.mark.parametrize("bias", [True, False])
def test_equals_timm(bias: bool) -> None:
    theirs, ours = TimmSwiGLU(6, 10, bias=bias), SwiGLU(6, 10, bias=bias)
    ours.gate_proj.load_state_dict(theirs.fc1_g.state_dict())
    ours.up_proj.load_state_dict(theirs.fc1_x.state_dict())
    ours.down_proj.load_state_dict(theirs.fc2.state_dict())
    x = torch.randn(2, 5, 6)
    torch.testing.assert_close(ours(x), theirs(x))


def test_equals_the_formula() -> None:
    ours = SwiGLU(6).double()
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    gate = x @ ours.gate_proj.weight.T
    wanted = (gate / (1 + torch.exp(-gate)) * (x @ ours.up_proj.weight.T)) @ ours.down_proj.weight.T
    torch.testing.assert_close(ours(x), wanted)


@pytest.mark.parametrize(("dim", "hidden_dim"), [(6, 16), (64, 176), (768, 2048), (4096, 10928)])
def test_hidden_size_is_two_thirds_of_four_dim_in_eights(dim: int, hidden_dim: int) -> None:
    with torch.device("meta"):
        assert SwiGLU(dim).up_proj.out_features == hidden_dim


def test_has_as_many_parameters_as_the_plain_feed_forward() -> None:
    with torch.device("meta"):
        plain, gated = (sum(p.numel() for p in block(768).parameters()) for block in (FeedForward, SwiGLU))
    assert gated == pytest.approx(plain, rel=0.01)


def test_dropout_works_in_training_only() -> None:
    ours = SwiGLU(6, dropout=0.5)
    x = torch.randn(2, 5, 6)
    assert not torch.equal(ours(x), ours(x))
    ours.eval()
    assert torch.equal(ours(x), ours(x))


@pytest.mark.parametrize("bias", [True, False])
def test_starts_with_xavier_uniform_weights_and_returns_to_them(bias: bool) -> None:
    ours = SwiGLU(64, 200, bias=bias)
    for reset in (False, True):
        if reset:
            with torch.no_grad():
                for parameter in ours.parameters():
                    parameter.fill_(7.0)
            ours.reset_parameters()
        for linear in (ours.gate_proj, ours.up_proj, ours.down_proj):
            bound = (6 / 264) ** 0.5
            assert type(linear) is torch.nn.Linear
            assert linear.weight.abs().max().item() <= bound
            assert linear.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
            assert linear.bias is None or not linear.bias.any()


def test_gradcheck() -> None:
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(SwiGLU(4).double(), x)


def test_refuses_unfit_arguments() -> None:
    with pytest.raises(ValueError, match="dim and hidden_dim must be positive, got dim=4, hidden_dim=-1"):
        SwiGLU(4, -1)
    with pytest.raises(ValueError, match=r"dropout must lie in \[0, 1\), got -0.1"):
        SwiGLU(4, dropout=-0.1)
