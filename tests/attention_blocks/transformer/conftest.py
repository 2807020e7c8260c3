from collections.abc import Callable

import pytest
import torch
from torch import nn

from attention_blocks import MultiHeadAttention

CopyAttention = Callable[[nn.MultiheadAttention, MultiHeadAttention], None]


@pytest.fixture
def copy_attention() -> CopyAttention:
    """Copies the weights of torch's attention, which has one tensor for three projections."""

    def copy(theirs: nn.MultiheadAttention, ours: MultiHeadAttention) -> None:
        with torch.no_grad():
            maps = (ours.query_proj, ours.key_proj, ours.value_proj)
            for linear, weight, bias in zip(
                maps, theirs.in_proj_weight.chunk(3), theirs.in_proj_bias.chunk(3), strict=True
            ):
                linear.weight.copy_(weight)
                linear.bias.copy_(bias)
        ours.out_proj.load_state_dict(theirs.out_proj.state_dict())

    return copy
