"""The engine against brute force and naive loops, with decoders whose states can go wrong."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_modules.generation.beam_search import BeamSearch, LengthPenalty
from lightning_modules.generation.decoder import DecodingState, Hypothesis, StepOutput
from lightning_modules.generation.decoding_strategy import DecodingStrategy
from lightning_modules.generation.engine import generate
from lightning_modules.generation.sampling import Sampling

PAD, BOS, EOS = 0, 1, 2
write = partial(generate, pad_id=PAD, bos_id=BOS, eos_id=EOS)
STATES = 997  # enough that hypotheses rarely reach the same state, and none have the same score
AVERAGE, PLAIN, WU = LengthPenalty(), LengthPenalty(alpha=0.0), LengthPenalty(alpha=0.8, offset=5.0)


class Hashing:
    """Logits that depend on all tokens so far, through a hash that is the hypothesis's state, and on the sentence.

    The memory has for each sentence a table of logits and one of attention, a row for each value of the hash. A state
    that stands in the wrong row, or a memory, gives other logits.
    """

    def __init__(self) -> None:
        self.seen: list[tuple[torch.Size, int, int]] = []

    def start(self, memory: dict[str, Tensor]) -> DecodingState:
        return DecodingState(memory, {"hash": memory["logits"].new_zeros(len(memory["logits"]), 1), "note": "kept"})

    def step(self, tokens: Tensor, state: DecodingState, *, need_weights: bool = False) -> StepOutput:
        logits, weights = state.memory["logits"], state.memory["weights"]
        self.seen.append((tokens.shape, len(logits), logits.data_ptr()))
        assert state.hypotheses["note"] == "kept"
        hashed = (state.hypotheses["hash"].long() * 31 + tokens.reshape(-1, 1) + 7) % STATES
        entry = hashed.view(tokens.shape)
        row = torch.arange(len(tokens))[:, None]
        following = DecodingState(state.memory, {"hash": hashed, "note": "kept"})
        return StepOutput(logits[row, entry], following, weights[row, entry] if need_weights else None)


def tables(sentences: int, vocabulary: int, seed: int = 0, *, places: int = 4, end: float = 0.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2.0 * torch.randn(sentences, STATES, vocabulary, generator=generator)
    logits[..., EOS] += end
    weights = torch.rand(sentences, STATES, places, generator=generator).softmax(dim=-1)
    return {"logits": logits, "weights": weights}


def written(memory: dict[str, Tensor], sentence: int, tokens: Sequence[int]) -> tuple[list[float], list[list[float]]]:
    """The log probability and the attention of each token, in Python floats."""
    hashed, last, found, attended = 0, BOS, [], []
    for token in tokens:
        hashed = (hashed * 31 + last + 7) % STATES
        logits = memory["logits"][sentence, hashed].tolist()
        found.append(logits[token] - math.log(sum(math.exp(value) for value in logits)))
        attended.append(memory["weights"][sentence, hashed].tolist())
        last = token
    return found, attended


def everything(vocabulary: int, longest: int) -> Iterator[tuple[int, ...]]:
    """All sequences that may be generated: those that end, and those that are cut at the maximum length."""
    words = [token for token in range(vocabulary) if token not in {PAD, BOS, EOS}]
    for length in range(longest):
        for start in itertools.product(words, repeat=length):
            yield (*start, EOS)
    yield from itertools.product(words, repeat=longest)


def ranked(
    memory: dict[str, Tensor], sentence: int, sequences: Iterator[tuple[int, ...]], strategy: BeamSearch
) -> list[tuple[float, tuple[int, ...]]]:
    """The sequences by score, best first, by the formulas of the paper."""
    scored = []
    for tokens in sequences:
        found, attended = written(memory, sentence, tokens)
        penalty = strategy.length_penalty
        score = sum(found) / ((penalty.offset + len(tokens)) / (penalty.offset + 1)) ** penalty.alpha
        for weights in zip(*attended, strict=True):
            score += strategy.coverage_penalty * math.log(min(sum(weights), 1.0))
        scored.append((score, tokens))
    return sorted(scored, reverse=True)


def without_weights(hypotheses: list[list[Hypothesis]]) -> list[list[tuple[list[int], float]]]:
    return [[(one.tokens, one.score) for one in best] for best in hypotheses]


def assert_same(found: list[list[Hypothesis]], expected: list[list[Hypothesis]]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert [hypothesis.tokens for hypothesis in one] == [hypothesis.tokens for hypothesis in other]
        assert [hypothesis.score for hypothesis in one] == pytest.approx([hypothesis.score for hypothesis in other])


@pytest.mark.parametrize("seed", range(5))
def test_a_beam_of_one_is_the_greedy_loop(seed: int) -> None:
    memory = tables(6, 9, seed)
    found = write(Hashing(), memory, BeamSearch(size=1), max_length=8)
    for sentence, [best] in enumerate(found):
        hashed, tokens = 0, [BOS]
        while tokens[-1] != EOS and len(tokens) <= 8:
            hashed = (hashed * 31 + tokens[-1] + 7) % STATES
            logits = memory["logits"][sentence, hashed].tolist()
            tokens.append(max(set(range(9)) - {PAD, BOS}, key=lambda token: logits[token]))
        assert best.tokens == tokens[1:]
        assert best.log_probability == pytest.approx(sum(written(memory, sentence, best.tokens)[0]), abs=1e-5)


@pytest.mark.parametrize("penalty", [AVERAGE, PLAIN, WU, LengthPenalty(alpha=-0.5), LengthPenalty(alpha=2.0)])
@pytest.mark.parametrize("coverage", [0.0, 0.7])
def test_a_wide_beam_is_exhaustive_search(penalty: LengthPenalty, coverage: float) -> None:
    memory = tables(3, 6)
    sequences = list(everything(6, longest=4))
    strategy = BeamSearch(size=len(sequences), length_penalty=penalty, coverage_penalty=coverage)
    found = write(Hashing(), memory, strategy, max_length=4, n_best=len(sequences))
    for sentence, hypotheses in enumerate(found):
        expected = ranked(memory, sentence, iter(sequences), strategy)
        assert len(hypotheses) == len(expected) == 121
        for hypothesis, (score, tokens) in zip(hypotheses, expected, strict=True):
            assert tuple(hypothesis.tokens) == tokens
            assert hypothesis.score == pytest.approx(score, abs=1e-5)
            assert hypothesis.log_probability == pytest.approx(sum(written(memory, sentence, tokens)[0]), abs=1e-5)


def exhaustive_beams(
    memory: dict[str, Tensor], sentence: int, vocabulary: int, longest: int, strategy: BeamSearch
) -> list[tuple[float, tuple[int, ...]]]:
    """Beam search as a loop over lists, for one sentence."""
    running: list[tuple[int, ...]] = [()]
    kept: list[tuple[float, tuple[int, ...]]] = []
    while running:
        longer = [(*start, token) for start in running for token in range(vocabulary) if token not in {PAD, BOS}]
        longer.sort(key=lambda tokens: -sum(written(memory, sentence, tokens)[0]))
        ended = [tokens for tokens in longer[: strategy.size] if tokens[-1] == EOS or len(tokens) == longest]
        kept = sorted(kept + ranked(memory, sentence, iter(ended), strategy), reverse=True)[: strategy.size]
        running = [tokens for tokens in longer[: 2 * strategy.size] if tokens[-1] != EOS and len(tokens) < longest]
        running = running[: strategy.size]
        if running and len(kept) == strategy.size:
            best = max(score for score, _ in ranked(memory, sentence, iter(running), strategy))
            running = running if best > kept[-1][0] else []
    return kept


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("penalty", [AVERAGE, PLAIN, WU])
@pytest.mark.parametrize("coverage", [0.0, 0.5])
def test_beams_are_those_of_a_loop_over_lists(size: int, penalty: LengthPenalty, coverage: float) -> None:
    memory = tables(8, 8, seed=size, end=1.0)
    strategy = BeamSearch(size=size, length_penalty=penalty, coverage_penalty=coverage)
    found = write(Hashing(), memory, strategy, max_length=7, n_best=size)
    for sentence, hypotheses in enumerate(found):
        expected = exhaustive_beams(memory, sentence, 8, 7, strategy)
        assert [tuple(hypothesis.tokens) for hypothesis in hypotheses] == [tokens for _, tokens in expected]
        assert [one.score for one in hypotheses] == pytest.approx([score for score, _ in expected], abs=1e-5)


@pytest.mark.parametrize("strategy", [BeamSearch(), BeamSearch(size=3, length_penalty=WU, coverage_penalty=0.3)])
def test_a_batch_gives_what_its_sentences_give_alone(strategy: BeamSearch) -> None:
    memory = tables(7, 12, end=1.5)
    prefix = [[], [5], [3, 4, 5], [], [6, 6], [5, EOS], [4]]
    limits = torch.tensor([1, 9, 4, 12, 5, 3, 12])
    together = write(Hashing(), memory, strategy, prefix=prefix, max_length=limits, n_best=3)
    alone = [
        write(
            Hashing(),
            {name: table[number : number + 1] for name, table in memory.items()},
            strategy,
            prefix=prefix[number : number + 1],
            max_length=int(limits[number]),
            n_best=3,
        )[0]
        for number in range(7)
    ]
    assert_same(together, alone)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(1, 7),
    vocabulary=st.integers(4, 12),
    longest=st.integers(1, 9),
    shortest=st.integers(0, 9),
    ngram=st.integers(0, 3),
    end=st.sampled_from([-3.0, 0.0, 3.0]),
)
def test_every_hypothesis_keeps_the_rules(
    seed: int, size: int, vocabulary: int, longest: int, shortest: int, ngram: int, end: float
) -> None:
    shortest = min(shortest, longest)
    if ngram:  # a minimum may be more than is possible without repetition
        shortest = min(shortest, vocabulary - 3)
    memory = tables(3, vocabulary, seed, end=end)
    for strategy in (BeamSearch(size=size, no_repeat_ngram=ngram), Sampling(no_repeat_ngram=ngram)):
        generator = torch.Generator().manual_seed(seed)
        found = write(
            Hashing(), memory, strategy, max_length=longest, min_length=shortest, n_best=size, generator=generator
        )
        for sentence, hypotheses in enumerate(found):
            scores = [hypothesis.score for hypothesis in hypotheses]
            assert scores == sorted(scores, reverse=True)
            if isinstance(strategy, BeamSearch):
                assert len({tuple(hypothesis.tokens) for hypothesis in hypotheses}) == len(hypotheses)
            for hypothesis in hypotheses:
                tokens = hypothesis.tokens
                assert not {PAD, BOS} & set(tokens)
                assert EOS not in tokens[:-1]
                assert tokens[-1] == EOS or len(tokens) == longest
                assert shortest <= len(tokens) - (tokens[-1] == EOS) <= longest
                grams = [tuple(tokens[start : start + ngram]) for start in range(len(tokens) - ngram + 1)]
                assert not ngram or len(set(grams)) == len(grams)
                assert hypothesis.log_probability == pytest.approx(sum(written(memory, sentence, tokens)[0]), abs=1e-4)


def test_a_repeated_ngram_is_skipped_and_nothing_else() -> None:
    memory = tables(2, 6)
    sequences = [
        tokens
        for tokens in everything(6, longest=4)
        if len(set(itertools.pairwise(tokens))) == len(tokens) - 1 or len(tokens) < 2
    ]
    strategy = BeamSearch(size=130, no_repeat_ngram=2)
    found = write(Hashing(), memory, strategy, max_length=4, n_best=130)
    for sentence, hypotheses in enumerate(found):
        expected = [tokens for _, tokens in ranked(memory, sentence, iter(sequences), strategy)]
        assert [tuple(hypothesis.tokens) for hypothesis in hypotheses] == expected


def test_a_forced_prefix_is_followed_by_the_best_that_fits_it() -> None:
    memory = tables(3, 6)
    prefix = [[4, BOS], [], [5]]  # a prefix may hold tokens that are never generated
    strategy = BeamSearch(size=60)
    found = write(Hashing(), memory, strategy, prefix=prefix, max_length=3, n_best=20)
    as_tensor = torch.tensor([[4, BOS], [PAD, PAD], [5, PAD]])
    assert_same(found, write(Hashing(), memory, strategy, prefix=as_tensor, max_length=3, n_best=20))
    for sentence, (start, hypotheses) in enumerate(zip(prefix, found, strict=True)):
        expected = []
        for end in everything(6, longest=3):
            log_probability = sum(written(memory, sentence, [*start, *end])[0][len(start) :])
            expected.append((log_probability / len(end), log_probability, [*start, *end]))
        expected.sort(reverse=True)
        assert [hypothesis.tokens for hypothesis in hypotheses] == [tokens for *_, tokens in expected[:20]]
        for hypothesis, (score, log_probability, _) in zip(hypotheses, expected, strict=False):
            assert hypothesis.score == pytest.approx(score, abs=1e-5)
            assert hypothesis.log_probability == pytest.approx(log_probability, abs=1e-5)


def test_there_is_one_hypothesis_while_all_tokens_are_forced() -> None:
    decoder = Hashing()
    write(decoder, tables(2, 9, end=-30.0), BeamSearch(size=4), prefix=[[3, 4, 5], [6, 7]], max_length=2)
    assert [tuple(shape) for shape, _, _ in decoder.seen] == [(2, 1), (2, 1), (2, 1), (2, 4), (1, 4)]


@pytest.mark.parametrize("strategy", [BeamSearch(size=3), Sampling()])
def test_a_prefix_that_ends_the_sentence_is_the_hypothesis(strategy: DecodingStrategy) -> None:
    found = write(Hashing(), tables(2, 8), strategy, prefix=[[4, 5, EOS], [EOS]], max_length=1, n_best=3)
    assert {tuple(one.tokens) for one in found[0]} == {(4, 5, EOS)}
    assert {tuple(one.tokens) for one in found[1]} == {(EOS,)}
    assert found[0][0].log_probability == found[1][0].score == 0.0


def test_sampling_draws_apart_after_prefixes_of_different_length() -> None:
    memory = {"logits": torch.zeros(2, STATES, 20), "weights": torch.ones(2, STATES, 1)}
    found = write(Hashing(), memory, Sampling(), prefix=[[4, 5, 6], []], max_length=6, n_best=8)
    assert [len({tuple(one.tokens) for one in hypotheses}) for hypotheses in found] == [8, 8]
    assert all(one.tokens[:3] == [4, 5, 6] for one in found[0])


def test_weights_are_those_of_each_token() -> None:
    memory = tables(4, 9, end=1.0)
    found = write(Hashing(), memory, BeamSearch(size=4), max_length=6, n_best=4, need_weights=True)
    for sentence, hypotheses in enumerate(found):
        for hypothesis in hypotheses:
            assert hypothesis.weights is not None
            expected = torch.tensor(written(memory, sentence, hypothesis.tokens)[1])
            torch.testing.assert_close(hypothesis.weights, expected)
            assert not hypothesis.weights.is_inference()
    covered = write(Hashing(), memory, BeamSearch(coverage_penalty=0.1), max_length=6)
    assert all(one.weights is None for hypotheses in covered for one in hypotheses)


def test_padding_of_the_source_does_not_count_as_uncovered() -> None:
    memory = tables(2, 9)
    padded = {**memory, "weights": torch.nn.functional.pad(memory["weights"], (0, 3))}
    strategy = BeamSearch(coverage_penalty=0.4)
    plain = write(Hashing(), memory, strategy, max_length=6)
    assert_same(write(Hashing(), padded, strategy, max_length=6), plain)


@pytest.mark.parametrize("strategy", [BeamSearch(size=4), BeamSearch(size=1), Sampling()])
def test_sentences_that_are_done_leave_the_batch_and_memory_is_not_copied_for_beams(strategy: BeamSearch) -> None:
    memory, limits = tables(5, 9, end=-30.0), torch.tensor([2, 6, 1, 4, 2])
    decoder = Hashing()
    write(decoder, memory, strategy, max_length=limits)
    width = strategy.width(1)
    left = [int((limits > step).sum()) for step in range(6)]
    assert [tuple(shape) for shape, _, _ in decoder.seen] == [(5, 1), *((rows, width) for rows in left[1:])]
    assert [rows for _, rows, _ in decoder.seen] == left
    # Nobody left after the fifth and the sixth step: their memory is the very same.
    addresses = [address for _, _, address in decoder.seen]
    assert addresses[0] == memory["logits"].data_ptr()
    assert addresses[4] == addresses[5]


def test_states_are_not_copied_while_their_order_stays() -> None:
    class Counting(Hashing):
        def step(self, tokens: Tensor, state: DecodingState, *, need_weights: bool = False) -> StepOutput:
            addresses.append(state.hypotheses.data_ptr())
            return StepOutput(state.memory[:, None].expand(*tokens.shape, -1), state, None)

        def start(self, memory: Any) -> DecodingState:  # noqa: ANN401
            return DecodingState(memory, torch.zeros(len(memory), 1))

    addresses: list[int] = []
    logits = torch.tensor([[-9.0, -9.0, -9.0, 5.0, 1.0]]).expand(3, -1)
    write(Counting(), logits, BeamSearch(size=1), max_length=5)
    assert len(addresses) == 5
    assert len(set(addresses)) == 1


class On(Hashing):
    """The same on one device, whatever the default device."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def step(self, tokens: Tensor, state: DecodingState, *, need_weights: bool = False) -> StepOutput:
        with self.device:
            return super().step(tokens, state, need_weights=need_weights)


