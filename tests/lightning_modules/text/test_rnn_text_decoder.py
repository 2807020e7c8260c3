"""The recurrent decoders against the papers' formulas, and each step against the whole, whatever the attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attention_blocks import Attention, DotProductAttention, padding_mask
from lightning_modules import (
    BahdanauDecoder,
    BeamSearch,
    FixedVectorDecoder,
    GatedDecoder,
    LuongDecoder,
    RNNSizes,
    generate,
)
from lightning_modules.generation.decoder import DecodingState
from lightning_modules.text.rnn_text_decoder import CELLS, RNNS, Cell, RNNTextDecoder
from lightning_modules.text.text_decoder import Encoded

V, B, T, T_K, H, D, F_ = 11, 3, 4, 5, 16, 8, 6  # the last: features of the summary
PAD, BOS, EOS = 0, 2, 3
CELL_KINDS: tuple[Cell, ...] = ("rnn", "gru", "lstm")
STYLES: dict[str, Callable[..., RNNTextDecoder]] = {
    "bahdanau": BahdanauDecoder,
    "luong": partial(LuongDecoder, input_feeding=False),
    "luong-feeding": partial(LuongDecoder, input_feeding=True),
}
FIXED: dict[str, Callable[..., RNNTextDecoder]] = {
    "fixed-first": partial(FixedVectorDecoder, every_step=False),
    "fixed-every": partial(FixedVectorDecoder, every_step=True),
}
GATED: dict[str, Callable[..., RNNTextDecoder]] = {"gated": GatedDecoder}
EVERY = {**FIXED, **STYLES, **GATED}
every_cell = pytest.mark.parametrize("cell", CELL_KINDS)
every_style = pytest.mark.parametrize("style", STYLES)
every_decoder = pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)


def drawn(decoder: RNNTextDecoder) -> RNNTextDecoder:
    """In float64 and evaluation mode, every parameter drawn, so that no zero bias hides a fault."""
    with torch.no_grad():
        for parameter in decoder.double().parameters():
            parameter.normal_(std=0.4)
    return decoder.eval()


def source(lengths: list[int] | None = None) -> Encoded:
    """A source whose padding is anything but zero."""
    lengths = [T_K, 2, 4] if lengths is None else lengths
    sequence = torch.randn(len(lengths), max(lengths), H, dtype=torch.float64)
    summary = torch.randn(len(lengths), F_, dtype=torch.float64)
    return Encoded(sequence, padding_mask(torch.tensor(lengths)), summary)


def words(rows: int = B, length: int = T) -> Tensor:
    return torch.randint(4, V, (rows, length))


def stepwise(decoder: RNNTextDecoder, tokens: Tensor, memory: Encoded) -> tuple[Tensor, Tensor | None]:
    """Logits and attention weights, one token after the other."""
    state, logits, maps = decoder.start(memory), [], []
    for token in torch.split(tokens, 1, dim=1):
        output = decoder.step(token, state, need_weights=True)
        state = output.state
        logits.append(output.logits)
        maps.append(output.weights)
    found = [one for one in maps if one is not None]
    return torch.cat(logits, dim=1), torch.cat(found, dim=1) if found else None


# The formulas.

Weights = Mapping[str, Tensor]


def cell_by_formula(kind: Cell, w: Weights, layer: int, x: Tensor, state: list[Tensor]) -> list[Tensor]:
    """One layer of one row, gate by gate: tanh, Cho et al. 2014, Hochreiter and Schmidhuber 1997."""
    h = state[0]
    # Cells of one step, or torch's RNN over a sequence.
    name = f"rnn.layers.{layer}.{{}}" if "rnn.layers.0.weight_ih" in w else f"rnn.{{}}_l{layer}"
    left = w[name.format("weight_ih")] @ x + w[name.format("bias_ih")]
    right = w[name.format("weight_hh")] @ h + w[name.format("bias_hh")]
    if kind == "rnn":
        return [torch.tanh(left + right)]
    if kind == "gru":
        (reset, update, new), (h_reset, h_update, h_new) = left.chunk(3), right.chunk(3)
        gate, keep = torch.sigmoid(reset + h_reset), torch.sigmoid(update + h_update)
        return [(1 - keep) * torch.tanh(new + gate * h_new) + keep * h]
    enter, forget, new, leave = (left + right).chunk(4)
    c = torch.sigmoid(forget) * state[1] + torch.sigmoid(enter) * torch.tanh(new)
    return [torch.sigmoid(leave) * torch.tanh(c), c]


def stack_by_formula(kind: Cell, w: Weights, x: Tensor, states: list[list[Tensor]]) -> list[list[Tensor]]:
    after = []
    for layer, state in enumerate(states):
        after.append(cell_by_formula(kind, w, layer, x, state))
        x = after[-1][0]
    return after


def first_by_formula(kind: Cell, depth: int, w: Weights, summary: Tensor) -> list[list[Tensor]]:
    """tanh(W summary + b), all layers of h, then, for an LSTM, of c."""
    parts = torch.split(torch.tanh(w["bridge.weight"] @ summary + w["bridge.bias"]), H)
    return [list(parts[layer::depth]) for layer in range(depth)]


def look_by_formula(w: Weights, query: Tensor, keys: Tensor) -> Tensor:
    """The context of one query: v · tanh(W q + U k) if there is such a v, else q · W k."""
    if "attention.score_weight" in w:
        hidden = torch.tanh(w["attention.query_proj.weight"] @ query + keys @ w["attention.key_proj.weight"].T)
        scores = hidden @ w["attention.score_weight"]
    else:
        scores = (keys @ w["attention.key_proj.weight"].T) @ query
    weights = torch.exp(scores) / torch.exp(scores).sum()
    return weights @ keys


def readout_by_formula(w: Weights, *parts: Tensor) -> Tensor:
    return torch.tanh(w["readout.weight"] @ torch.cat(parts) + w["readout.bias"])


def logits_by_formula(
    style: str, kind: Cell, depth: int, w: Weights, tokens: Tensor, keys: Tensor, summary: Tensor
) -> Tensor:
    """All logits of one sentence, (T, V)."""
    states = first_by_formula(kind, depth, w, summary)
    vector = states[-1][0]  # the only input from the source without attention
    fed = torch.zeros(w["readout.bias"].shape, dtype=torch.float64)
    found = []
    for token in tokens:
        y = w["embedding.weight"][token] * D**0.5
        if style in ("bahdanau", "gated"):
            context = look_by_formula(w, states[-1][0], keys)
            if style == "gated":
                context = context / (1 + torch.exp(-(w["gate.weight"] @ states[-1][0] + w["gate.bias"])))
            states = stack_by_formula(kind, w, torch.cat([y, context]), states)
            features = readout_by_formula(w, states[-1][0], context, y)
        elif style.startswith("luong"):
            x = torch.cat([y, fed]) if style == "luong-feeding" else y
            states = stack_by_formula(kind, w, x, states)
            context = look_by_formula(w, states[-1][0], keys)
            features = fed = readout_by_formula(w, context, states[-1][0])
        else:
            extra = [vector] if style == "fixed-every" else []
            states = stack_by_formula(kind, w, torch.cat([y, *extra]), states)
            features = readout_by_formula(w, states[-1][0], *extra, y)
        logits = w["output.weight"] @ features
        found.append(logits + w["output.bias"] if "output.bias" in w else logits)
    return torch.stack(found)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@every_cell
@pytest.mark.parametrize("style", EVERY)
def test_each_decoder_is_its_papers_formula(style: str, cell: Cell, depth: int, tied: bool) -> None:
    decoder = drawn(EVERY[style](V, H, F_, RNNSizes(D, H, cell, depth), tie_embeddings=tied))
    lengths = [T_K, 2, 4]
    memory, tokens = source(lengths), words()
    assert memory.summary is not None
    wanted = torch.stack(
        [
            logits_by_formula(
                style, cell, depth, decoder.state_dict(), tokens[i], memory.sequence[i, :n], memory.summary[i]
            )
            for i, n in enumerate(lengths)
        ]
    )
    torch.testing.assert_close(decoder.output(decoder(tokens, memory)), wanted)
    torch.testing.assert_close(stepwise(decoder, tokens, memory)[0], wanted)


# Steps, beams, padding.


def decoders(attention: Callable[[int, int], Attention], cell: Cell, style: str, depth: int = 2) -> RNNTextDecoder:
    return drawn(STYLES[style](V, H, F_, RNNSizes(D, H, cell, depth), attention=attention))


@every_style
@every_cell
def test_steps_equal_the_whole_with_any_attention(
    attention: Callable[[int, int], Attention], cell: Cell, style: str
) -> None:
    decoder, memory, tokens = decoders(attention, cell, style), source(), words(length=7)
    logits, weights = stepwise(decoder, tokens, memory)
    torch.testing.assert_close(logits, decoder.output(decoder(tokens, memory)))
    assert weights is not None
    assert weights.shape == (B, 7, T_K)
    assert memory.mask is not None
    assert (weights >= 0).all()
    assert not weights.masked_select(~memory.mask.expand_as(weights)).any()


@pytest.mark.parametrize("depth", [1, 2])
@every_cell
@every_decoder
def test_steps_equal_the_whole_with_the_defaults_and_without_attention(
    make: Callable[..., RNNTextDecoder], cell: Cell, depth: int
) -> None:
    decoder, memory, tokens = drawn(make(V, H, F_, RNNSizes(D, H, cell, depth))), source(), words()
    torch.testing.assert_close(stepwise(decoder, tokens, memory)[0], decoder.output(decoder(tokens, memory)))


@every_style
def test_hypotheses_on_one_memory_are_copies_of_the_sentence(
    attention: Callable[[int, int], Attention], style: str
) -> None:
    decoder, memory = decoders(attention, "lstm", style), source()
    assert memory.mask is not None
    assert memory.summary is not None
    beams = 3
    following = words(B * beams, 3).view(B, beams, 3)
    copies = Encoded(*(part.repeat_interleave(beams, dim=0) for part in (memory.sequence, memory.mask, memory.summary)))
    begin = torch.full((B, 1), BOS)
    shared = decoder.step(begin, decoder.start(memory)).state
    alone = decoder.step(begin.repeat_interleave(beams, dim=0), decoder.start(copies)).state
    # What the engine does with the first step's one hypothesis a sentence.
    chosen = torch.arange(B).repeat_interleave(beams)
    shared = DecodingState(shared.memory, select(shared.hypotheses, chosen))
    for token in torch.split(following, 1, dim=2):
        one = decoder.step(token[..., 0], shared, need_weights=True)
        other = decoder.step(token.reshape(-1, 1), alone, need_weights=True)
        torch.testing.assert_close(one.logits.flatten(0, 1), other.logits[:, 0])
        assert one.weights is not None
        assert other.weights is not None
        torch.testing.assert_close(one.weights.flatten(0, 1), other.weights[:, 0])
        shared, alone = one.state, other.state


def select(tree: Any, chosen: Tensor) -> Any:  # noqa: ANN401
    """The chosen rows of every tensor in a tree of named tuples."""
    if isinstance(tree, Tensor):
        return tree[chosen]
    if isinstance(tree, tuple):
        parts = [select(part, chosen) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return tree


@every_style
@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_a_padded_batch_equals_each_sentence_alone(style: str, lengths: list[int]) -> None:
    torch.manual_seed(sum(lengths))
    decoder = drawn(STYLES[style](V, H, F_, RNNSizes(D, H, "gru")))
    memory, tokens = source(lengths), words(len(lengths))
    together = decoder(tokens, memory)
    assert memory.summary is not None
    for i, length in enumerate(lengths):
        alone = Encoded(memory.sequence[i : i + 1, :length], None, memory.summary[i : i + 1])
        torch.testing.assert_close(decoder(tokens[i : i + 1], alone), together[i : i + 1])


@every_style
@every_cell
def test_padding_changes_nothing_for_any_attention(
    attention: Callable[[int, int], Attention], cell: Cell, style: str
) -> None:
    decoder, lengths = decoders(attention, cell, style, depth=1), [6, 2, 4]
    memory, tokens = source(lengths), words()
    together = decoder(tokens, memory)
    assert memory.summary is not None
    for i, length in enumerate(lengths):
        alone = Encoded(memory.sequence[i : i + 1, :length], None, memory.summary[i : i + 1])
        torch.testing.assert_close(decoder(tokens[i : i + 1], alone), together[i : i + 1])


def greedy(decoder: RNNTextDecoder, memory: Encoded, longest: int) -> list[int]:
    """One sentence, computed from its start for each token."""
    tokens = [BOS]
    while len(tokens) <= longest and tokens[-1] != EOS:
        logits = decoder.output(decoder(torch.tensor([tokens]), memory))[0, -1]
        logits[[PAD, BOS]] = -torch.inf
        tokens.append(int(logits.argmax()))
    return tokens[1:]


@every_cell
@every_decoder
def test_a_beam_of_one_is_a_greedy_loop_over_the_whole(make: Callable[..., RNNTextDecoder], cell: Cell) -> None:
    decoder = drawn(make(V, H, F_, RNNSizes(D, H, cell, 2)))
    lengths = [5, 1, 3, 4]
    memory = source(lengths)
    written = generate(decoder, memory, BeamSearch(size=1), max_length=8, bos_id=BOS, eos_id=EOS, pad_id=PAD)
    assert memory.summary is not None
    for i, ([best], length) in enumerate(zip(written, lengths, strict=True)):
        alone = Encoded(memory.sequence[i : i + 1, :length], None, memory.summary[i : i + 1])
        assert best.tokens == greedy(decoder, alone, 8)


# Scheduled sampling and dropout.


@every_decoder
def test_sampling_everything_reads_the_decoders_own_predictions(make: Callable[..., RNNTextDecoder]) -> None:
    decoder, memory, tokens = drawn(make(V, H, F_, RNNSizes(D, H, "gru"))), source(), words(length=6)
    found = decoder.output(decoder(tokens, memory, sampling=1.0))
    read = tokens[:, :1]
    for _ in range(5):
        logits = decoder.output(decoder(read, memory))
        read = torch.cat([read, logits[:, -1:].argmax(dim=-1)], dim=1)
    torch.testing.assert_close(found, decoder.output(decoder(read, memory)))
    assert not torch.equal(read, tokens)


@every_decoder
def test_sampling_nothing_is_teacher_forcing(make: Callable[..., RNNTextDecoder]) -> None:
    decoder, memory, tokens = drawn(make(V, H, F_, RNNSizes(D, H, "gru"))), source(), words()
    torch.testing.assert_close(decoder(tokens, memory, sampling=0.0), decoder(tokens, memory))
    nearly_nothing = decoder(tokens, memory, sampling=1e-12)
    torch.testing.assert_close(nearly_nothing, decoder(tokens, memory))


@every_decoder
def test_dropout_is_for_training_only(make: Callable[..., RNNTextDecoder]) -> None:
    decoder, memory, tokens = drawn(make(V, H, F_, RNNSizes(D, H, "gru", 2, dropout=0.5))), source(), words()
    assert torch.equal(decoder(tokens, memory), decoder(tokens, memory))
    features = decoder.train()(tokens, memory)
    assert not torch.equal(features, decoder(tokens, memory))
    dropped = (features == 0).double().mean().item()  # of the readout
    assert dropped == pytest.approx(0.5, abs=0.15)


# Parts and errors.


@every_cell
@pytest.mark.parametrize("depth", [1, 3])
def test_a_single_step_equals_torchs_network_gradients_included(cell: Cell, depth: int) -> None:
    """On CPUs a single step takes another path than a sequence."""
    decoder = drawn(FixedVectorDecoder(V, 4, F_, RNNSizes(D, H, cell, depth), every_step=False))
    x = torch.randn(B, 1, D, dtype=torch.float64)
    hidden = torch.randn(decoder.sizes.components, depth, B, H, dtype=torch.float64)
    outputs, after = decoder.rnn(x, tuple(hidden) if cell == "lstm" else hidden[0])
    wanted = [outputs, *(part.transpose(0, 1) for part in (after if cell == "lstm" else (after,)))]
    found_outputs, found_after = decoder.run(x, tuple(part.transpose(0, 1) for part in hidden))
    found = [found_outputs, *found_after]
    torch.testing.assert_close(found, wanted)
    weights = list(decoder.rnn.parameters())
    torch.testing.assert_close(
        torch.autograd.grad([each.sin().sum() for each in found], weights),
        torch.autograd.grad([each.sin().sum() for each in wanted], weights),
    )


def test_dropout_between_layers_acts_on_a_single_step_too() -> None:
    decoder = drawn(FixedVectorDecoder(V, 4, F_, RNNSizes(D, H, "lstm", 2, dropout=0.5), every_step=False))
    x, hidden = torch.randn(B, 1, D, dtype=torch.float64), (torch.zeros(B, 2, H, dtype=torch.float64),) * 2
    still, moved = decoder.run(x, hidden)[1], decoder.train().run(x, hidden)[1]
    torch.testing.assert_close(moved[0][:, 0], still[0][:, 0])  # below it
    assert not torch.allclose(moved[0][:, 1], still[0][:, 1])


@pytest.mark.parametrize("name", ["embedding_dim", "hidden_dim", "depth"])
def test_sizes_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} .*got 0"):
        RNNSizes(**{name: 0})  # type: ignore[arg-type]


def test_an_unknown_cell_and_a_wrong_dropout_are_named() -> None:
    with pytest.raises(ValueError, match=r"cell .*got 'elman'"):
        RNNSizes(cell="elman")  # type: ignore[arg-type]
    for dropout in (-0.1, 1.0):
        with pytest.raises(ValueError, match=rf"dropout .*got {dropout}"):
            RNNSizes(dropout=dropout)


def test_sizes_create_the_network_that_they_describe() -> None:
    for cell, depth in product(CELL_KINDS, (1, 2)):
        sizes = RNNSizes(D, H, cell, depth, dropout=0.25)
        rnn = sizes.rnn(3, 5, bidirectional=True)
        assert type(rnn) is RNNS[cell]
        assert (rnn.input_size, rnn.hidden_size, rnn.num_layers, rnn.bidirectional) == (3, 5, depth, True)
        assert rnn.batch_first
        assert rnn.dropout == (0.25 if depth == 2 else 0.0)  # torch warns of dropout between no layers
        _, last = rnn(torch.zeros(1, 1, 3))
        assert sizes.components == (len(last) if isinstance(last, tuple) else 1)
        cells = sizes.cells(3, 5)
        assert [type(layer) for layer in cells.layers] == [CELLS[cell]] * depth
        assert cells.dropout == 0.25


@every_decoder
def test_a_source_without_a_summary_is_refused(make: Callable[..., RNNTextDecoder]) -> None:
    decoder, memory = drawn(make(V, H, F_, RNNSizes(D, H))), source()._replace(summary=None)
    with pytest.raises(ValueError, match=r"memory.summary is None"):
        decoder(words(), memory)


def test_the_context_has_the_size_of_the_attentions_values() -> None:
    for make, wide in product(STYLES.values(), (H, 2 * H)):
        sizes = RNNSizes(D, H)
        if wide == H:
            assert drawn(make(V, wide, F_, sizes, attention=DotProductAttention))(words(), source()).shape == (B, T, H)
        else:
            with pytest.raises(ValueError, match="key_dim"):
                make(V, wide, F_, sizes, attention=DotProductAttention)


def test_a_decoder_must_define_advance() -> None:
    decoder = RNNTextDecoder(V, F_, RNNSizes(D, H), extra_dim=0, readout_dim=H, tie_embeddings=False, stepwise=True)
    with pytest.raises(NotImplementedError, match=r"RNNTextDecoder.*advance\(x, state"):
        decoder.advance(torch.zeros(1, 1, D), DecodingState(None, None), need_weights=False)
