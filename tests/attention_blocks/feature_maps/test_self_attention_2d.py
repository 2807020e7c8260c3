from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from attention_blocks import SelfAttention2d

Draw = Callable[[nn.Module], nn.Module]


@pytest.mark.parametrize("key_pool", [1, 2])
def test_equals_the_equation_with_1x1_convolutions(draw: Draw, key_pool: int) -> None:
    block, x = SelfAttention2d(16, key_pool=key_pool), torch.randn(2, 16, 6, 4, dtype=torch.float64)
    draw(block)
    attention, keys = block.attention, x
    if key_pool == 2:
        keys = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4

    def convolved(map_: torch.Tensor, linear: nn.Linear) -> torch.Tensor:
        return nn.functional.conv2d(map_, linear.weight[:, :, None, None], linear.bias)

    query = convolved(x, attention.query_proj).flatten(2)
    key, value = convolved(keys, attention.key_proj).flatten(2), convolved(keys, attention.value_proj).flatten(2)
    weights = torch.softmax(torch.einsum("bcq,bck->bqk", query, key) / 2**0.5, dim=-1)
    found = torch.einsum("bqk,bck->bcq", weights, value).view(2, -1, 6, 4)
    torch.testing.assert_close(block(x), x + block.scale * convolved(found, attention.out_proj))
    torch.testing.assert_close(block.weights(x)[:, 0], weights)


def test_starts_as_the_identity_and_learns_its_scale_first() -> None:
    block, x = SelfAttention2d(16), torch.randn(2, 16, 3, 3)
    out = block(x)
    assert torch.equal(out, x)
    (gradient,) = torch.autograd.grad(out.square().sum(), [block.scale])
    assert gradient.any()


@pytest.mark.parametrize("key_pool", [1, 2, 3])
def test_the_plot_is_the_mean_attention_that_locations_receive(draw: Draw, key_pool: int) -> None:
    block, x = SelfAttention2d(16, key_pool=key_pool), torch.randn(2, 16, 6, 3, dtype=torch.float64)
    draw(block)
    gate = block.gate(x)
    assert gate.shape == (2, 1, 6, 3)
    if key_pool != 2:  # 2 leaves squares that are not whole
        torch.testing.assert_close(gate.mean((1, 2, 3)), torch.ones(2, dtype=torch.float64))


def test_the_scores_of_a_large_map_are_never_stored() -> None:
    """A 112 x 112 map has 157 million scores; no tensor of that size may be saved for the backward pass."""
    sizes: list[int] = []

    def note(saved: torch.Tensor) -> torch.Tensor:
        sizes.append(saved.numel())
        return saved

    block, x = SelfAttention2d(8), torch.randn(1, 8, 112, 112)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
        block(x)
    assert max(sizes) == x.numel()


def test_resets_its_own_scale_alone() -> None:
    block = SelfAttention2d(16)
    nn.init.ones_(block.scale)
    before = {name: value.clone() for name, value in block.attention.state_dict().items()}
    block.reset_parameters()
    assert block.scale.item() == 0
    torch.testing.assert_close(dict(block.attention.state_dict()), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_heads": 3}, "less than 1, with channels=16 and num_heads=3"),
        ({"num_heads": 0}, "num_heads must be a positive number, got 0"),
        ({"key_pool": 0}, "key_pool must be a positive number, got 0"),
        ({"head_dim": 0}, "head_dim"),
    ],
)
def test_refuses_sizes_that_do_not_fit(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelfAttention2d(16, **arguments)