class Language:
    """A decoder without memory and without state: logits by the last token alone."""

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def start(self, memory: object) -> DecodingState:
        return DecodingState(memory, None)

    def step(self, tokens: Tensor, state: DecodingState, *, need_weights: bool = False) -> StepOutput:
        return StepOutput(self.table[tokens], state, None)


def test_the_number_of_sentences_follows_from_the_prefix_or_the_lengths() -> None:
    decoder = Language(torch.randn(7, 7, generator=torch.Generator().manual_seed(0)))
    by_prefix = write(decoder, None, max_length=5, prefix=[[], [4]])
    by_length = write(decoder, ("text", 3), max_length=torch.tensor([5, 5]))
    assert len(by_prefix) == len(by_length) == 2
    assert by_prefix[1][0].tokens[0] == 4
    assert_same(by_prefix[:1], by_length[:1])
    with pytest.raises(ValueError, match=r"prefix=\[\[\]\] \* sentences"):
        write(decoder, None, max_length=5)


@pytest.mark.parametrize("strategy", [BeamSearch(no_repeat_ngram=2, coverage_penalty=0.1), Sampling(top_k=40)])
def test_tensors_are_created_on_the_device_of_the_state(strategy: DecodingStrategy) -> None:
    memory = tables(3, 1_000)
    found = []
    for default in ("cpu", "meta"):  # a tensor on the latter has no values
        torch.manual_seed(0)
        with torch.device(default):
            decoder = On(torch.device("cpu"))
            found.append(write(decoder, memory, strategy, prefix=[[], [4], [5, EOS]], max_length=4, min_length=2))
    assert_same(*found)


