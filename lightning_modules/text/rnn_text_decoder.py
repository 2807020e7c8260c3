"""Text decoders made of a recurrent network: without attention, with Bahdanau's, with Luong's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn

from attention_blocks import AdditiveAttention, Attention, LuongAttention, Memory
from attention_blocks.kernels import Linear, dropout, unrolled
from lightning_modules.generation.decoder import DecodingState, StepOutput
from lightning_modules.plots.rollout import mean_over_heads
from lightning_modules.text.recurrent_cells import recurrent_step
from lightning_modules.text.text_decoder import Encoded, TextDecoder, embedding, output_map, sampled

Cell = Literal["rnn", "gru", "lstm"]
CELLS: dict[str, Callable[..., nn.RNNBase]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


@dataclasses.dataclass(frozen=True)
class RNNSizes:
    """What the two sides of an RNN encoder-decoder have in common.

    Args:
        embedding_dim: D, features of a token's vector.
        hidden_dim: H, features of a decoder's state, and of each place of an encoder's sequence.
        cell: "rnn" (tanh), "gru" or "lstm".
        depth: layers of the recurrent network.
        dropout: share dropped of the embeddings, between layers, and of the readout.

    Raises:
        ValueError: an unknown cell, a size that is not positive, dropout outside [0, 1).
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
        """A recurrent network of these, batch first."""
        between = self.dropout if self.depth > 1 else 0.0
        return CELLS[self.cell](
            input_dim, hidden_dim, self.depth, batch_first=True, dropout=between, bidirectional=bidirectional
        )

    @property
    def components(self) -> int:
        """Tensors that a state consists of: h, and for an LSTM c."""
        return 2 if self.cell == "lstm" else 1


_SIZES = RNNSizes()


class RNNMemory(NamedTuple):
    """What an RNN decoder keeps of its source, one row a sentence.

    Attributes:
        attended: as the attention projects it; ``None`` without attention.
        mask: True = may attend, (B, 1, T_k), or ``None``.
        summary: the bridged source, (B, 1, H), that a decoder without attention sees at every step; else ``None``.
    """

    attended: Memory | None
    mask: Tensor | None
    summary: Tensor | None


class RNNState(NamedTuple):
    """What an RNN decoder knows of each hypothesis, one row each.

    Attributes:
        hidden: the state's components, h and for an LSTM c, (B K, depth, H) each.
        feed: what the last step attended to, for input feeding, (B K, R); else ``None``.
        position: how many tokens were read, (B K,).
    """

    hidden: tuple[Tensor, ...]
    feed: Tensor | None
    position: Tensor


