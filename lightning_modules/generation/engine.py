"""The engine that generates token sequences for every system: batched, cached, one loop for beams and sampling."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from lightning_modules.generation.beam_search import BeamSearch
from lightning_modules.generation.decoder import Decoder, DecodingState, Hypothesis, StepOutput
from lightning_modules.generation.decoding_strategy import DecodingStrategy, Options

T = TypeVar("T")

_BEAM_SEARCH = BeamSearch()


def generate(
    decoder: Decoder,
    memory: Any,  # noqa: ANN401
    strategy: DecodingStrategy = _BEAM_SEARCH,
    *,
    bos_id: int,
    eos_id: int,
    pad_id: int,
    unk_id: int | None = None,
    max_length: int | Tensor,
    min_length: int = 0,
    prefix: Sequence[Sequence[int]] | Tensor | None = None,
    n_best: int = 1,
    need_weights: bool = False,
    generator: torch.Generator | None = None,
) -> list[list[Hypothesis]]:
    """Generates the best token sequences for each sentence of a batch.

    Sentences leave the batch as soon as they are done. ``pad_id`` and ``unk_id`` are never generated, nor is
    ``bos_id`` unless it equals ``eos_id``; a prefix may contain them. Log probabilities are those of the decoder's
    full distribution, in which banned tokens keep their probability, and are summed in float32 or wider. Runs in
    inference mode; returned tensors are ordinary ones.

    Args:
        decoder: computes the logits.
        memory: input of ``decoder.start``.
        strategy: :class:`BeamSearch` or :class:`Sampling`; defaults to a beam search of size 5.
        bos_id: token before the first one.
        eos_id: token that ends a hypothesis.
        pad_id: token that pads the shorter sentences of a batch.
        unk_id: token that stands for all unknown ones; defaults to none.
        max_length: maximum number of tokens to generate, (B,) or one number for all sentences, ``eos_id`` included
            and the prefix excluded. Hypotheses that have not ended by then are cut.
        min_length: minimum number of tokens to generate before ``eos_id``.
        prefix: tokens that every hypothesis of a sentence starts with, one list per sentence or (B, P), padded with
            ``pad_id`` on the right. A prefix that ends in ``eos_id`` is a finished hypothesis.
        n_best: number of hypotheses to return per sentence.
        need_weights: also return attention weights.
        generator: random number generator of :class:`Sampling`; defaults to torch's global one.

    Returns:
        Up to ``n_best`` hypotheses per sentence, best first; fewer only if no more exist.

    Raises:
        TypeError: the decoder's state is not a tree of tensors.
        ValueError: an argument is out of its range or contradicts another; the decoder's output has a wrong shape, or
            its logits are NaN, infinite or all minus infinity; or every token is banned for some sentence.

    Example:
        A decoder that most likely counts up from the last token:

        >>> class Counting:
        ...     def start(self, memory):
        ...         return DecodingState(memory, None)
        ...     def step(self, tokens, state, *, need_weights=False):
        ...         return StepOutput(5.0 * torch.eye(8)[(tokens + 1) % 8], state, None)
        >>> numbers = dict(bos_id=2, eos_id=7, pad_id=0, max_length=9)
        >>> [[best]] = generate(Counting(), torch.zeros(1, 4), **numbers)
        >>> best.tokens, round(best.log_probability, 3)
        ([3, 4, 5, 6, 7], -0.23)
        >>> [hypothesis.tokens for hypothesis in generate(Counting(), torch.zeros(1, 4), n_best=2, **numbers)[0]]
        [[3, 4, 5, 6, 7], [3, 4, 5, 6, 3, 4, 5, 6, 7]]
    """
    if n_best < 1:
        raise ValueError(f"n_best must be 1 or more, got {n_best}")
    with torch.inference_mode():
        state = decoder.start(memory)
        sentences, vocabulary = _read(state, eos_id, max_length, min_length, _unpad(prefix, pad_id))
        search = _Search(
            decoder=decoder,
            strategy=strategy,
            width=strategy.width(n_best),
            eos_id=eos_id,
            never=sentences.number.new_tensor(never_generated(bos_id, eos_id, pad_id, unk_id)),
            vocabulary=vocabulary,
            need_weights=need_weights or strategy.needs_weights,
            generator=generator,
        )
        found = search.run(state, sentences, bos_id)
    # Inference tensors cannot be trained on, so their copies are returned.
    return [
        [
            best._replace(weights=best.weights.clone() if need_weights and best.weights is not None else None)
            for best in hypotheses[:n_best]
        ]
        for hypotheses in found
    ]


def never_generated(bos_id: int, eos_id: int, pad_id: int, unk_id: int | None = None) -> list[int]:
    """Tokens that :func:`generate` never generates, in ascending order.

    Example:
        >>> never_generated(bos_id=2, eos_id=3, pad_id=0, unk_id=1), never_generated(bos_id=2, eos_id=2, pad_id=0)
        ([0, 1, 2], [0])
    """
    return sorted({bos_id, pad_id, pad_id if unk_id is None else unk_id} - {eos_id})


class _Sentences(NamedTuple):
    """Sentences that are not done.

    Attributes:
        number: row in the input batch, (B,).
        forced: prefix, padded with -1, (B, P).
        prefix_length: (B,).
        min_length: minimum number of tokens before ``eos_id``, prefix included, (B,).
        max_length: maximum number of tokens, prefix included, (B,).
    """

    number: Tensor
    forced: Tensor
    prefix_length: Tensor
    min_length: Tensor
    max_length: Tensor


class _Hypotheses(NamedTuple):
    """K hypotheses of each sentence.

    Attributes:
        log_probability: (B, K); minus infinity for a hypothesis that is not continued.
        score: (B, K); minus infinity where there is no hypothesis.
        length: number of tokens, (B, K).
        tokens: (B, K, T).
        weights: attention weights, (B, K, T, T_k), or ``None``.
    """

    log_probability: Tensor
    score: Tensor
    length: Tensor
    tokens: Tensor
    weights: Tensor | None


@dataclasses.dataclass(frozen=True)
class _Search:
    """One run of the engine.

    Attributes:
        decoder: computes the logits.
        strategy: chooses the tokens.
        width: K, hypotheses per sentence.
        eos_id: token that ends a hypothesis.
        never: tokens that are never generated, (m,).
        vocabulary: smallest vocabulary that contains ``eos_id`` and all prefixes.
        need_weights: whether attention weights are kept.
        generator: random number generator.
    """

    decoder: Decoder
    strategy: DecodingStrategy
    width: int
    eos_id: int
    never: Tensor
    vocabulary: int
    need_weights: bool
    generator: torch.Generator | None

    def run(self, state: DecodingState, sentences: _Sentences, bos_id: int) -> list[list[Hypothesis]]:
        """Generates until every sentence is done; the hypotheses of each, best first."""
        results: list[list[Hypothesis]] = [[] for _ in range(len(sentences.number))]
        shortest_prefix = int(sentences.prefix_length.min()) if results else 0
        last = torch.full((len(results), 1), bos_id, device=sentences.number.device)  # (B, 1)
        zeros = torch.zeros(last.shape, device=last.device)  # (B, 1)
        running = _Hypotheses(zeros, zeros, zeros.long(), last[..., None][..., :0], None)  # T = 0 tokens
        finished: _Hypotheses | None = None
        while len(last):
            position = running.tokens.size(2)
            output = self.decoder.step(last, state, need_weights=self.need_weights)  # logits (B, K, V)
            self._check(output, last)
            width = 1 if position < shortest_prefix else self.width
            candidates, origin = self._continue(running, output, sentences, width)  # (B, C)
            broken = candidates.log_probability.isnan().any()
            too_long = (position + 1 >= sentences.max_length)[:, None]  # (B, 1)
            ends = (candidates.tokens[..., -1] == self.eos_id) | too_long  # (B, C)
            finished = self._finish(finished, candidates, ends, width)  # (B, up to K)
            running, origin = _go_on(candidates, origin, ends, width)  # (B, width)
            unfinished = running.score.amax(dim=1) > finished.score[:, -1]  # (B,)
            # Row of each hypothesis's origin among the decoder's B K rows.
            rows = torch.arange(len(last), device=last.device)[:, None] * last.size(1) + origin  # (B, width)
            moved = (rows.flatten() != torch.arange(rows.numel(), device=rows.device)).any()
            # The only synchronisation with the device in a step.
            left, is_broken, is_moved = torch.stack([unfinished.sum(), broken.long(), moved.long()]).tolist()
            if is_broken:
                raise ValueError(
                    f"the decoder's logits of token {position} are NaN or infinite, or minus infinity for every token; "
                    "look for an overflow in half precision, or for a mask that lets nothing through"
                )
            memory, hypotheses = output.state
            if left < len(last):
                done = (~unfinished).nonzero()[:, 0]  # (sentences done,)
                _collect(results, sentences.number[done], _select(finished, done))
                kept = unfinished.nonzero()[:, 0]  # (left,)
                sentences, memory, running, finished, rows = _select((sentences, memory, running, finished, rows), kept)
            if left < len(last) or is_moved or origin.size(1) != last.size(1):
                hypotheses = _select(hypotheses, rows.flatten())
            state = DecodingState(memory, hypotheses)
            last = running.tokens[..., -1]  # (left, width)
        return results

    def _check(self, output: StepOutput, last: Tensor) -> None:
        shape, weights = output.logits.shape, output.weights
        if len(shape) != 3 or shape[:2] != last.shape or not output.logits.is_floating_point():
            raise ValueError(
                f"the decoder must return floating-point logits of (B, K, V) = {(*last.shape, 'any')}, got "
                f"{output.logits.dtype} of {tuple(shape)}"
            )
        if shape[2] < self.vocabulary:
            raise ValueError(
                f"eos_id or a token of prefix is {self.vocabulary - 1}, but the decoder's vocabulary has only "
                f"{shape[2]} tokens; give them ids below that"
            )
        if self.need_weights and (weights is None or weights.ndim != 3 or weights.shape[:2] != last.shape):
            raise ValueError(
                f"the decoder must return weights of (B, K, T_k) = {(*last.shape, 'any')}, got "
                f"{None if weights is None else tuple(weights.shape)}; without attention, leave out need_weights and "
                "coverage_penalty"
            )

    def _continue(
        self, running: _Hypotheses, output: StepOutput, sentences: _Sentences, width: int
    ) -> tuple[_Hypotheses, Tensor]:
        """C hypotheses with one more token, and the index of the one that each continues, (B, C)."""
        position = running.tokens.size(2)
        forced = sentences.forced[:, position] if position < sentences.forced.size(1) else None  # (B,)
        options = Options(output.logits, running.log_probability, self._banned(running, sentences), forced)
        log_probability, origin, token = self.strategy.propose(options, width, self.generator)  # (B, C) each
        if self.need_weights and output.weights is not None:
            latest = output.weights[:, :, None]  # (B, K, 1, T_k)
            running = running._replace(
                weights=latest if running.weights is None else torch.cat([running.weights, latest], dim=2)
            )
        before = _choose(running, origin)  # (B, C)
        coverage = None if before.weights is None else before.weights.sum(dim=2)  # (B, C, T_k)
        length = (position + 1 - sentences.prefix_length).clamp(min=1)[:, None]  # (B, 1)
        score = self.strategy.score(log_probability, length, coverage if self.strategy.needs_weights else None)
        tokens = torch.cat([before.tokens, token[..., None]], dim=2)  # (B, C, T + 1)
        return _Hypotheses(log_probability, score, before.length + 1, tokens, before.weights), origin

    def _banned(self, running: _Hypotheses, sentences: _Sentences) -> Tensor:
        """Tokens that may not follow, (B, K, m)."""
        position = running.tokens.size(2)
        shape = running.log_probability.shape
        end = sentences.min_length.new_full(shape, self.eos_id)  # (B, K)
        too_early = end.masked_fill((position >= sentences.min_length)[:, None], -1)  # (B, K)
        repeating = self.strategy.repeating(running.tokens)  # (B, K, n)
        return torch.cat([self.never.expand(*shape, -1), too_early[..., None], repeating], dim=2)

    def _finish(self, finished: _Hypotheses | None, candidates: _Hypotheses, ends: Tensor, width: int) -> _Hypotheses:
        """The best finished hypotheses, sorted, up to K per sentence."""
        # Only the best ``width`` candidates may end; the others are in reserve, to be continued in their place.
        reserve = torch.arange(ends.size(1), device=ends.device) >= width  # (C,)
        absent = ~ends | reserve | candidates.log_probability.isneginf()  # (B, C)
        ended = candidates._replace(score=candidates.score.masked_fill(absent, -math.inf))
        pool = ended if finished is None else _join(finished, ended)  # (B, K + C)
        return _choose(pool, pool.score.topk(min(self.width, pool.score.size(1))).indices)


def _go_on(candidates: _Hypotheses, origin: Tensor, ends: Tensor, width: int) -> tuple[_Hypotheses, Tensor]:
    """The best ``width`` candidates that have not ended and their origins; in order if only ``width`` were proposed."""
    dead = ends | candidates.log_probability.isneginf()  # (B, C)
    alive = candidates._replace(
        log_probability=candidates.log_probability.masked_fill(dead, -math.inf),
        score=candidates.score.masked_fill(dead, -math.inf),
    )
    if origin.size(1) == width:
        return alive, origin
    order = alive.log_probability.topk(width).indices  # (B, width)
    return _choose(alive, order), origin.gather(1, order)


def _join(finished: _Hypotheses, ended: _Hypotheses) -> _Hypotheses:
    """Concatenates the hypotheses, (B, K) and (B, C) to (B, K + C); ``ended`` is one token longer than ``finished``."""
    weights = ended.weights
    if finished.weights is not None and weights is not None:
        weights = torch.cat([F.pad(finished.weights, (0, 0, 0, 1)), weights], dim=1)  # (B, K + C, T, T_k)
    return _Hypotheses(
        torch.cat([finished.log_probability, ended.log_probability], dim=1),
        torch.cat([finished.score, ended.score], dim=1),
        torch.cat([finished.length, ended.length], dim=1),
        torch.cat([F.pad(finished.tokens, (0, 1)), ended.tokens], dim=1),  # (B, K + C, T)
        weights,
    )


def _choose(hypotheses: _Hypotheses, index: Tensor) -> _Hypotheses:
    """Selects C of each sentence's K hypotheses by index, (B, C)."""
    # One index_select over (B K) rows is faster than a gather per field.
    first = torch.arange(index.size(0), device=index.device)[:, None] * hypotheses.score.size(1)  # (B, 1)
    rows = (first + index).flatten()  # (B C,)
    return tree_map(
        lambda leaf: None if leaf is None else leaf.flatten(0, 1).index_select(0, rows).unflatten(0, index.shape),
        hypotheses,
    )