def test_no_sentences_at_all() -> None:
    assert write(Hashing(), tables(0, 8), max_length=5) == []


@pytest.mark.parametrize("vocabulary", [4, 5])
def test_a_beam_larger_than_the_number_of_sequences(vocabulary: int) -> None:
    memory = tables(1, vocabulary)
    [found] = write(Hashing(), memory, BeamSearch(size=50), max_length=2, n_best=50)
    expected = [tokens for _, tokens in ranked(memory, 0, everything(vocabulary, 2), BeamSearch())]
    assert [tuple(one.tokens) for one in found] == expected
    [[single]] = write(Hashing(), memory, BeamSearch(size=50), max_length=1)
    assert (*single.tokens,) == ranked(memory, 0, everything(vocabulary, 1), BeamSearch())[0][1]


def test_the_end_may_be_the_token_that_also_begins_or_pads() -> None:
    decoder = Language(torch.tensor([[0.0, 3.0, 2.0], [0.0, 0.0, 9.0], [9.0, 0.0, 0.0]]))
    [[begins]] = write(decoder, None, prefix=[[]], bos_id=0, eos_id=0, pad_id=9, max_length=9)
    assert begins.tokens == [1, 2, 0]
    [[pads]] = write(decoder, None, prefix=[[]], bos_id=1, eos_id=2, pad_id=2, max_length=9)
    assert pads.tokens == [2]