class RNNTextDecoder(TextDecoder):
    """Base of the recurrent decoders: embedding, bridge, recurrent network, readout, output map.

    Args:
        vocab_size: V.
        summary_dim: F, features of the source's summary; a learned bridge makes the first state from it.
        sizes: of the recurrent network.
        extra_dim: features that are joined to each embedding.
        readout_dim: features that the readout is made from.
        tie_embeddings: the output map has the embedding's weights; the readout then has D features, else H.
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
    ) -> None:
        super().__init__()
        self.sizes = sizes
        self.embedding = embedding(vocab_size, sizes.embedding_dim)
        self.rnn = sizes.rnn(sizes.embedding_dim + extra_dim, sizes.hidden_dim)
        self.bridge = Linear(summary_dim, sizes.components * sizes.depth * sizes.hidden_dim)
        features = sizes.embedding_dim if tie_embeddings else sizes.hidden_dim
        self.readout = Linear(readout_dim, features)
        self.output = output_map(features, self.embedding, tied=tie_embeddings)

    def embed(self, tokens: Tensor) -> Tensor:
        """Token vectors, scaled to a variance of 1 and in training dropped out: (B, T) to (B, T, D)."""
        vectors = self.embedding(tokens) * self.embedding.embedding_dim**0.5
        return dropout(vectors, self.sizes.dropout, self.training)

    def read_out(self, *parts: Tensor) -> Tensor:
        """What the next token is told from, (B, T, R), of state, context and the like."""
        return dropout(torch.tanh(self.readout(torch.cat(parts, dim=-1))), self.sizes.dropout, self.training)

    def first_hidden(self, memory: Encoded) -> tuple[Tensor, ...]:
        """The state's components at the start, (B, depth, H) each.

        Raises:
            ValueError: the source has no summary.
        """
        if memory.summary is None:
            raise ValueError("memory.summary is None, but an RNN decoder starts from it; give the encoder's last state")
        state = torch.tanh(self.bridge(memory.summary)).view(
            len(memory.summary), self.sizes.components, self.sizes.depth, self.sizes.hidden_dim
        )
        return state.unbind(dim=1)

    def run(self, x: Tensor, hidden: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The recurrent network over (B, T, …): outputs (B, T, H), and the state's components after them."""
        if x.size(1) == 1 and x.device.type == "cpu":
            output, after = recurrent_step(self.rnn, x.squeeze(1), hidden)
            return output.unsqueeze(1), after
        # torch wants layers first, a beam wants rows first.
        layers_first = tuple(part.transpose(0, 1).contiguous() for part in hidden)
        outputs, last = self.rnn(x, layers_first if len(layers_first) > 1 else layers_first[0])
        return outputs, tuple(part.transpose(0, 1) for part in (last if isinstance(last, tuple) else (last,)))

    def forward(self, tokens: Tensor, memory: Encoded, sampling: float = 0.0) -> Tensor:
        """See :meth:`TextDecoder.forward`.

        Args:
            tokens: (B, T) int64.
            memory: what is written about.
            sampling: scheduled sampling: the share of tokens that are read as the decoder would have written them.
        """
        return self.unroll(tokens, memory, sampling)[0]

    def unroll(
        self, tokens: Tensor, memory: Encoded, sampling: float = 0.0, *, need_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """As the forward pass, one step after the other.

        Returns:
            The features, (B, T, R), and where each place looked, (B, T, T_k), or ``None``.
        """
        features: list[Tensor] = []
        maps: list[Tensor] = []
        given = None if sampling else torch.split(self.embed(tokens), 1, dim=1)
        state = self.start(memory)
        with unrolled():
            for position in range(tokens.size(1)):
                if given is not None:
                    x = given[position]
                else:
                    token = tokens[:, position : position + 1]
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
        """One token further.

        Args:
            x: embedded tokens, (B, K, D).
            state: of B sentences and B K hypotheses.
            need_weights: also return where each looked.

        Returns:
            The features (B, K, R), the state, and the weights (B, K, T_k) or ``None``.
        """
        raise NotImplementedError(f"{type(self).__name__} must define advance(x, state, *, need_weights)")


def rows(x: Tensor) -> Tensor:
    """(B, K, D) to (B K, 1, D): a row a hypothesis, a single place each."""
    return x.reshape(-1, 1, x.size(-1))


def beams(x: Tensor, like: Tensor) -> Tensor:
    """(B K, 1, D) back to (B, K, D), B and K being those of ``like``."""
    return x.reshape(like.size(0), like.size(1), x.size(-1))


class FixedVectorDecoder(RNNTextDecoder):
    """No attention: all that is known of the source is one vector.

    ::

        every_step=False   s_t = rnn(y_{t-1}, s_{t-1})       the vector is the first state, and fades
        every_step=True    s_t = rnn([y_{t-1}; c], s_{t-1})  and it is seen at every step, the readout too

    Args:
        vocab_size: V.
        memory_dim: D_k; not looked at.
        summary_dim: F, features of the source's summary.
        sizes: of the recurrent network.
        every_step: whether the source is seen at every step.
        tie_embeddings: the output map has the embedding's weights.

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
        )
        self.every_step = every_step

    def start(self, memory: Encoded) -> DecodingState:
        """See :meth:`TextDecoder.start`."""
        hidden = self.first_hidden(memory)
        summary = hidden[0][:, -1:] if self.every_step else None
        return DecodingState(
            RNNMemory(None, None, summary),
            RNNState(hidden, None, hidden[0].new_zeros(len(hidden[0]), dtype=torch.long)),
        )

    def forward(self, tokens: Tensor, memory: Encoded, sampling: float = 0.0) -> Tensor:
        """See :meth:`RNNTextDecoder.forward`; without sampling the whole target is one call of the RNN."""
        if sampling:
            return super().forward(tokens, memory, sampling)
        state = self.start(memory)
        x, summary = self.embed(tokens), cast(RNNMemory, state.memory).summary
        extra = [] if summary is None else [summary.expand(-1, tokens.size(1), -1)]
        outputs, _ = self.run(torch.cat([x, *extra], dim=-1), cast(RNNState, state.hypotheses).hidden)
        return self.read_out(outputs, *extra, x)

    def advance(
        self, x: Tensor, state: DecodingState, *, need_weights: bool
    ) -> tuple[Tensor, DecodingState, Tensor | None]:
        """See :meth:`RNNTextDecoder.advance`; there is no map."""
        known, summary = cast(RNNState, state.hypotheses), cast(RNNMemory, state.memory).summary
        extra = [] if summary is None else [summary.expand(-1, x.size(1), -1)]
        outputs, hidden = self.run(rows(torch.cat([x, *extra], dim=-1)), known.hidden)
        features = self.read_out(beams(outputs, x), *extra, x)
        return features, DecodingState(state.memory, RNNState(hidden, None, known.position + 1)), None


class _AttendingDecoder(RNNTextDecoder):
    """What both kinds of decoders with attention share."""

    attention: Attention
    feeds = False

    def start(self, memory: Encoded) -> DecodingState:
        """See :meth:`TextDecoder.start`."""
        hidden = self.first_hidden(memory)
        count = len(hidden[0])
        feed = hidden[0].new_zeros(count, self.readout.out_features) if self.feeds else None
        return DecodingState(
            RNNMemory(self.attention.project(memory.sequence), memory.mask, None),
            RNNState(hidden, feed, hidden[0].new_zeros(count, dtype=torch.long)),
        )

    def look(
        self, query: Tensor, memory: RNNMemory, position: Tensor, *, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The context of each hypothesis, (B, K, D_v), and where it looked."""
        # Reading a position back makes an accelerator wait; most blocks do not ask for it.
        offset = int(position[0]) if self.attention.uses_positions else 0
        context, weights = self.attention.attend_beams(
            query, cast(Memory, memory.attended), memory.mask, need_weights=need_weights, offset=offset
        )
        return context, mean_over_heads(weights)


class BahdanauDecoder(_AttendingDecoder):
    """Attends with the previous state; the context goes into the cell.

    ::

        c_t = attention(s_{t-1}, source)
        s_t = rnn([y_{t-1}; c_t], s_{t-1})
        readout_t = tanh(W [s_t; c_t; y_{t-1}])

    Args:
        vocab_size: V.
        memory_dim: D_k, features of each place of the source.
        summary_dim: F, features of the source's summary.
        sizes: of the recurrent network.
        attention: makes the attention as ``attention(H, D_k)``.
        tie_embeddings: the output map has the embedding's weights.

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
        )
        self.attention = block

    def advance(
        self, x: Tensor, state: DecodingState, *, need_weights: bool
    ) -> tuple[Tensor, DecodingState, Tensor | None]:
        """See :meth:`RNNTextDecoder.advance`."""
        known = cast(RNNState, state.hypotheses)
        query = beams(known.hidden[0][:, -1:], x)
        context, weights = self.look(query, cast(RNNMemory, state.memory), known.position, need_weights=need_weights)
        outputs, hidden = self.run(rows(torch.cat([x, context], dim=-1)), known.hidden)
        features = self.read_out(beams(outputs, x), context, x)
        return features, DecodingState(state.memory, RNNState(hidden, None, known.position + 1)), weights


class LuongDecoder(_AttendingDecoder):
    """Attends after the cell; with input feeding the cell reads what was attended to a step before.

    ::

        s_t = rnn([y_{t-1}; readout_{t-1}], s_{t-1})     the second only with input feeding
        c_t = attention(s_t, source)
        readout_t = tanh(W [c_t; s_t])

    Without input feeding the states do not depend on the attention, so in training the whole target is one call of
    the RNN and one of the attention.

    Args:
        vocab_size: V.
        memory_dim: D_k, features of each place of the source.
        summary_dim: F, features of the source's summary.
        sizes: of the recurrent network.
        attention: makes the attention as ``attention(H, D_k)``.
        input_feeding: whether the cell reads the last readout.
        tie_embeddings: the output map has the embedding's weights.

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
        )
        self.attention = block
        self.feeds = input_feeding

    def forward(self, tokens: Tensor, memory: Encoded, sampling: float = 0.0) -> Tensor:
        """See :meth:`RNNTextDecoder.forward`; without feeding and sampling everything is done at once."""
        if self.feeds or sampling:
            return super().forward(tokens, memory, sampling)
        outputs, _ = self.run(self.embed(tokens), self.first_hidden(memory))
        context, _ = self.attention.attend(outputs, self.attention.project(memory.sequence), memory.mask)
        return self.read_out(context, outputs)

    def advance(
        self, x: Tensor, state: DecodingState, *, need_weights: bool
    ) -> tuple[Tensor, DecodingState, Tensor | None]:
        """See :meth:`RNNTextDecoder.advance`."""
        known = cast(RNNState, state.hypotheses)
        extra = [] if known.feed is None else [known.feed.unsqueeze(1)]
        outputs, hidden = self.run(torch.cat([rows(x), *extra], dim=-1), known.hidden)
        outputs = beams(outputs, x)
        context, weights = self.look(outputs, cast(RNNMemory, state.memory), known.position, need_weights=need_weights)
        features = self.read_out(context, outputs)
        feed = features.flatten(0, 1) if self.feeds else None
        return features, DecodingState(state.memory, RNNState(hidden, feed, known.position + 1)), weights