def _select(tree: T, rows: Tensor) -> T:
    """Selects rows of every tensor of a tree."""
    return tree_map(lambda leaf: leaf.index_select(0, rows) if isinstance(leaf, Tensor) else leaf, tree)


def _collect(results: list[list[Hypothesis]], numbers: Tensor, done: _Hypotheses) -> None:
    """Adds the hypotheses of the sentences that are done to the results, by the sentences' numbers."""
    columns = (done.score, done.log_probability, done.length, done.tokens)
    for row, number in enumerate(numbers.tolist()):
        for rank, (score, log_probability, length, tokens) in enumerate(
            zip(*(column[row].tolist() for column in columns), strict=True)
        ):
            if score > -math.inf:
                weights = None if done.weights is None else done.weights[row, rank, :length]
                results[number].append(Hypothesis(tokens[:length], score, log_probability, weights))
        if not results[number]:
            raise ValueError(
                f"nothing can be generated for sentence {number}: min_length, no_repeat_ngram and logits of minus "
                "infinity rule out every token; allow more"
            )


def _unpad(prefix: Sequence[Sequence[int]] | Tensor | None, pad_id: int) -> list[list[int]] | None:
    """The prefix as one list per sentence, without padding."""
    if prefix is None:
        return None
    if not isinstance(prefix, Tensor):
        return [list(tokens) for tokens in prefix]
    if prefix.ndim != 2:
        raise ValueError(f"prefix must be one list per sentence or a tensor of (B, P), got {tuple(prefix.shape)}")
    # Padding is what only pad_id follows: a prefix may contain pad_id.
    real = (prefix != pad_id).flip(1).cumsum(dim=1).flip(1) > 0  # (B, P)
    return [row[:length] for row, length in zip(prefix.tolist(), real.sum(dim=1).tolist(), strict=True)]


