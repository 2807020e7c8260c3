"""RNN text decoders: without attention, with Bahdanau's, with Luong's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn

from attention_blocks import AdditiveAttention, Attention, LuongAttention, Memory
from attention_blocks.kernels import dropout
from lightning_modules.generation.decoder import DecodingState, StepOutput
from lightning_modules.plots.rollout import mean_over_heads
from lightning_modules.text.recurrent_cells import RecurrentCells
from lightning_modules.text.text_decoder import Encoded, TextDecoder, embedding, output_layer, sampled

Cell = Literal["rnn", "gru", "lstm"]
RNNS: dict[str, Callable[..., nn.RNNBase]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
CELLS: dict[str, Callable[[int, int], nn.RNNCellBase]] = {
    "rnn": nn.RNNCell,
    "gru": nn.GRUCell,
    "lstm": nn.LSTMCell,
}


@dataclasses.dataclass(frozen=True)
class RNNSizes:
    """Sizes of an RNN, for both sides of an encoder-decoder.

    Args:
        embedding_dim: D, features of a token vector.
        hidden_dim: H, features of a decoder's state and of each position of an encoder's sequence.
        cell: "rnn" (tanh), "gru" or "lstm".
        depth: number of layers.
        dropout: rate of dropout on embeddings, between layers and on the readout.

    Raises:
        ValueError: an unknown cell, a size that is not positive, or ``dropout`` outside [0, 1).
    """

    embedding_dim: int = 256
    hidden_dim: int = 512
    cell: Cell = "gru"
    depth: int = 1
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name, size in (
            ("embedding_dim", self.embedding_dim),
            ("hidden_dim", self.hidden_dim),
            ("depth", self.depth),
        ):
            if size < 1:
                raise ValueError(f"{name} must be 1 or more, got {size}")
        if self.cell not in CELLS:
            raise ValueError(f"cell must be one of {', '.join(get_args(Cell))}, got {self.cell!r}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")

    def rnn(self, input_dim: int, hidden_dim: int, *, bidirectional: bool = False) -> nn.RNNBase:
        """Creates an RNN of these sizes, batch first."""
        between = self.dropout if self.depth > 1 else 0.0
        return RNNS[self.cell](
            input_dim, hidden_dim, self.depth, batch_first=True, dropout=between, bidirectional=bidirectional
        )

    def cells(self, input_dim: int, hidden_dim: int) -> RecurrentCells:
        """Creates cells of these sizes, for one step at a time."""
        return RecurrentCells(CELLS[self.cell], input_dim, hidden_dim, depth=self.depth, dropout=self.dropout)

    @property
    def components(self) -> int:
        """Number of tensors of a state: h, and for an LSTM c."""
        return 2 if self.cell == "lstm" else 1


_SIZES = RNNSizes()


class RNNMemory(NamedTuple):
    """Source of an RNN decoder, with B rows.

    Attributes:
        projected: the source, projected by the attention; ``None`` without attention.
        mask: boolean, True = may attend, (B, 1, T_k), or ``None``.
        summary: first state, (B, 1, H), for a decoder without attention that reads it at every step; else ``None``.
    """

    projected: Memory | None
    mask: Tensor | None
    summary: Tensor | None


class RNNState(NamedTuple):
    """State of an RNN decoder's hypotheses, with B K rows.

    Attributes:
        hidden: components of the RNN's state, h and for an LSTM c, (B K, depth, H) each.
        feed: last readout, (B K, R), with input feeding; else ``None``.
        position: number of tokens read so far, (B K,).
    """

    hidden: tuple[Tensor, ...]
    feed: Tensor | None
    position: Tensor


class RNNTextDecoder(TextDecoder):
    """Base of the RNN decoders: embedding, bridge, RNN, readout and output layer.

    Args:
        vocab_size: V.
        summary_dim: F, features of the source's summary, from which a learned bridge computes the first state.
        sizes: of the RNN.
        extra_dim: features that are concatenated to each embedding.
        readout_dim: input features of the readout.
        tie_embeddings: the output layer uses the embedding's weights; the readout then has R = D features, else R = H.
        stepwise: the input of a step depends on the step before, so that the RNN consists of cells.
    """

    def __init__(
        self,
        vocab_size: int,
        summary_dim: int,
        sizes: RNNSizes,
        *,
        extra_dim: int,
        readout_dim: int,
        tie_embeddings: bool,
        stepwise: bool,
    ) -> None:
        super().__init__()
        self.sizes = sizes
        self.embedding = embedding(vocab_size, sizes.embedding_dim)
        create = sizes.cells if stepwise else sizes.rnn
        self.rnn: RecurrentCells | nn.RNNBase = create(sizes.embedding_dim + extra_dim, sizes.hidden_dim)
        self.bridge = nn.Linear(summary_dim, sizes.components * sizes.depth * sizes.hidden_dim)
        features = sizes.embedding_dim if tie_embeddings else sizes.hidden_dim
        self.readout = nn.Linear(readout_dim, features)
        self.output = output_layer(features, self.embedding, tied=tie_embeddings)

    def embed(self, tokens: Tensor) -> Tensor:
        """Token vectors, scaled to a variance of 1, with dropout: (B, T) to (B, T, D)."""
        vectors = self.embedding(tokens) * self.embedding.embedding_dim**0.5
        return dropout(vectors, self.sizes.dropout, self.training)

    def read_out(self, *parts: Tensor) -> Tensor:
        """Features from which the next token is predicted, (B, T, R), of parts such as state and context, (B, T, …)."""
        return dropout(torch.tanh(self.readout(torch.cat(parts, dim=-1))), self.sizes.dropout, self.training)

    def first_hidden(self, memory: Encoded) -> tuple[Tensor, ...]:
        """Components of the RNN's first state, (B, depth, H) each.

        Raises:
            ValueError: the source has no summary.
        """
        if memory.summary is None:
            raise ValueError("memory.summary is None, but an RNN decoder starts from it; give the encoder's last state")
        state = torch.tanh(self.bridge(memory.summary)).view(
            len(memory.summary), self.sizes.components, self.sizes.depth, self.sizes.hidden_dim
        )  # (B, components, depth, H)
        return state.unbind(dim=1)

    def run(self, x: Tensor, hidden: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Runs the RNN over (B, T, …); returns its outputs, (B, T, H), and the components of its last state.

        Cells run over a single position, T = 1.
        """
        if isinstance(self.rnn, RecurrentCells):
            output, after = self.rnn(x.squeeze(1), hidden)
            return output.unsqueeze(1), after
        # torch has layers first, the state of hypotheses rows first.
        layers_first = tuple(part.transpose(0, 1).contiguous() for part in hidden)
        outputs, last = self.rnn(x, layers_first if len(layers_first) > 1 else layers_first[0])
        return outputs, tuple(part.transpose(0, 1) for part in (last if isinstance(last, tuple) else (last,)))

    def forward(self, tokens: Tensor, memory: Encoded, sampling: float = 0.0) -> Tensor:
        """See :meth:`TextDecoder.forward`.

        Args:
            tokens: (B, T) int64.
            memory: the encoded source.
            sampling: fraction of tokens that are replaced by the decoder's predictions (scheduled sampling).
        """
        return self.unroll(tokens, memory, sampling)[0]

    def unroll(
        self, tokens: Tensor, memory: Encoded, sampling: float = 0.0, *, need_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """The forward pass step by step.

        Args:
            tokens: (B, T) int64.
            memory: the encoded source.
            sampling: as in :meth:`forward`.
            need_weights: also return attention weights.

        Returns:
            Features, (B, T, R), and attention weights, (B, T, T_k), or ``None``.
        """
        features: list[Tensor] = []  # (B, 1, R) each
        maps: list[Tensor] = []  # (B, 1, T_k) each
        embedded = None if sampling else torch.split(self.embed(tokens), 1, dim=1)  # (B, 1, D) each
        state = self.start(memory)
        for position in range(tokens.size(1)):
            if embedded is not None:
                x = embedded[position]
            else:
                token = tokens[:, position : position + 1]  # (B, 1)
                if position:
                    token = sampled(token, self.output(features[-1]).detach(), sampling)
                x = self.embed(token)
            feature, state, weights = self.advance(x, state, need_weights=need_weights)
            features.append(feature)
            maps += [] if weights is None else [weights]
        return torch.cat(features, dim=1), torch.cat(maps, dim=1) if maps else None

    def step(self, tokens: Tensor, state: DecodingState, *, need_weights: bool = False) -> StepOutput:
        """See :meth:`TextDecoder.step`."""
        features, state, weights = self.advance(self.embed(tokens), state, need_weights=need_weights)
        return StepOutput(self.output(features), state, weights)

    def advance(
        self, x: Tensor, state: DecodingState, *, need_weights: bool
    ) -> tuple[Tensor, DecodingState, Tensor | None]:
        """One step.

        Args:
            x: embedded tokens, (B, K, D).
            state: of B sentences and B K hypotheses.
            need_weights: also return attention weights.

        Returns:
            Features, (B, K, R), the state after the step, and attention weights, (B, K, T_k), or ``None``.
        """
        raise NotImplementedError(f"{type(self).__name__} must define advance(x, state, *, need_weights)")


def as_rows(x: Tensor) -> Tensor:
    """(B, K, D) to (B K, 1, D): one sequence of length 1 per hypothesis."""
    return x.reshape(-1, 1, x.size(-1))


def as_beams(x: Tensor, like: Tensor) -> Tensor:
    """(B K, 1, D) to (B, K, D), with the B and K of ``like``."""
    return x.reshape(like.size(0), like.size(1), x.size(-1))


class FixedVectorDecoder(RNNTextDecoder):
    """RNN decoder without attention: the source is one vector.

    ::

        every_step=False   s_t = rnn(y_{t-1}, s_{t-1})       the vector is only the first state
        every_step=True    s_t = rnn([y_{t-1}; c], s_{t-1})  the vector c is also read at every step and by the readout

    Args:
        vocab_size: V.
        memory_dim: D_k; unused.
        summary_dim: F, features of the source's summary.
        sizes: of the RNN.
        every_step: whether the source is read at every step.
        tie_embeddings: the output layer uses the embedding's weights.

    References:
        Sutskever et al. 2014, "Sequence to Sequence Learning with Neural Networks"; Cho et al. 2014, "Learning Phrase
        Representations using RNN Encoder-Decoder" (every step).

    Example:
        >>> decoder = FixedVectorDecoder(10, memory_dim=4, summary_dim=6, sizes=RNNSizes(8, 16))
        >>> memory = Encoded(torch.randn(2, 5, 4), None, torch.randn(2, 6))
        >>> decoder.output(decoder(torch.tensor([[2, 4, 5], [2, 7, 1]]), memory)).shape
        torch.Size([2, 3, 10])
    """

    attends = False

    def __init__(
        self,
        vocab_size: int,
        memory_dim: int,
        summary_dim: int,
        sizes: RNNSizes = _SIZES,
        *,
        every_step: bool = True,
        tie_embeddings: bool = False,
    ) -> None:
        extra_dim = sizes.hidden_dim if every_step else 0
        super().__init__(
            vocab_size,
            summary_dim,
            sizes,
            extra_dim=extra_dim,
            readout_dim=sizes.hidden_dim + extra_dim + sizes.embedding_dim,
            tie_embeddings=tie_embeddings,
            stepwise=False,
        )
        self.every_step = every_step

    def start(self, memory: Encoded) -> DecodingState:
        """See :meth:`TextDecoder.start`."""
        hidden = self.first_hidden(memory)
        summary = hidden[0][:, -1:] if self.every_step else None  # (B, 1, H)
        return DecodingState(
            RNNMemory(None, None, summary),
            RNNState(hidden, None, hidden[0].new_zeros(len(hidden[0]), dtype=torch.long)),
        )

    def forward(self, tokens: Tensor, memory: Encoded, sampling: float = 0.0) -> Tensor:
        """See :meth:`RNNTextDecoder.forward`; without sampling, one call of the RNN for the whole target."""
        if sampling:
            return super().forward(tokens, memory, sampling)
        state = self.start(memory)
        x, summary = self.embed(tokens), cast(RNNMemory, state.memory).summary
        extra = [] if summary is None else [summary.expand(-1, tokens.size(1), -1)]  # (B, T, H)
        outputs, _ = self.run(torch.cat([x, *extra], dim=-1), cast(RNNState, state.hypotheses).hidden)
        return self.read_out(outputs, *extra, x)

    def advance(
        self, x: Tensor, state: DecodingState, *, need_weights: bool
    ) -> tuple[Tensor, DecodingState, Tensor | None]:
        """See :meth:`RNNTextDecoder.advance`; there are no attention weights."""
        hypotheses, summary = cast(RNNState, state.hypotheses), cast(RNNMemory, state.memory).summary
        extra = [] if summary is None else [summary.expand(-1, x.size(1), -1)]  # (B, K, H)
        outputs, hidden = self.run(as_rows(torch.cat([x, *extra], dim=-1)), hypotheses.hidden)  # (B K, 1, H)
        features = self.read_out(as_beams(outputs, x), *extra, x)  # (B, K, R)
        return features, DecodingState(state.memory, RNNState(hidden, None, hypotheses.position + 1)), None


class _AttendingDecoder(RNNTextDecoder):
    """Base of the RNN decoders with attention."""

    attention: Attention
    input_feeding = False

    def start(self, memory: Encoded) -> DecodingState:
        """See :meth:`TextDecoder.start`."""
        hidden = self.first_hidden(memory)
        count = len(hidden[0])
        feed = hidden[0].new_zeros(count, self.readout.out_features) if self.input_feeding else None
        return DecodingState(
            RNNMemory(self.attention.project(memory.sequence), memory.mask, None),
            RNNState(hidden, feed, hidden[0].new_zeros(count, dtype=torch.long)),
        )

    def attend(
        self, query: Tensor, memory: RNNMemory, position: Tensor, *, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Context of each hypothesis, (B, K, D_v), and its attention weights, (B, K, T_k), or ``None``.

        Args:
            query: states, (B, K, H).
            memory: the projected source.
            position: number of tokens read so far, (B K,).
            need_weights: also return attention weights.
        """
        # Reading the position synchronises with the device, so only for blocks that use it.
        offset = int(position[0]) if self.attention.uses_positions else 0
        context, weights = self.attention.attend_beams(
            query, cast(Memory, memory.projected), memory.mask, need_weights=need_weights, offset=offset
        )
        return context, mean_over_heads(weights)


class BahdanauDecoder(_AttendingDecoder):
    """RNN decoder that attends with its previous state; the context is an input of the cell.

    ::

        c_t = attention(s_{t-1}, source)
        s_t = rnn([y_{t-1}; c_t], s_{t-1})
        readout_t = tanh(W [s_t; c_t; y_{t-1}])

    Args:
        vocab_size: V.
        memory_dim: D_k, features of each source position.
        summary_dim: F, features of the source's summary.
        sizes: of the RNN.
        attention: creates the attention as ``attention(H, D_k)``.
        tie_embeddings: the output layer uses the embedding's weights.

    References:
        Bahdanau et al. 2015, "Neural Machine Translation by Jointly Learning to Align and Translate".

    Example:
        >>> decoder = BahdanauDecoder(10, memory_dim=4, summary_dim=6, sizes=RNNSizes(8, 16))
        >>> memory = Encoded(torch.randn(2, 5, 4), None, torch.randn(2, 6))
        >>> decoder.step(torch.tensor([[2], [2]]), decoder.start(memory), need_weights=True).weights.shape
        torch.Size([2, 1, 5])
    """

    def __init__(
        self,
        vocab_size: int,
        memory_dim: int,
        summary_dim: int,
        sizes: RNNSizes = _SIZES,
        *,
        attention: Callable[[int, int], Attention] = AdditiveAttention,
        tie_embeddings: bool = False,
    ) -> None:
        block = attention(sizes.hidden_dim, memory_dim)
        super().__init__(
            vocab_size,
            summary_dim,
            sizes,
            extra_dim=block.context_dim,
            readout_dim=sizes.hidden_dim + block.context_dim + sizes.embedding_dim,
            tie_embeddings=tie_embeddings,
            stepwise=True,
        )
        self.attention = block

    def advance(
        self, x: Tensor, state: DecodingState, *, need_weights: bool
    ) -> tuple[Tensor, DecodingState, Tensor | None]:
        """See :meth:`RNNTextDecoder.advance`."""
        hypotheses = cast(RNNState, state.hypotheses)
        query = as_beams(hypotheses.hidden[0][:, -1:], x)  # (B, K, H)
        context, weights = self.attend(
            query, cast(RNNMemory, state.memory), hypotheses.position, need_weights=need_weights
        )
        outputs, hidden = self.run(as_rows(torch.cat([x, context], dim=-1)), hypotheses.hidden)  # (B K, 1, H)
        features = self.read_out(as_beams(outputs, x), context, x)  # (B, K, R)
        return features, DecodingState(state.memory, RNNState(hidden, None, hypotheses.position + 1)), weights


class LuongDecoder(_AttendingDecoder):
    """RNN decoder that attends after the cell; with input feeding the cell reads the previous readout.

    ::

        s_t = rnn([y_{t-1}; readout_{t-1}], s_{t-1})     readout only with input feeding
        c_t = attention(s_t, source)
        readout_t = tanh(W [c_t; s_t])

    Without input feeding the states do not depend on the attention, so training needs one call of the RNN and one of
    the attention for the whole target.

    Args:
        vocab_size: V.
        memory_dim: D_k, features of each source position.
        summary_dim: F, features of the source's summary.
        sizes: of the RNN.
        attention: creates the attention as ``attention(H, D_k)``.
        input_feeding: whether the cell reads the previous readout.
        tie_embeddings: the output layer uses the embedding's weights.

    References:
        Luong et al. 2015, "Effective Approaches to Attention-based Neural Machine Translation".

    Example:
        >>> decoder = LuongDecoder(10, memory_dim=4, summary_dim=6, sizes=RNNSizes(8, 16))
        >>> memory = Encoded(torch.randn(2, 5, 4), None, torch.randn(2, 6))
        >>> decoder(torch.tensor([[2, 4, 5], [2, 7, 1]]), memory).shape
        torch.Size([2, 3, 16])
    """

    def __init__(
        self,
        vocab_size: int,
        memory_dim: int,
        summary_dim: int,
        sizes: RNNSizes = _SIZES,
        *,
        attention: Callable[[int, int], Attention] = LuongAttention,
        input_feeding: bool = True,
        tie_embeddings: bool = False,
    ) -> None:
        block = attention(sizes.hidden_dim, memory_dim)
        features = sizes.embedding_dim if tie_embeddings else sizes.hidden_dim
        super().__init__(
            vocab_size,
            summary_dim,
            sizes,
            extra_dim=features if input_feeding else 0,
            readout_dim=block.context_dim + sizes.hidden_dim,
            tie_embeddings=tie_embeddings,
            stepwise=input_feeding,
        )
        self.attention = block
        self.input_feeding = input_feeding

    def forward(self, tokens: Tensor, memory: Encoded, sampling: float = 0.0) -> Tensor:
        """See :meth:`RNNTextDecoder.forward`; without input feeding and sampling, one call for the whole target."""
        if self.input_feeding or sampling:
            return super().forward(tokens, memory, sampling)
        outputs, _ = self.run(self.embed(tokens), self.first_hidden(memory))
        context, _ = self.attention(outputs, memory.sequence, mask=memory.mask)  # (B, T, D_v)
        return self.read_out(context, outputs)

    def advance(
        self, x: Tensor, state: DecodingState, *, need_weights: bool
    ) -> tuple[Tensor, DecodingState, Tensor | None]:
        """See :meth:`RNNTextDecoder.advance`."""
        hypotheses = cast(RNNState, state.hypotheses)
        extra = [] if hypotheses.feed is None else [hypotheses.feed.unsqueeze(1)]  # (B K, 1, R)
        outputs, hidden = self.run(torch.cat([as_rows(x), *extra], dim=-1), hypotheses.hidden)  # (B K, 1, H)
        outputs = as_beams(outputs, x)  # (B, K, H)
        context, weights = self.attend(
            outputs, cast(RNNMemory, state.memory), hypotheses.position, need_weights=need_weights
        )
        features = self.read_out(context, outputs)  # (B, K, R)
        feed = features.flatten(0, 1) if self.input_feeding else None
        return features, DecodingState(state.memory, RNNState(hidden, feed, hypotheses.position + 1)), weights