def test_the_unknown_token_is_never_generated() -> None:
    """The most probable of the other tokens is generated, with its own probability."""
    table = torch.tensor([[0.0, 1.0, 9.0, 2.0], [9.0, 0.0, 0.0, 0.0], [9.0, 0.0, 0.0, 0.0], [0.0, 9.0, 0.0, 0.0]])
    arguments = {"bos_id": 0, "eos_id": 1, "pad_id": 0, "max_length": 9}
    [[doubtful]] = generate(Language(table), None, prefix=[[]], **arguments)  # type: ignore[arg-type]
    assert doubtful.tokens[0] == 2
    [[known]] = generate(Language(table), None, prefix=[[]], unk_id=2, **arguments)  # type: ignore[arg-type]
    assert known.tokens == [3, 1]
    assert known.log_probability == pytest.approx((table.log_softmax(1)[0, 3] + table.log_softmax(1)[3, 1]).item())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_scores_are_summed_in_float32_at_least(dtype: torch.dtype) -> None:
    table = torch.randn(40, 40, generator=torch.Generator().manual_seed(1)).to(dtype)
    [[best]] = write(Language(table), None, BeamSearch(size=3), prefix=[[]], max_length=200, min_length=200)
    chances = table.double().log_softmax(dim=-1)
    expected = sum(chances[before, after].item() for before, after in itertools.pairwise([BOS, *best.tokens]))
    assert len(best.tokens) == 200
    assert best.log_probability == pytest.approx(expected, rel=1e-12 if dtype is torch.float64 else 3e-6)


