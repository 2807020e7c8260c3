import torch
from torch import nn

from attention_blocks import CrossAttention, MultiHeadAttention, padding_mask


def test_equals_torch() -> None:
    block = CrossAttention(16, 12, num_heads=4).double()
    theirs = nn.MultiheadAttention(16, 4, kdim=12, vdim=12, bias=False, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        for ours, weight in (
            (block.query_proj, theirs.q_proj_weight),
            (block.key_proj, theirs.k_proj_weight),
            (block.value_proj, theirs.v_proj_weight),
            (block.out_proj, theirs.out_proj.weight),
        ):
            ours.weight.copy_(weight)
    query, key = torch.randn(2, 3, 16, dtype=torch.float64), torch.randn(2, 5, 12, dtype=torch.float64)
    mask = padding_mask(torch.tensor([5, 2]))
    context, weights = theirs(query, key, key, key_padding_mask=~mask.squeeze(1), average_attn_weights=False)
    found = block(query, key, mask=mask, need_weights=True)
    torch.testing.assert_close(found.context, context)
    torch.testing.assert_close(found.weights, weights)


def test_one_projection_is_used_in_every_step() -> None:
    block = CrossAttention(16, 12, num_heads=4)
    query, key, mask = torch.randn(2, 3, 16), torch.randn(2, 5, 12), padding_mask(torch.tensor([5, 2]))
    memory = block.project(key)
    steps = [block.attend(token, memory, mask).context for token in query.chunk(3, dim=1)]
    torch.testing.assert_close(torch.cat(steps, dim=1), block(query, key, mask=mask).context)


def test_several_queries_of_a_row_share_its_memory() -> None:
    block = CrossAttention(16, 12, num_heads=4)
    beams, key = torch.randn(2, 3, 16), torch.randn(2, 5, 12)
    copied = block(beams.flatten(0, 1)[:, None], key.repeat_interleave(3, dim=0)).context
    torch.testing.assert_close(block(beams, key).context, copied.view(2, 3, 16))


def test_weights_load_into_the_base_class_and_back() -> None:
    block, base = CrossAttention(16, 12, num_heads=4), MultiHeadAttention(16, 12, num_heads=4)
    base.load_state_dict(block.state_dict())
    query, key = torch.randn(2, 3, 16), torch.randn(2, 5, 12)
    torch.testing.assert_close(base(query, key), block(query, key))
