from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from attention_blocks import (
    AdditiveAttention,
    ALiBi,
    Attention,
    Cache,
    CrossAttention,
    DecoderLayer,
    DecoderLayerState,
    DotProductAttention,
    FeedForward,
    LearnedPosition,
    LuongAttention,
    MaskedSelfAttention,
    Memory,
    MultiHeadAttention,
    Past,
    RelativePositionBias,
    RMSNorm,
    RotaryPosition,
    SelfAttention,
    SinusoidalPosition,
    SwiGLU,
    TransformerDecoder,
    causal_mask,
    padding_mask,
)
from tests.user_blocks import NearbyAttention

CopyAttention = Callable[[nn.MultiheadAttention, MultiHeadAttention], None]
MakeAttention = Callable[[int, int], Attention]
SELF = partial(MaskedSelfAttention, num_heads=4)
CROSS = partial(CrossAttention, num_heads=4)
HEADS = partial(DecoderLayer, self_attention=SELF, cross_attention=CROSS)


def copy_layer(theirs: nn.TransformerDecoderLayer, ours: DecoderLayer, copy_attention: CopyAttention) -> None:
    assert isinstance(ours.self_attention, MultiHeadAttention)
    assert isinstance(ours.cross_attention, MultiHeadAttention)
    assert isinstance(ours.feed_forward, FeedForward)
    copy_attention(theirs.self_attn, ours.self_attention)
    copy_attention(theirs.multihead_attn, ours.cross_attention)
    ours.self_attention_norm.load_state_dict(theirs.norm1.state_dict())
    ours.cross_attention_norm.load_state_dict(theirs.norm2.state_dict())
    ours.feed_forward_norm.load_state_dict(theirs.norm3.state_dict())
    ours.feed_forward.up_proj.load_state_dict(theirs.linear1.state_dict())
    ours.feed_forward.down_proj.load_state_dict(theirs.linear2.state_dict())


