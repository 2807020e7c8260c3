"""Cached decoding equals uncached decoding, with any attention and position encoding."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from attention_blocks import (
    Attention,
    Cache,
    DecoderLayer,
    LearnedPosition,
    MaskedSelfAttention,
    MultiHeadAttention,
    NoPosition,
    RMSNorm,
    RotaryPosition,
    SinusoidalPosition,
    padding_mask,
)
from lightning_modules import BeamSearch, TransformerTextDecoder, generate
from lightning_modules.text import transformer_text_decoder as module
from lightning_modules.text.text_decoder import Encoded

V, D, T_K = 11, 16, 5
PAD, BOS, EOS = 0, 2, 3
MASKED = partial(MaskedSelfAttention, num_heads=2)
HEADS = partial(MultiHeadAttention, num_heads=2)
LAYER = partial(DecoderLayer, self_attention=MASKED, cross_attention=HEADS)
ROTARY = partial(LAYER, self_attention=partial(MASKED, rotary=RotaryPosition))
KINDS: dict[str, Callable[..., TransformerTextDecoder]] = {
    "sinusoidal": partial(TransformerTextDecoder, layer=LAYER),
    "post-norm": partial(TransformerTextDecoder, layer=partial(LAYER, norm_first=False)),
    "learned": partial(TransformerTextDecoder, layer=LAYER, position=partial(LearnedPosition, max_length=12)),
    "rotary": partial(TransformerTextDecoder, layer=ROTARY, position=NoPosition),
    "grouped": partial(
        TransformerTextDecoder,
        layer=partial(LAYER, self_attention=partial(MaskedSelfAttention, num_heads=4, num_kv_heads=2), norm=RMSNorm),
    ),
    "untied": partial(TransformerTextDecoder, layer=LAYER, tie_embeddings=False),
}
WINDOW = partial(TransformerTextDecoder, layer=partial(LAYER, self_attention=partial(MASKED, window=2)))
every_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


def drawn(decoder: TransformerTextDecoder) -> TransformerTextDecoder:
    with torch.no_grad():
        for parameter in decoder.double().parameters():
            parameter.normal_(std=0.3)
    return decoder.eval()


def source(lengths: list[int]) -> Encoded:
    sequence = torch.randn(len(lengths), max(lengths), D, dtype=torch.float64)
    return Encoded(sequence, padding_mask(torch.tensor(lengths)), None)


def words(rows: int, length: int) -> Tensor:
    return torch.randint(4, V, (rows, length))


def stepwise(decoder: TransformerTextDecoder, tokens: Tensor, memory: Encoded) -> tuple[Tensor, Tensor]:
    state, logits, maps = decoder.start(memory), [], []
    for token in torch.split(tokens, 1, dim=1):
        output = decoder.step(token, state, need_weights=True)
        state = output.state
        assert output.weights is not None
        logits.append(output.logits)
        maps.append(output.weights)
    return torch.cat(logits, dim=1), torch.cat(maps, dim=1)


@every_kind
def test_steps_equal_the_whole(make: Callable[..., TransformerTextDecoder]) -> None:
    decoder, memory, tokens = drawn(make(V, dim=D, depth=2)), source([T_K, 2, 4]), words(3, 7)
    logits, weights = stepwise(decoder, tokens, memory)
    torch.testing.assert_close(logits, decoder.output(decoder(tokens, memory)))
    layers = decoder.layers(
        decoder.position(decoder.embedding(tokens) * D**0.5),
        memory.sequence,
        memory_mask=memory.mask,
        need_weights=True,
    )
    torch.testing.assert_close(weights, torch.stack(layers.cross_weights).mean(dim=(0, 2)))


@pytest.mark.parametrize("role", ["self_attention", "cross_attention"])
def test_steps_equal_the_whole_with_any_attention(attention: Callable[[int, int], Attention], role: str) -> None:
    layer = partial(LAYER, **{role: attention})
    decoder, memory, tokens = drawn(TransformerTextDecoder(V, dim=D, depth=2, layer=layer)), source([4, 6]), words(2, 6)
    logits, weights = stepwise(decoder, tokens, memory)
    torch.testing.assert_close(logits, decoder.output(decoder(tokens, memory)))
    assert weights.shape == (2, 6, 6)
    for i, length in enumerate([4, 6]):
        alone = Encoded(memory.sequence[i : i + 1, :length], None, None)
        torch.testing.assert_close(decoder.output(decoder(tokens[i : i + 1], alone)), logits[i : i + 1])


def test_hypotheses_that_share_a_memory_equal_copies_of_the_sentence(
    attention: Callable[[int, int], Attention],
) -> None:
    layer = partial(LAYER, cross_attention=attention)
    decoder, memory, beams = drawn(TransformerTextDecoder(V, dim=D, depth=2, layer=layer)), source([3, 5]), 3
    assert memory.mask is not None
    copies = Encoded(memory.sequence.repeat_interleave(beams, 0), memory.mask.repeat_interleave(beams, 0), None)
    begin = torch.full((2, 1), BOS)
    shared = decoder.step(begin, decoder.start(memory)).state
    alone = decoder.step(begin.repeat_interleave(beams, 0), decoder.start(copies)).state
    # The engine continues the single hypothesis of the first step K times.
    hypotheses = tree_map_only(Tensor, lambda part: part.repeat_interleave(beams, 0), shared.hypotheses)
    shared = shared._replace(hypotheses=hypotheses)
    for token in torch.split(words(2 * beams, 3).view(2, beams, 3), 1, dim=2):
        one = decoder.step(token[..., 0], shared, need_weights=True)
        other = decoder.step(token.reshape(-1, 1), alone, need_weights=True)
        torch.testing.assert_close(one.logits.flatten(0, 1), other.logits[:, 0])
        assert one.weights is not None
        assert other.weights is not None
        torch.testing.assert_close(one.weights.flatten(0, 1), other.weights[:, 0])
        shared, alone = one.state, other.state


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(1, 8), min_size=1, max_size=4), kind=st.sampled_from(sorted(KINDS)))
def test_a_padded_batch_equals_each_sentence_alone(lengths: list[int], kind: str) -> None:
    torch.manual_seed(sum(lengths))
    decoder = drawn(KINDS[kind](V, dim=D, depth=1))
    memory, tokens = source(lengths), words(len(lengths), 4)
    together = decoder(tokens, memory)
    for i, length in enumerate(lengths):
        alone = Encoded(memory.sequence[i : i + 1, :length], None, None)
        torch.testing.assert_close(decoder(tokens[i : i + 1], alone), together[i : i + 1])


@every_kind
def test_later_tokens_have_no_influence(make: Callable[..., TransformerTextDecoder]) -> None:
    decoder, memory, tokens = drawn(make(V, dim=D, depth=2)), source([T_K, 2]), words(2, 6)
    torch.testing.assert_close(decoder(tokens[:, :4], memory), decoder(tokens, memory)[:, :4])


def greedy(decoder: TransformerTextDecoder, memory: Encoded, longest: int) -> list[int]:
    """Greedy decoding of one sentence without a cache."""
    tokens = [BOS]
    while len(tokens) <= longest and tokens[-1] != EOS:
        logits = decoder.output(decoder(torch.tensor([tokens]), memory))[0, -1]
        logits[[PAD, BOS]] = -torch.inf
        tokens.append(int(logits.argmax()))
    return tokens[1:]


@every_kind
def test_a_beam_of_one_equals_uncached_greedy_decoding(make: Callable[..., TransformerTextDecoder]) -> None:
    decoder, lengths = drawn(make(V, dim=D, depth=2)), [5, 1, 3, 4]
    memory = source(lengths)
    written = generate(decoder, memory, BeamSearch(size=1), max_length=8, bos_id=BOS, eos_id=EOS, pad_id=PAD)
    with torch.inference_mode():
        for i, ([best], length) in enumerate(zip(written, lengths, strict=True)):
            assert best.tokens == greedy(decoder, Encoded(memory.sequence[i : i + 1, :length], None, None), 8)


def check_scores(decoder: TransformerTextDecoder, memory: Encoded) -> None:
    """The log probability of each hypothesis of a beam equals that of its tokens, computed without a cache."""
    found = generate(decoder, memory, BeamSearch(3), max_length=10, n_best=3, bos_id=BOS, eos_id=EOS, pad_id=PAD)
    assert memory.mask is not None
    for i, hypotheses in enumerate(found):
        alone = Encoded(memory.sequence[i : i + 1], memory.mask[i : i + 1], None)
        for one in hypotheses:
            tokens = torch.tensor([one.tokens])
            with torch.inference_mode():
                logits = decoder.output(decoder(torch.cat([torch.tensor([[BOS]]), tokens[:, :-1]], dim=1), alone))
            likelihood = logits.log_softmax(dim=-1).gather(2, tokens[..., None]).sum().item()
            assert one.log_probability == pytest.approx(likelihood, rel=1e-6)


@pytest.mark.parametrize("make", [*KINDS.values(), WINDOW], ids=[*KINDS, "window"])
def test_beam_search_from_the_cache_equals_uncached_decoding(make: Callable[..., TransformerTextDecoder]) -> None:
    check_scores(drawn(make(V, dim=D, depth=2)), source([5, 1, 3]))


def test_beam_search_equals_uncached_decoding_with_any_self_attention(
    attention: Callable[[int, int], Attention],
) -> None:
    layer = partial(LAYER, self_attention=attention)
    check_scores(drawn(TransformerTextDecoder(V, dim=D, depth=2, layer=layer)), source([5, 1, 3]))


@pytest.mark.parametrize("every", [1, 2, 5])
@every_kind
def test_pruning_unused_cache_entries_changes_nothing(
    make: Callable[..., TransformerTextDecoder], every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, memory = drawn(make(V, dim=D, depth=2)), source([5, 1, 3])
    write = partial(generate, decoder, memory, BeamSearch(4), max_length=12, bos_id=BOS, eos_id=EOS, pad_id=PAD)
    monkeypatch.setattr(module, "PRUNE_EVERY", 1000)
    kept = write(n_best=4)
    widths: list[int] = []
    select = Cache.select

    def counting(cache: Cache, positions: Tensor, room: int) -> Cache:
        widths.append(cache.length - positions.size(1))
        return select(cache, positions, room)

    monkeypatch.setattr(Cache, "select", counting)
    monkeypatch.setattr(module, "PRUNE_EVERY", every)
    for found, wanted in zip(write(n_best=4), kept, strict=True):
        assert [one.tokens for one in found] == [one.tokens for one in wanted]
        assert [one.score for one in found] == pytest.approx([one.score for one in wanted])
    assert max(widths) > 0


def test_rotary_positions_encode_the_order() -> None:
    memory, tokens = source([3]), torch.tensor([[BOS, 4, 5, 6, 7]])
    swapped = torch.tensor([[BOS, 5, 4, 6, 7]])
    decoders = {
        kind: drawn(KINDS["rotary"](V, dim=D, depth=1, layer=layer))
        for kind, layer in (("rotary", ROTARY), ("none", LAYER))
    }
    last = {kind: [decoder(one, memory)[:, -1] for one in (tokens, swapped)] for kind, decoder in decoders.items()}
    assert not torch.allclose(*last["rotary"])
    torch.testing.assert_close(*last["none"])  # without positions, one layer sees a bag of tokens


def test_pre_norm_layers_are_followed_by_a_norm() -> None:
    assert isinstance(TransformerTextDecoder(V, dim=D, depth=1, layer=LAYER).norm, nn.LayerNorm)
    post = TransformerTextDecoder(V, dim=D, depth=1, layer=partial(LAYER, norm_first=False))
    assert isinstance(post.norm, nn.Identity)


def test_dropout_in_training_only() -> None:
    decoder, memory, tokens = (
        TransformerTextDecoder(V, dim=D, depth=1, layer=LAYER, dropout=0.5),
        source([3]),
        words(1, 4),
    )
    memory = memory._replace(sequence=memory.sequence.float())
    assert not torch.equal(decoder(tokens, memory), decoder(tokens, memory))
    decoder.eval()
    assert torch.equal(decoder(tokens, memory), decoder(tokens, memory))
    with pytest.raises(ValueError, match=r"dropout .*got 1.0"):
        TransformerTextDecoder(V, dim=D, depth=1, layer=LAYER, dropout=1.0)


def test_the_memory_may_have_another_size() -> None:
    decoder = TransformerTextDecoder(V, dim=D, depth=1, memory_dim=6, layer=LAYER)
    memory = Encoded(torch.randn(2, 3, 6), None, None)
    assert decoder(words(2, 4), memory).shape == (2, 4, D)
    assert decoder.step(words(2, 1), decoder.start(memory)).logits.shape == (2, 1, V)


def test_positions_are_sinusoidal_by_default() -> None:
    assert isinstance(TransformerTextDecoder(V, dim=D, depth=1).position, SinusoidalPosition)
