from __future__ import annotations

import copy

import pytest
import torch
from timm.layers import SEModule
from timm.layers.cbam import CbamModule
from torch import Tensor

from attention_blocks import CBAM, SimAM, SqueezeExcite, load_weights


@pytest.fixture
def state() -> dict[str, Tensor]:
    return SEModule(128).state_dict()


def test_authors_layout_of_squeeze_excite(state: dict[str, Tensor]) -> None:
    """As in the port of the authors' weights: two linear layers in a sequence with their activations."""
    names = {"fc1": "fc.0", "fc2": "fc.2"}
    ported = {names[key[:3]] + key[3:]: value.flatten(1) if value.ndim == 4 else value for key, value in state.items()}
    one, other, x = SqueezeExcite(128), SqueezeExcite(128), torch.randn(2, 128, 3, 3)
    load_weights(one, state, "timm")
    load_weights(other, ported, "authors")
    assert torch.equal(one(x), other(x))


def test_the_counter_of_batches_may_be_missing() -> None:
    theirs, ours, x = CbamModule(32).eval(), CBAM(32, bias=False).eval(), torch.randn(2, 32, 5, 5)
    state = theirs.state_dict()
    del state["spatial.conv.bn.num_batches_tracked"]
    load_weights(ours, state, "timm")
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.pop("fc1.bias"),
            r"SqueezeExcite needs 'fc1.bias' of the 'timm' weights, which have \['fc1.weight'",
        ),
        (lambda s: s.update(bn=torch.zeros(8)), r"SqueezeExcite has no counterpart of \['bn'\] in the 'timm' weights"),
        (
            lambda s: s.update({"fc2.bias": torch.zeros(64)}),
            r"'fc2.bias' of the 'timm' weights has shape \(64,\), 'up_proj.bias' here \(128,\); build both",
        ),
    ],
)
def test_refuses_weights_that_do_not_fit_and_loads_nothing(state: dict[str, Tensor], change, message: str) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    block = SqueezeExcite(128)
    before = copy.deepcopy(block.state_dict())
    state = dict(state)
    change(state)
    with pytest.raises(ValueError, match=message):
        load_weights(block, state, "timm")
    torch.testing.assert_close(block.state_dict(), before, rtol=0, atol=0)


def test_refuses_a_transposed_matrix(state: dict[str, Tensor]) -> None:
    """It has as many numbers, and would be read without a word."""
    turned = {**state, "fc1.weight": state["fc1.weight"].transpose(0, 1)}
    with pytest.raises(
        ValueError, match=r"'fc1.weight' .* has shape \(128, 8, 1, 1\), 'down_proj.weight' here \(8, 128\)"
    ):
        load_weights(SqueezeExcite(128), turned, "timm")


def test_refuses_a_block_without_a_counterpart() -> None:
    with pytest.raises(ValueError, match=r"SimAM has layouts \[\], got 'timm'"):
        load_weights(SimAM(3), {}, "timm")