def shake(module: nn.Module) -> None:
    """Perturbs all parameters, since ones and zeros would hide a missing or swapped part."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)


def selected(state: DecoderLayerState, rows: Tensor) -> DecoderLayerState:
    assert state.past is not None
    past = state.past._replace(key=state.past.key[rows], value=state.past.value[rows])
    return DecoderLayerState(past, Memory(state.memory.key[rows], state.memory.value[rows]))


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm_first", [True, False], ids=["pre", "post"])
def test_layer_equals_torch(copy_attention: CopyAttention, norm_first: bool, activation: str, padded: bool) -> None:
    theirs = nn.TransformerDecoderLayer(
        16, 4, 40, dropout=0.0, activation=activation, batch_first=True, norm_first=norm_first, dtype=torch.float64
    )
    shake(theirs)
    feed_forward = partial(FeedForward, hidden_dim=40, activation=nn.ReLU if activation == "relu" else nn.GELU)
    ours = HEADS(16, feed_forward=feed_forward, norm_first=norm_first).double()
    copy_layer(theirs, ours, copy_attention)
    x, memory = torch.randn(3, 4, 16, dtype=torch.float64), torch.randn(3, 6, 16, dtype=torch.float64)
    mask = padding_mask(torch.tensor([4, 2, 3])) if padded else None
    memory_mask = padding_mask(torch.tensor([1, 6, 5])) if padded else None
    wanted = theirs(
        x,
        memory,
        tgt_mask=~causal_mask(4),
        tgt_key_padding_mask=None if mask is None else ~mask[:, 0],
        memory_key_padding_mask=None if memory_mask is None else ~memory_mask[:, 0],
    )
    torch.testing.assert_close(ours(x, memory, mask, memory_mask).hidden, wanted)
    hidden, self_weights, cross_weights = ours(x, memory, mask, memory_mask, need_weights=True)
    torch.testing.assert_close(hidden, wanted)
    assert self_weights.shape == (3, 4, 4, 4)
    assert cross_weights.shape == (3, 4, 4, 6)
    assert (self_weights.triu(1) == 0).all()


@pytest.mark.parametrize("norm_first", [True, False], ids=["pre", "post"])
def test_stack_equals_torch(copy_attention: CopyAttention, norm_first: bool) -> None:
    layer = nn.TransformerDecoderLayer(16, 4, 64, dropout=0.0, batch_first=True, norm_first=norm_first)
    theirs = nn.TransformerDecoder(layer, 3, norm=nn.LayerNorm(16) if norm_first else None).double()
    shake(theirs)
    our_layer = partial(HEADS, feed_forward=partial(FeedForward, activation=nn.ReLU), norm_first=norm_first)
    ours = TransformerDecoder(16, 3, layer=our_layer, norm=nn.LayerNorm if norm_first else None).double()
    for their_layer, own in zip(theirs.layers, ours.layers, strict=True):
        assert isinstance(their_layer, nn.TransformerDecoderLayer)
        assert isinstance(own, DecoderLayer)
        copy_layer(their_layer, own, copy_attention)
    if theirs.norm is not None and ours.norm is not None:
        ours.norm.load_state_dict(theirs.norm.state_dict())
    x, memory = torch.randn(2, 4, 16, dtype=torch.float64), torch.randn(2, 6, 16, dtype=torch.float64)
    memory_mask = padding_mask(torch.tensor([6, 2]))
    wanted = theirs(x, memory, tgt_mask=~causal_mask(4), memory_key_padding_mask=~memory_mask[:, 0])
    torch.testing.assert_close(ours(x, memory, memory_mask=memory_mask).hidden, wanted)
    hidden, self_weights, cross_weights = ours(x, memory, memory_mask=memory_mask, need_weights=True)
    torch.testing.assert_close(hidden, wanted)
    assert len(self_weights) == len(cross_weights) == 3


@pytest.mark.parametrize(
    "self_attention",
    [
        SELF,
        partial(SELF, window=2),
        partial(SELF, window=1),
        partial(SELF, window=3, num_kv_heads=2, rotary=RotaryPosition),
        partial(SELF, window=2, score_bias=ALiBi),
        partial(SELF, window=3, score_bias=RelativePositionBias),
        partial(SELF, num_kv_heads=2, rotary=RotaryPosition, norm=RMSNorm),
        partial(SELF, score_bias=ALiBi),
        partial(SELF, score_bias=partial(RelativePositionBias, num_buckets=4, max_distance=5, bidirectional=False)),
        SelfAttention,
        partial(MultiHeadAttention, num_heads=2, rotary=RotaryPosition),
        AdditiveAttention,
        DotProductAttention,
        partial(LuongAttention, window="local-m", radius=2),
        partial(LuongAttention, window="local-p", radius=2),
    ],
)
@pytest.mark.parametrize("norm_first", [True, False], ids=["pre", "post"])
@pytest.mark.parametrize("pieces", [[1, 1, 1, 1, 1, 1], [3, 1, 2]], ids=["single", "several"])
def test_steps_equal_the_whole(self_attention: MakeAttention, norm_first: bool, pieces: list[int]) -> None:
    layer = DecoderLayer(8, 12, self_attention=self_attention, norm_first=norm_first).double()
    shake(layer)
    x, memory = torch.randn(3, 6, 8, dtype=torch.float64), torch.randn(3, 5, 12, dtype=torch.float64)
    # The first sequence starts with padding, like prompts of different lengths.
    mask = padding_mask(torch.tensor([6, 6, 6]))
    mask[0, :, :2] = False
    memory_mask = padding_mask(torch.tensor([2, 5, 4]))
    whole = layer(x, memory, mask, memory_mask, need_weights=True)
    state, done = layer.start(memory), 0
    for length in pieces:
        end = done + length
        for need_weights in (True, False):
            output, after = layer.step(x[:, done:end], state, mask[..., :end], memory_mask, need_weights=need_weights)
            torch.testing.assert_close(output.hidden, whole.hidden[:, done:end])
            if need_weights:
                assert output.self_weights is not None
                # A windowed map has the columns of the positions in the past and of the new ones.
                first = end - output.self_weights.size(-1)
                torch.testing.assert_close(output.self_weights, whole.self_weights[..., done:end, first:end])
                assert not whole.self_weights[..., done:end, :first].any()
                torch.testing.assert_close(output.cross_weights, whole.cross_weights[..., done:end, :])
        state, done = after, end
        window = getattr(layer.self_attention, "window", None)
        kept = min(end, window - 1) if isinstance(window, int) else end
        assert isinstance(state.past, Past)
        assert state.past.position == end
        assert state.past.key.size(-2) == state.past.value.size(-2) == kept


@pytest.mark.parametrize(
    "arguments",
    [{}, {"rotary": RotaryPosition, "num_kv_heads": 2}, {"score_bias": ALiBi}, {"score_bias": RelativePositionBias}],
    ids=str,
)
@pytest.mark.parametrize("window", [1, 3])
def test_windowed_steps_hold_no_more_than_the_window(window: int, arguments: dict[str, Any]) -> None:
    layer = DecoderLayer(8, self_attention=partial(SELF, window=window, **arguments)).double().eval()
    shake(layer)
    x, memory = torch.randn(2, 40, 8, dtype=torch.float64), torch.randn(2, 5, 8, dtype=torch.float64)
    mask = torch.rand(2, 40, 40) > 0.2
    whole, state = layer(x, memory, mask).hidden, layer.start(memory)
    with torch.no_grad():
        for t in range(40):
            output, state = layer.step(x[:, t : t + 1], state, mask[:, t : t + 1, : t + 1])
            torch.testing.assert_close(output.hidden[:, 0], whole[:, t])
            assert state.past is not None
            for part in state.past.memory:
                position = part.new_empty(2, part.size(1), 1, part.size(3)).nbytes
                assert part.size(-2) == min(t + 1, window - 1)
                assert part.untyped_storage().nbytes() <= max(window - 1, 0) * position


@pytest.mark.parametrize(
    "cross_attention",
    [partial(CROSS, rotary=RotaryPosition), partial(LuongAttention, window="local-m", radius=2)],
    ids=["rotary", "luong"],
)
def test_positions_of_the_cross_attention_continue_in_steps(cross_attention: MakeAttention) -> None:
    layer = DecoderLayer(8, cross_attention=cross_attention).double()
    x, memory = torch.randn(2, 6, 8, dtype=torch.float64), torch.randn(2, 9, 8, dtype=torch.float64)
    state, steps = layer.start(memory), []
    for token in x.chunk(3, dim=1):
        output, state = layer.step(token, state)
        steps.append(output.hidden)
    torch.testing.assert_close(torch.cat(steps, dim=1), layer(x, memory).hidden)


@pytest.mark.parametrize("self_attention", [SELF, SelfAttention, AdditiveAttention, LuongAttention])
def test_no_position_sees_what_comes_after_it(self_attention: MakeAttention) -> None:
    decoder = TransformerDecoder(8, 2, layer=partial(DecoderLayer, self_attention=self_attention)).double()
    x, memory = torch.randn(2, 5, 8, dtype=torch.float64), torch.randn(2, 3, 8, dtype=torch.float64)
    changed = x.clone()
    changed[:, 3:] = torch.randn(2, 2, 8, dtype=torch.float64)
    before, after = decoder(x, memory).hidden, decoder(changed, memory).hidden
    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert not torch.isclose(before[:, 3:], after[:, 3:]).any()


@pytest.mark.parametrize("position", [SinusoidalPosition(8), LearnedPosition(8, max_length=6)])
@pytest.mark.parametrize("self_attention", [SELF, partial(SELF, rotary=partial(RotaryPosition, base=10.0))])
def test_stack_with_positions_steps_as_the_whole(position: nn.Module, self_attention: MakeAttention) -> None:
    position = position.double()
    decoder = TransformerDecoder(8, 3, layer=partial(DecoderLayer, self_attention=self_attention)).double()
    x, memory = torch.randn(2, 6, 8, dtype=torch.float64), torch.randn(2, 5, 8, dtype=torch.float64)
    memory_mask = padding_mask(torch.tensor([2, 5]))
    hidden, self_weights, cross_weights = decoder(position(x), memory, memory_mask=memory_mask, need_weights=True)
    state = decoder.start(memory)
    for t in range(6):
        token = position(x[:, t : t + 1], offset=t)
        output, state = decoder.step(token, state, memory_mask=memory_mask, need_weights=True)
        torch.testing.assert_close(output.hidden[:, 0], hidden[:, t])
        assert output.self_weights is not None
        assert output.cross_weights is not None
        for layer in range(3):
            wanted = self_weights[layer][..., t, : t + 1]
            torch.testing.assert_close(output.self_weights[layer][..., 0, :], wanted)
            torch.testing.assert_close(output.cross_weights[layer][..., 0, :], cross_weights[layer][..., t, :])


def test_rows_of_the_state_can_be_selected() -> None:
    decoder = TransformerDecoder(8, 2).double()
    x, memory = torch.randn(3, 4, 8, dtype=torch.float64), torch.randn(3, 5, 8, dtype=torch.float64)
    start = decoder.start(memory)
    assert all(layer.past is None for layer in start)
    _, state = decoder.step(x[:, :3], start)
    rows = torch.tensor([2, 0, 2])
    chosen = tuple(selected(layer, rows) for layer in state)
    output, _ = decoder.step(x[rows, 3:], chosen)
    torch.testing.assert_close(output.hidden, decoder(x[rows], memory[rows]).hidden[:, 3:])


def test_stepping_projects_the_memory_once_and_keeps_no_state() -> None:
    decoder = TransformerDecoder(8, 2).eval()
    memory = torch.randn(2, 5, 8)
    stored = {name: value.clone() for name, value in decoder.state_dict().items()}
    calls: list[int] = []
    for layer in decoder.layers:
        assert isinstance(layer, DecoderLayer)
        assert isinstance(layer.cross_attention, MultiHeadAttention)
        layer.cross_attention.key_proj.register_forward_hook(lambda *arguments: calls.append(1))
    state = decoder.start(memory)
    token = torch.randn(2, 1, 8)
    first, _ = decoder.step(token, state)
    again, _ = decoder.step(token, state)
    assert len(calls) == 2
    assert torch.equal(first.hidden, again.hidden)
    assert all(torch.equal(value, stored[name]) for name, value in decoder.state_dict().items())


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=4),
    norm_first=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_padded_batch_equals_each_sentence_alone(lengths: list[tuple[int, int]], norm_first: bool, seed: int) -> None:
    torch.manual_seed(seed)
    decoder = TransformerDecoder(8, 2, 6, layer=partial(HEADS, norm_first=norm_first)).double()
    targets, sources = (torch.tensor(column) for column in zip(*lengths, strict=True))
    x = torch.randn(len(lengths), int(targets.max()), 8, dtype=torch.float64)
    memory = torch.randn(len(lengths), int(sources.max()), 6, dtype=torch.float64)
    together = decoder(x, memory, padding_mask(targets), padding_mask(sources)).hidden
    for row, (target, source) in enumerate(lengths):
        alone = decoder(x[row : row + 1, :target], memory[row : row + 1, :source]).hidden
        torch.testing.assert_close(together[row : row + 1, :target], alone)


def test_a_query_without_any_memory_stays_finite() -> None:
    layer = DecoderLayer(8)
    x = torch.randn(2, 3, 8, requires_grad=True)
    memory_mask = padding_mask(torch.tensor([0, 4]), max_length=4)
    for need_weights in (True, False):
        hidden = layer(x, torch.randn(2, 4, 8), None, memory_mask, need_weights=need_weights).hidden
        (gradient,) = torch.autograd.grad(hidden.sum(), x)
        assert hidden.isfinite().all()
        assert gradient.isfinite().all()


def test_drop_path_rises_linearly_and_reaches_all_branches() -> None:
    decoder = TransformerDecoder(8, 3, drop_path=0.4)
    rates = []
    for layer in decoder.layers:
        assert isinstance(layer, DecoderLayer)
        branches = (layer.self_attention_residual, layer.cross_attention_residual, layer.feed_forward_residual)
        rates.append([0.0 if branch.drop_path is None else branch.drop_path.rate for branch in branches])
    assert rates == [pytest.approx([rate] * 3) for rate in (0.0, 0.2, 0.4)]


def test_dropout_and_drop_path_work_in_training_only() -> None:
    x, memory = torch.randn(4, 3, 8), torch.randn(4, 5, 8)
    torch.manual_seed(0)
    for layer in (DecoderLayer(8, dropout=0.5), DecoderLayer(8, drop_path=0.5)):
        assert not torch.equal(layer(x, memory).hidden, layer(x, memory).hidden)
        layer.eval()
        assert torch.equal(layer(x, memory).hidden, layer(x, memory).hidden)


@pytest.mark.parametrize("norm_first", [True, False], ids=["pre", "post"])
def test_gradcheck(norm_first: bool) -> None:
    layer = DecoderLayer(
        4,
        3,
        self_attention=partial(MaskedSelfAttention, num_heads=2),
        cross_attention=partial(CrossAttention, num_heads=2),
        feed_forward=SwiGLU,
        norm_first=norm_first,
        layer_scale=0.5,
    ).double()
    x = torch.randn(2, 2, 4, dtype=torch.float64, requires_grad=True)
    memory = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    memory_mask = padding_mask(torch.tensor([3, 2]))
    assert torch.autograd.gradcheck(lambda y, m: layer(y, m, None, memory_mask).hidden, (x, memory))


@pytest.mark.slow
@pytest.mark.parametrize("self_attention", [SELF, SelfAttention])
def test_compiles(self_attention: MakeAttention) -> None:
    decoder = TransformerDecoder(8, 2, layer=partial(DecoderLayer, self_attention=self_attention), drop_path=0.2).eval()
    x, memory, memory_mask = torch.randn(2, 4, 8), torch.randn(2, 5, 8), padding_mask(torch.tensor([5, 3]))
    compiled = torch.compile(decoder, fullgraph=True, backend="eager")
    wanted = decoder(x, memory, None, memory_mask).hidden
    torch.testing.assert_close(compiled(x, memory, None, memory_mask).hidden, wanted)
    step = torch.compile(decoder.step, fullgraph=True, backend="eager")
    state = decoder.start(memory)
    for position, token in enumerate(x.chunk(4, dim=1)):
        output, state = step(token, state, None, memory_mask)
        torch.testing.assert_close(output.hidden[:, 0], wanted[:, position])


def test_exports_with_any_batch_and_lengths() -> None:
    decoder = TransformerDecoder(8, 2, layer=HEADS)
    batch, target, source = (torch.export.Dim(name, min=2, max=64) for name in ("batch", "target", "source"))
    program = torch.export.export(
        decoder,
        (torch.randn(3, 4, 8), torch.randn(3, 5, 8)),
        dynamic_shapes={"x": {0: batch, 1: target}, "memory": {0: batch, 1: source}},
    )
    x, memory = torch.randn(2, 7, 8), torch.randn(2, 3, 8)
    torch.testing.assert_close(program.module()(x, memory).hidden, decoder(x, memory).hidden)


def test_refuses_an_attention_of_another_width() -> None:
    with pytest.raises(
        ValueError, match=r"cross_attention is a AdditiveAttention whose context has 12 features.*dim=8; choose"
    ):
        DecoderLayer(8, 12, cross_attention=AdditiveAttention)
    with pytest.raises(ValueError, match=r"self_attention is a MultiHeadAttention whose context has 4 features"):
        DecoderLayer(8, self_attention=lambda query_dim, key_dim: MultiHeadAttention(4, key_dim, num_heads=1))


def test_refuses_unfit_arguments() -> None:
    with pytest.raises(ValueError, match="depth must be 1 or more, got 0"):
        TransformerDecoder(8, 0)
    layer, x, memory = DecoderLayer(8), torch.zeros(1, 5, 8), torch.zeros(1, 4, 8)
    with pytest.raises(TypeError, match="mask must be boolean"):
        layer(x, memory, None, torch.zeros(5, 4))
    for self_attention in (MaskedSelfAttention, SelfAttention):
        with pytest.raises(TypeError, match="mask must be boolean"):
            DecoderLayer(8, self_attention=self_attention)(x, memory, torch.zeros(5, 5))
    with pytest.warns(UserWarning, match="looks inverted"):
        layer(x, memory, ~causal_mask(5))
    with pytest.raises(ValueError, match=r"mask has shape \(1, 1, 3\)"):
        layer(x, memory, None, padding_mask(torch.tensor([3])))
    with pytest.raises(ValueError, match=r"x must have shape \(B, T, 8\), got \(1, 5, 4\)"):
        layer.step(x[..., :4], layer.start(memory))
    for take in (layer.start, partial(layer, x)):
        with pytest.raises(ValueError, match=r"memory must have shape \(B, T, 8\), got \(4, 8\)"):
            take(memory[0])


def test_steps_have_the_gradients_of_the_whole() -> None:
    layer = HEADS(8).double()
    x, memory = torch.randn(2, 3, 8, dtype=torch.float64), torch.randn(2, 4, 8, dtype=torch.float64)

    def gradients(hidden: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(hidden.square().sum(), list(layer.parameters()))

    state, steps = layer.start(memory), []
    for token in x.chunk(3, dim=1):
        output, state = layer.step(token, state)
        steps.append(output.hidden)
    wanted = gradients(layer(x, memory).hidden)
    for found, expected in zip(gradients(torch.cat(steps, dim=1)), wanted, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("self_attention", [SELF, partial(SELF, window=2), SelfAttention, AdditiveAttention])
@pytest.mark.parametrize("cross_attention", [CROSS, AdditiveAttention, LuongAttention])
def test_steps_call_both_attentions_as_modules(self_attention: MakeAttention, cross_attention: MakeAttention) -> None:
    layer = DecoderLayer(8, self_attention=self_attention, cross_attention=cross_attention)
    calls: list[nn.Module] = []
    for block in (layer.self_attention, layer.cross_attention):
        block.register_forward_hook(lambda module, *_: calls.append(module))
    memory = torch.randn(2, 5, 8)
    _, state = layer.step(torch.randn(2, 2, 8), layer.start(memory))
    layer.step(torch.randn(2, 1, 8), state, need_weights=True)
    assert calls == [layer.self_attention, layer.cross_attention] * 2
    calls.clear()
    layer.step_beams(torch.randn(2, 3, 8), None, state.memory, offset=0)
    assert calls.count(layer.cross_attention) == 1
    assert layer.shares_past or calls.count(layer.self_attention) == 1


def test_a_mask_for_each_head_of_both_attentions() -> None:
    layer = DecoderLayer(8, self_attention=partial(SelfAttention, num_heads=4), cross_attention=CROSS).double()
    masked = HEADS(8).double()
    masked.load_state_dict(layer.state_dict())
    x, memory = torch.randn(2, 3, 8, dtype=torch.float64), torch.randn(2, 5, 8, dtype=torch.float64)
    mask, memory_mask = torch.rand(2, 4, 3, 3) > 0.3, torch.rand(2, 4, 3, 5) > 0.3
    wanted = masked(x, memory, mask, memory_mask, need_weights=True)
    torch.testing.assert_close(layer(x, memory, mask, memory_mask, need_weights=True), wanted)
    assert not wanted.self_weights.masked_select(~(mask & causal_mask(3))).any()
    assert not wanted.cross_weights.masked_select(~memory_mask).any()
    for each in (layer, masked):
        state = each.start(memory)
        for t in range(3):
            rows = mask[:, :, t : t + 1, : t + 1], memory_mask[:, :, t : t + 1]
            output, state = each.step(x[:, t : t + 1], state, *rows)
            torch.testing.assert_close(output.hidden[:, 0], wanted.hidden[:, t])
    with pytest.raises(ValueError, match="does not broadcast"):
        DecoderLayer(8, self_attention=AdditiveAttention)(x.float(), memory.float(), mask)


CROSS_ATTENTIONS: dict[str, MakeAttention] = {
    "heads": CROSS,
    "additive": AdditiveAttention,
    "local-m": partial(LuongAttention, window="local-m", radius=1),
    "alibi": partial(CROSS, score_bias=ALiBi),
}
SELF_ATTENTIONS: dict[str, MakeAttention] = {
    "masked": SELF,
    "window": partial(SELF, window=2),
    "window of one": partial(SELF, window=1),
    "window rotary": partial(SELF, window=3, rotary=RotaryPosition, num_kv_heads=2),
    "window alibi": partial(SELF, window=3, score_bias=ALiBi),
    "window relative": partial(SELF, window=2, score_bias=RelativePositionBias),
    "alibi": partial(SELF, score_bias=ALiBi),
    "self": partial(SelfAttention, num_heads=4),
    "own": NearbyAttention,
}
BEAM_LAYERS = {
    **{
        name: partial(DecoderLayer, self_attention=SELF, cross_attention=make)
        for name, make in CROSS_ATTENTIONS.items()
    },
    **{
        f"self-{name}": partial(DecoderLayer, self_attention=make, cross_attention=CROSS)
        for name, make in SELF_ATTENTIONS.items()
    },
    "post-norm": partial(HEADS, norm_first=False),
    "post-norm window": partial(HEADS, self_attention=partial(SELF, window=2), norm_first=False),
}


def check_beams(decoder: TransformerDecoder, need_weights: bool) -> None:
    """K hypotheses on one memory equal K sequences with a copy each, while the beam drops and duplicates hypotheses."""
    shake(decoder.double().eval())
    memory, memory_mask = torch.randn(2, 5, 16, dtype=torch.float64), padding_mask(torch.tensor([5, 3]))
    alone = decoder.start(memory.repeat_interleave(3, dim=0))
    memories = [state.memory for state in decoder.start(memory)]
    pasts: tuple[Cache | Memory, ...] | None = None
    ancestry = torch.zeros(2, 3, 0, dtype=torch.bool)
    for position, x in enumerate(torch.randn(5, 2, 3, 16, dtype=torch.float64)):
        ancestry = torch.cat([ancestry, torch.eye(3, dtype=torch.bool).expand(2, -1, -1)], dim=2)
        found, pasts = decoder.step_beams(
            x, pasts, memories, ancestry, memory_mask, offset=position, need_weights=need_weights
        )
        wanted, alone = decoder.step(
            x.reshape(6, 1, 16),
            alone,
            memory_mask=memory_mask.repeat_interleave(3, dim=0),
            need_weights=need_weights,
        )
        torch.testing.assert_close(found.hidden, wanted.hidden.view(2, 3, 16))
        assert (found.cross_weights is not None) == need_weights
        for maps, their_maps, known in (
            (found.cross_weights, wanted.cross_weights, [True, True]),
            (found.self_weights, wanted.self_weights, [isinstance(past, Memory) for past in pasts]),
        ):
            for ours, theirs, comparable in zip(maps or (), their_maps or (), known, strict=False):
                if comparable:
                    rows = ours.movedim(-2, 1).flatten(0, 1)  # (B * K, N, S) or (B * K, S)
                    torch.testing.assert_close(rows, theirs.squeeze(-2))
        chosen = (torch.randint(3, (2, 3)) + torch.tensor([[0], [3]])).flatten()
        alone = tuple(selected(state, chosen) for state in alone)
        ancestry = ancestry.flatten(0, 1)[chosen].view(2, 3, -1)
        pasts = tuple(
            Memory(past.key[chosen], past.value[chosen]) if isinstance(past, Memory) else past for past in pasts
        )
        for layer, past in zip(decoder.layers, pasts, strict=True):
            window = getattr(cast(DecoderLayer, layer).self_attention, "window", None)
            if isinstance(past, Memory):
                assert past.key.size(0) == 6
                assert past.key.size(-2) == (position + 1 if window is None else min(position + 1, window - 1))


@pytest.mark.parametrize("layer", BEAM_LAYERS.values(), ids=BEAM_LAYERS)
@pytest.mark.parametrize("need_weights", [False, True])
def test_hypotheses_of_a_beam_equal_sequences_with_a_memory_each(
    layer: Callable[..., DecoderLayer], need_weights: bool
) -> None:
    check_beams(TransformerDecoder(16, depth=2, layer=layer), need_weights)


def test_a_stack_may_mix_layers_that_share_their_past_and_layers_that_do_not() -> None:
    attentions = iter([SELF, partial(SELF, window=2)])
    decoder = TransformerDecoder(
        16, depth=2, layer=lambda *args, **kw: HEADS(*args, self_attention=next(attentions), **kw)
    )
    assert [layer.shares_past for layer in decoder.layers if isinstance(layer, DecoderLayer)] == [True, False]
    check_beams(decoder, need_weights=True)


@pytest.mark.parametrize("self_attention", SELF_ATTENTIONS.values(), ids=SELF_ATTENTIONS)
def test_refuses_x_and_memory_of_different_batch_sizes(self_attention: MakeAttention) -> None:
    decoder = TransformerDecoder(16, depth=1, layer=partial(DecoderLayer, self_attention=self_attention))
    [layer] = decoder.layers
    assert isinstance(layer, DecoderLayer)
    memory = torch.randn(2, 5, 16)
    state = layer.start(memory)
    # Four rows would be two per row of the memory, but hypotheses are for step_beams alone.
    for batch, length in ((4, 3), (4, 1), (1, 1)):
        x = torch.randn(batch, length, 16)
        for refuse in (
            partial(layer, x, memory),
            partial(decoder, x, memory),
            partial(layer.step, x, state),
            partial(decoder.step, x, (state,)),
            partial(layer.step, x, state._replace(past=layer.step(x, layer.start(x))[1].past)),
            partial(layer.step_beams, x, None, state.memory, offset=0),
            partial(decoder.step_beams, x, None, (state.memory,), offset=0),
        ):
            with pytest.raises(ValueError, match=f"{batch} for x and 2 for memory"):
                refuse()
        with pytest.raises(ValueError, match=f"2 for x and {batch} for past"):
            layer.step(memory, state._replace(past=layer.step(x, layer.start(x))[1].past))


def test_refuses_a_past_that_does_not_fit_the_hypotheses() -> None:
    memory, x = torch.randn(2, 5, 16), torch.randn(2, 3, 16)
    sharing, windowed = HEADS(16), HEADS(16, self_attention=partial(SELF, window=2))
    cached = sharing.step_beams(x, None, sharing.start(memory).memory, offset=0)[1]
    rows = windowed.step_beams(x, None, windowed.start(memory).memory, offset=0)[1]
    assert isinstance(cached, Cache)
    assert isinstance(rows, Memory)
    with pytest.raises(TypeError, match=r"past must be a Cache .* got a Memory"):
        sharing.step_beams(x, rows, sharing.start(memory).memory, offset=1)
    with pytest.raises(TypeError, match=r"past must be a Memory .* got a Cache"):
        windowed.step_beams(x, cached, windowed.start(memory).memory, offset=1)
    with pytest.raises(ValueError, match="1 for x and 2 for past"):
        sharing.step_beams(x[:1], cached, sharing.start(memory[:1]).memory, offset=1)
    plain = HEADS(16, self_attention=partial(SelfAttention, num_heads=4))
    grown = plain.step_beams(x, None, plain.start(memory).memory, offset=0)[1]
    for layer, past, few, offset, positions in (
        (windowed, rows, x[:, :2], 1, 1),
        (windowed, rows, x, 0, 0),
        (plain, grown, x[:, :2], 1, 1),
        (plain, grown, x, 2, 2),
    ):
        with pytest.raises(ValueError, match=rf"{few.size(1) * 2} rows of {positions} positions, got .*\(6, 4, 1, 4\)"):
            layer.step_beams(few, past, layer.start(memory).memory, offset=offset)
