import pytest
import torch
from torch import nn

from attention_blocks import SelfAttention, padding_mask


@pytest.mark.parametrize("need_weights", [False, True])
def test_equals_torch(need_weights: bool) -> None:
    block = SelfAttention(16, num_heads=4).double()
    theirs = nn.MultiheadAttention(16, 4, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_()
        linears = (block.query_proj, block.key_proj, block.value_proj)
        theirs.in_proj_weight.copy_(torch.cat([linear.weight for linear in linears]))
        theirs.in_proj_bias.copy_(torch.cat([linear.bias for linear in linears]))
    theirs.out_proj.load_state_dict(block.out_proj.state_dict())
    x, mask = torch.randn(2, 5, 16, dtype=torch.float64), padding_mask(torch.tensor([5, 3]))
    context, weights = theirs(x, x, x, key_padding_mask=~mask.squeeze(1), average_attn_weights=False)
    found = block(x, mask=mask, need_weights=need_weights)
    torch.testing.assert_close(found.context, context)
    if need_weights:
        torch.testing.assert_close(found.weights, weights)


def test_without_keys_the_queries_are_the_keys() -> None:
    block, x = SelfAttention(16, num_heads=4), torch.randn(2, 5, 16)
    torch.testing.assert_close(block(x, need_weights=True), block(x, x, x, need_weights=True))


def test_accepts_keys_and_values() -> None:
    block = SelfAttention(16, num_heads=4, value_dim=6)
    x, key, value = torch.randn(2, 5, 16), torch.randn(2, 3, 16), torch.randn(2, 3, 6)
    memory = block.project(key, value)
    torch.testing.assert_close(block(x, key, value), block.attend(x, memory))


def test_refuses_keys_of_another_size() -> None:
    with pytest.raises(ValueError, match=r"key must have shape \(B, T_k, 8\), got \(2, 5, 16\)"):
        SelfAttention(16, 8, num_heads=4)(torch.randn(2, 5, 16))
