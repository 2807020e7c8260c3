from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export

from attention_blocks import (
    ALiBi,
    Cache,
    MaskedSelfAttention,
    Memory,
    Past,
    RelativePositionBias,
    RotaryPosition,
    causal_mask,
    padding_mask,
    window_mask,
)
from tests.marks import slow_except

CONFIGURATIONS = {
    "plain": partial(MaskedSelfAttention, num_heads=4),
    "window": partial(MaskedSelfAttention, num_heads=4, window=3),
    "grouped": partial(MaskedSelfAttention, num_heads=4, num_kv_heads=2),
    "multi-query": partial(MaskedSelfAttention, num_heads=4, num_kv_heads=1, bias=False),
    "norm": partial(MaskedSelfAttention, num_heads=4, norm=nn.LayerNorm),
    "rotary": partial(MaskedSelfAttention, num_heads=4, rotary=RotaryPosition),
    "alibi": partial(MaskedSelfAttention, num_heads=4, score_bias=ALiBi),
    "relative": partial(MaskedSelfAttention, num_heads=4, score_bias=RelativePositionBias),
    "window of one": partial(MaskedSelfAttention, num_heads=4, window=1),
    "window rotary": partial(MaskedSelfAttention, num_heads=4, window=3, rotary=RotaryPosition),
    "window alibi": partial(MaskedSelfAttention, num_heads=4, window=2, score_bias=ALiBi),
    "window relative": partial(MaskedSelfAttention, num_heads=4, window=3, score_bias=RelativePositionBias),
    "window grouped": partial(MaskedSelfAttention, num_heads=4, num_kv_heads=1, window=4),
    "everything": partial(
        MaskedSelfAttention,
        num_heads=4,
        num_kv_heads=2,
        head_dim=6,
        norm=nn.LayerNorm,
        rotary=RotaryPosition,
        score_bias=ALiBi,
        window=4,
    ),
}
every_configuration = pytest.mark.parametrize("name", CONFIGURATIONS)
both_paths = pytest.mark.parametrize("need_weights", [False, True], ids=["fused", "explicit"])


def _build(name: str) -> MaskedSelfAttention:
    block = CONFIGURATIONS[name](16).double().eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_(std=0.5)
    return block