@pytest.mark.parametrize("strategy", [BeamSearch(size=3), Sampling(top_p=0.9)])
@pytest.mark.parametrize("fault", [math.nan, math.inf])
def test_broken_logits_are_refused(strategy: DecodingStrategy, fault: float) -> None:
    memory = tables(2, 8)
    memory["logits"][1, :, 5] = fault
    with pytest.raises(ValueError, match="NaN or infinite"):
        write(Hashing(), memory, strategy, max_length=5)
    memory["logits"][1] = -math.inf
    with pytest.raises(ValueError, match="minus infinity for every token"):
        write(Hashing(), memory, strategy, max_length=5)


@pytest.mark.parametrize("strategy", [BeamSearch(size=3), Sampling()])
def test_logits_of_minus_infinity_forbid_a_token(strategy: DecodingStrategy) -> None:
    memory = tables(2, 8)
    memory["logits"][:, :, 3:7] = -math.inf
    found = write(Hashing(), memory, strategy, max_length=4, n_best=3)
    assert {token for hypotheses in found for one in hypotheses for token in one.tokens} <= {EOS, 7}
    memory["logits"][:, :, [EOS, 7]] = -math.inf
    with pytest.raises(ValueError, match="sentence 0"):
        write(Hashing(), memory, strategy, max_length=4)