def _read(
    state: DecodingState, eos_id: int, max_length: int | Tensor, min_length: int, prefix: list[list[int]] | None
) -> tuple[_Sentences, int]:
    """The sentences' prefixes and limits, checked, and the smallest vocabulary that contains ``eos_id`` and them."""
    tensors = [leaf for leaf in tree_leaves(tuple(state)) if _is_tensor(leaf)]
    sizes = {len(tensor) for tensor in tensors}
    if prefix is not None:
        sizes.add(len(prefix))
    if isinstance(max_length, Tensor):
        if max_length.ndim != 1 or max_length.is_floating_point():
            raise ValueError(f"max_length must be a whole number or (B,) whole numbers, got {max_length}")
        tensors.append(max_length)
        sizes.add(len(max_length))
    if len(sizes) != 1:
        raise ValueError(
            f"the tensors of decoder.start(memory), max_length and prefix must have one row per sentence, got "
            f"{sorted(sizes) or 'no'} rows; a decoder without tensors needs prefix=[[]] * sentences"
        )
    [size] = sizes
    device = tensors[0].device if tensors else None
    prefix = [[]] * size if prefix is None else prefix
    for number, tokens in enumerate(prefix):
        if min(tokens, default=0) < 0 or eos_id in tokens[:-1]:
            raise ValueError(
                f"prefix[{number}]={tokens} must hold token ids of 0 or more, and eos_id={eos_id} only as its last"
            )
    longest = torch.as_tensor(max_length, dtype=torch.int64, device=device).expand(size)
    if min_length < 0 or (longest < max(1, min_length)).any():
        raise ValueError(
            f"max_length must be 1 or more and no less than min_length, which is 0 or more, got {max_length} and "
            f"{min_length}"
        )
    widest = max(map(len, prefix), default=0)
    forced = [[*tokens, *[-1] * (widest - len(tokens))] for tokens in prefix]
    prefix_length = torch.tensor([len(tokens) for tokens in prefix], dtype=torch.int64, device=device)
    sentences = _Sentences(
        number=torch.arange(size, device=device),
        forced=torch.tensor(forced, dtype=torch.int64, device=device).view(size, widest),
        prefix_length=prefix_length,
        min_length=prefix_length + min_length,
        max_length=prefix_length + longest,
    )
    return sentences, 1 + max(eos_id, *(token for tokens in prefix for token in tokens), 0)


def _is_tensor(leaf: object) -> bool:
    """Whether a leaf of a decoder's state is a tensor with rows.

    Raises:
        TypeError: the leaf may not be part of a state.
    """
    if isinstance(leaf, Tensor) and leaf.ndim > 0:
        return True
    if leaf is None or isinstance(leaf, (int, float, str)):
        return False
    raise TypeError(
        "the state of a decoder must consist of tuples, named tuples, lists and dicts of tensors with one row per "
        f"sentence or hypothesis, numbers, strings and None, got {leaf if isinstance(leaf, Tensor) else type(leaf)}"
    )