@both_paths
def test_equals_torch(need_weights: bool) -> None:
    block = _build("plain")
    theirs = nn.MultiheadAttention(16, 4, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        linears = (block.query_proj, block.key_proj, block.value_proj)
        theirs.in_proj_weight.copy_(torch.cat([linear.weight for linear in linears]))
        theirs.in_proj_bias.copy_(torch.cat([linear.bias for linear in linears]))
    theirs.out_proj.load_state_dict(block.out_proj.state_dict())
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    ahead = torch.ones(5, 5, dtype=torch.bool).triu(1)
    context, weights = theirs(
        x, x, x, attn_mask=ahead, is_causal=True, need_weights=need_weights, average_attn_weights=False
    )
    found = block(x, need_weights=need_weights)
    torch.testing.assert_close(found.context, context)
    if need_weights:
        torch.testing.assert_close(found.weights, weights)


@both_paths
@every_configuration
def test_later_positions_have_no_influence(name: str, need_weights: bool) -> None:
    block, x = _build(name), torch.randn(2, 6, 16, dtype=torch.float64)
    wanted = block(x, need_weights=need_weights).context
    changed = x.clone()
    changed[:, 4] = 9.0
    found = block(changed, need_weights=need_weights).context
    torch.testing.assert_close(found[:, :4], wanted[:, :4])
    assert not torch.allclose(found[:, 4:], wanted[:, 4:])


@both_paths
@pytest.mark.parametrize("window", [1, 2, 4])
def test_a_window_covers_its_number_of_positions(window: int, need_weights: bool) -> None:
    block = MaskedSelfAttention(16, num_heads=4, window=window).double()
    x = torch.randn(1, 6, 16, dtype=torch.float64, requires_grad=True)
    context = block(x, need_weights=need_weights).context
    for t in range(6):
        (gradient,) = torch.autograd.grad(context[0, t].sum(), x, retain_graph=True)
        assert gradient[0].any(-1).nonzero().flatten().tolist() == list(range(max(0, t - window + 1), t + 1))


def _stored(past: Past) -> list[int]:
    """Number of positions whose keys and values are in memory."""
    positions = [part.new_empty(*part.shape[:-2], 1, part.size(-1)).nbytes for part in past.memory]
    return [part.untyped_storage().nbytes() // size for part, size in zip(past.memory, positions, strict=True)]


def _decode(
    block: MaskedSelfAttention, x: Tensor, chunks: tuple[int, ...], mask: Tensor | None, need_weights: bool
) -> tuple[Tensor, list[Tensor]]:
    """Contexts of all steps; maps of all steps, over all positions up to each."""
    past: Past | None = None
    contexts, maps, done = [], [], 0
    for chunk in torch.split(x, list(chunks), dim=1):
        seen = done + chunk.size(1)
        rows = None if mask is None else mask.expand(*mask.shape[:-2], x.size(1), -1)[..., done:seen, :seen]
        (context, weights), past = block.step(chunk, past, rows, need_weights=need_weights)
        contexts.append(context)
        maps.extend([] if weights is None else [nn.functional.pad(weights, (seen - weights.size(-1), 0))])
        done = seen
        assert past.position == done
        kept = done if block.window is None else min(done, block.window - 1)
        assert past.key.size(-2) == past.value.size(-2) == kept
        assert max(_stored(past)) == kept
    assert past is not None
    whole = block.project(x)
    first = x.size(1) - past.key.size(-2)
    torch.testing.assert_close(past.memory, Memory(whole.key[..., first:, :], whole.value[..., first:, :]))
    return torch.cat(contexts, dim=1), maps


@both_paths
@pytest.mark.parametrize("chunks", [(1,) * 9, (3, 1, 2, 3), (1, 4, 1, 1, 2), (9,), (1, 8), (6, 3)], ids=str)
@pytest.mark.parametrize("masked", [None, "padding", "left", "holes", "heads"])
@every_configuration
def test_step_by_step_equals_at_once(
    name: str, chunks: tuple[int, ...], masked: str | None, need_weights: bool
) -> None:
    """Beyond every window; masks are given for all positions, those that the past no longer holds too."""
    block, x = _build(name), torch.randn(3, 9, 16, dtype=torch.float64)
    mask = {
        "padding": padding_mask(torch.tensor([9, 3, 0])),
        "left": ~padding_mask(torch.tensor([0, 2, 7]), 9),
        "holes": torch.rand(3, 9, 9) > 0.4,
        "heads": torch.rand(3, 4, 9, 9) > 0.4,
    }.get(masked or "")
    wanted = block(x, mask=mask, need_weights=True)
    context, maps = _decode(block, x, chunks, mask, need_weights)
    torch.testing.assert_close(context, wanted.context)
    for weights, row in zip(maps, wanted.weights.split(chunks, dim=2), strict=False):
        torch.testing.assert_close(weights, row[..., : weights.size(-1)])
        assert not row[..., weights.size(-1) :].any()
    assert len(maps) == (len(chunks) if need_weights else 0)


@every_configuration
def test_steps_far_beyond_a_window_equal_the_whole(name: str) -> None:
    block, x = _build(name), torch.randn(2, 70, 16, dtype=torch.float64)
    with torch.no_grad():
        context, _ = _decode(block, x, (1,) * 70, None, need_weights=False)
        torch.testing.assert_close(context, block(x).context)


@pytest.mark.parametrize("name", ["window", "window rotary", "window alibi", "window relative", "everything"])
@pytest.mark.parametrize("columns", ["all", "held"])
def test_a_mask_of_a_step_covers_all_positions_or_those_in_the_past(name: str, columns: str) -> None:
    block, x = _build(name), torch.randn(2, 9, 16, dtype=torch.float64)
    _, past = block.step(x[:, :7])
    assert block.window is not None
    mask = torch.rand(2, 2, 9) > 0.3
    rows = torch.cat([torch.ones(2, 7, 9, dtype=torch.bool), mask], dim=1)
    wanted = block(x, mask=rows).context[:, 7:]
    held = block.window - 1 + 2
    (context, _), _ = block.step(x[:, 7:], past, mask if columns == "all" else mask[..., -held:])
    torch.testing.assert_close(context, wanted)
    for length in (held - 1, held + 1, 10):
        with pytest.raises(ValueError, match=r"does not broadcast to \(B, T_q, T_k\)"):
            block.step(x[:, 7:], past, torch.ones(2, 2, length, dtype=torch.bool))


def test_gradients_of_windowed_steps_equal_the_whole() -> None:
    block, x = _build("everything"), torch.randn(2, 9, 16, dtype=torch.float64, requires_grad=True)
    leaves = [x, *block.parameters()]
    found = torch.autograd.grad(_decode(block, x, (2,) * 4 + (1,), None, False)[0].square().sum(), leaves)
    wanted = torch.autograd.grad(block(x).context.square().sum(), leaves)
    torch.testing.assert_close(found, wanted)


def test_steps_are_calls_of_the_module() -> None:
    block, seen = _build("window"), []
    block.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    past: Past | None = None
    for _ in range(3):
        _, past = block.step(torch.randn(2, 1, 16, dtype=torch.float64), past)
    assert seen == [(2, 1, 16)] * 3


@pytest.mark.parametrize("need_weights", [False, True], ids=["fused", "explicit"])
@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("num_kv_heads", [4, 2])
def test_a_mask_for_each_head_restricts_the_causal_one(
    window: int | None, num_kv_heads: int, need_weights: bool
) -> None:
    block = MaskedSelfAttention(16, num_heads=4, num_kv_heads=num_kv_heads, window=window).double()
    nn.init.ones_(block.out_proj.bias)
    x, mask = torch.randn(2, 5, 16, dtype=torch.float64), torch.rand(2, 4, 5, 5) > 0.4
    mask[0, 1, 2], mask[1, :, 3] = False, False
    q, k, v = (
        linear(x).view(2, 5, -1, 4).transpose(1, 2) for linear in (block.query_proj, block.key_proj, block.value_proj)
    )
    k, v = (part.repeat_interleave(4 // num_kv_heads, dim=1) for part in (k, v))
    allowed = mask & causal_mask(5) & window_mask(5, before=None if window is None else window - 1)
    exp = (q @ k.mT / 2).exp() * allowed
    weights = exp / exp.sum(-1, keepdim=True).clamp(min=1e-300)
    context = block.out_proj((weights @ v).transpose(1, 2).flatten(2)) * allowed.any(3).any(1).unsqueeze(-1)
    found = block(x, mask=mask, need_weights=need_weights)
    torch.testing.assert_close(found.context, context)
    assert not found.context[1, 3].any()
    if need_weights:
        torch.testing.assert_close(found.weights, weights)
        assert not found.weights[0, 1, 2].any()


@pytest.mark.parametrize("need_weights", [False, True], ids=["fused", "explicit"])
@pytest.mark.parametrize("name", ["window", "window rotary", "window alibi"])
def test_a_window_over_fewer_keys_than_queries(name: str, need_weights: bool) -> None:
    """Without a past, the first key is at position 0 whatever the lengths; the window counts from there."""
    block = _build(name)
    assert block.window is not None
    query, key = torch.randn(2, 5, 16, dtype=torch.float64), torch.randn(2, 2, 16, dtype=torch.float64)
    mask = window_mask(5, 2, before=block.window - 1, after=0)
    window, block.window = block.window, None
    wanted = block(query, key, mask=mask, need_weights=need_weights)
    block.window = window
    torch.testing.assert_close(block(query, key, need_weights=need_weights), wanted)


def test_fewer_key_heads_make_a_smaller_cache() -> None:
    _, full = _build("plain").step(torch.randn(2, 3, 16, dtype=torch.float64))
    _, small = _build("multi-query").step(torch.randn(2, 3, 16, dtype=torch.float64))
    assert full.key.numel() == 4 * small.key.numel()


def test_kept_is_the_end_of_a_memory() -> None:
    block = _build("window")
    memory = block.project(torch.randn(2, 5, 16, dtype=torch.float64))
    kept = block.kept(memory)
    assert torch.equal(kept.key, memory.key[..., -2:, :])
    assert torch.equal(kept.value, memory.value[..., -2:, :])
    assert block.kept(kept) is kept
    assert _build("plain").kept(memory) is memory


@pytest.mark.parametrize(
    "name", slow_except("everything", {name: name for name in ("plain", "window rotary", "everything")})
)
def test_a_cache_of_any_length_exports(name: str) -> None:
    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = _build(name)

        def forward(self, token: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            (context, _), past = self.block.step(token, Past(key, value, key.size(-2)))
            return context, past.key, past.value

    def arguments(batch: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
        past = step.block.project(torch.randn(batch, length, 16, dtype=torch.float64))
        return torch.randn(batch, 1, 16, dtype=torch.float64), past.key, past.value

    step = Step()
    open_cache = {0: Dim("batch", max=64), 2: Dim("length", min=4, max=512)}
    shapes = ({0: open_cache[0]}, open_cache, open_cache)
    program = export(step, arguments(2, 6), dynamic_shapes=shapes).module()
    for sizes in ((3, 9), (2, 4)):
        given = arguments(*sizes)
        torch.testing.assert_close(program(*given), step(*given))


@pytest.mark.parametrize("window", [0, -3])
def test_refuses_an_empty_window(window: int) -> None:
    with pytest.raises(ValueError, match=rf"window counts positions.*1 or more, got {window}"):
        MaskedSelfAttention(16, window=window)


def test_a_mask_for_a_step_covers_the_cache() -> None:
    block = _build("plain")
    _, cache = block.step(torch.randn(2, 3, 16, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"does not broadcast to \(B, T_q, T_k\) = \(2, 1, 4\)"):
        block.step(torch.randn(2, 1, 16, dtype=torch.float64), cache, torch.ones(2, 1, 3, dtype=torch.bool))


@pytest.mark.parametrize(
    "arguments",
    [{}, {"rotary": RotaryPosition}, {"num_kv_heads": 2}, {"rotary": RotaryPosition, "num_kv_heads": 1}],
    ids=str,
)
def test_hypotheses_of_a_beam_in_one_cache_equal_separate_sequences(arguments: dict[str, Any]) -> None:
    """Over several steps in which hypotheses are dropped and duplicated, as in a beam search."""
    block = MaskedSelfAttention(16, num_heads=4, **arguments).double().eval()
    batch, beams = 2, 3
    x = torch.randn(6, batch, beams, 16, dtype=torch.float64)
    origins = torch.randint(beams, (6, batch, beams))
    past: Past | None = None
    cache: Cache | None = None
    ancestry = torch.zeros(batch, beams, 0, dtype=torch.bool)
    for position, (tokens, origin) in enumerate(zip(x, origins, strict=True)):
        alone, past = block.step(tokens.reshape(-1, 1, 16), past, need_weights=True)
        ancestry = torch.cat([ancestry, torch.eye(beams, dtype=torch.bool).expand(batch, -1, -1)], dim=2)
        together, cache = block.step_beams(tokens, cache, ancestry, offset=position)
        torch.testing.assert_close(together.context, alone.context.view(batch, beams, 16))
        explicit = block._attend(
            tokens, cache.memory, ancestry, causal=False, need_weights=True, offset=position, same_position=True
        )
        assert explicit.weights is not None
        assert alone.weights is not None
        own = explicit.weights.transpose(1, 2)[ancestry[:, :, None].expand(-1, -1, 4, -1)].view(alone.weights.shape)
        torch.testing.assert_close(own, alone.weights)
        rows = (torch.arange(batch)[:, None] * beams + origin).flatten()
        past = past._replace(key=past.key[rows], value=past.value[rows])
        ancestry = ancestry.flatten(0, 1)[rows].view(batch, beams, -1)


@pytest.mark.parametrize("arguments", [{"window": 2}, {"score_bias": ALiBi}], ids=str)
def test_a_window_or_bias_refuses_a_cache_of_several_pasts(arguments: dict[str, Any]) -> None:
    block = MaskedSelfAttention(16, num_heads=4, **arguments)
    assert not block.shares_past
    with pytest.raises(ValueError, match=r"window or score_bias depends on key positions; .* step\(\)"):
        block.step_beams(torch.randn(1, 2, 16), None, torch.ones(1, 2, 2, dtype=torch.bool), offset=0)