def test_logits_of_a_dead_hypothesis_are_ignored() -> None:
    table = torch.full((5, 5), math.nan)
    table[BOS] = torch.tensor([-math.inf, -math.inf, 0.0, 1.0, -math.inf])
    table[3] = torch.tensor([-math.inf, -math.inf, 0.0, -math.inf, -math.inf])
    [found] = write(Language(table), None, BeamSearch(size=4), prefix=[[]], max_length=5, n_best=4)
    assert sorted(one.tokens for one in found) == [[EOS], [3, EOS]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_length": 0}, "max_length .*0"),
        ({"max_length": 3, "min_length": 4}, "max_length .*min_length"),
        ({"max_length": torch.tensor([3, 2]), "min_length": 3}, "max_length .*min_length"),
        ({"max_length": torch.tensor([3, 2, 4])}, r"max_length .*got \[2, 3\]"),
        ({"max_length": torch.tensor([[3], [2]])}, "max_length "),
        ({"max_length": torch.tensor([1.5, 2.0])}, "max_length "),
        ({"min_length": -1}, "min_length"),
        ({"n_best": 0}, "n_best .*got 0"),
        ({"n_best": 6}, "beam of 5"),
        ({"prefix": [[4]]}, r"prefix .*got \[1, 2\]"),
        ({"prefix": [[4], [EOS, 4]]}, r"prefix\[1\]"),
        ({"prefix": [[4], [-4]]}, r"prefix\[1\]"),
        ({"prefix": [[4], [30]]}, "8 tokens"),
        ({"prefix": torch.tensor([4, 5])}, r"tensor of \(B, P\)"),
        ({"eos_id": 8}, "8 tokens"),
    ],
)
def test_invalid_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write(Hashing(), tables(2, 8), **{"max_length": 5, **arguments})


def test_answers_of_a_wrong_shape_are_named() -> None:
    class Flat(Language):
        def step(self, tokens: Tensor, state: DecodingState, *, need_weights: bool = False) -> StepOutput:
            return StepOutput(self.table, state, None)

    class Strange(Language):
        def start(self, memory: object) -> DecodingState:
            return DecodingState(None, [{3, 4}])

    table = torch.zeros(6, 6)
    with pytest.raises(ValueError, match=r"\(B, K, V\) = \(1, 1, 'any'\).*\(6, 6\)"):
        write(Flat(table), None, prefix=[[]], max_length=3)
    with pytest.raises(ValueError, match="without attention, leave out"):
        write(Language(table), None, prefix=[[]], max_length=3, need_weights=True)
    with pytest.raises(ValueError, match="without attention, leave out"):
        write(Language(table), None, BeamSearch(coverage_penalty=1.0), prefix=[[]], max_length=3)
    with pytest.raises(TypeError, match="got <class 'set'>"):
        write(Strange(table), None, prefix=[[]], max_length=3)
