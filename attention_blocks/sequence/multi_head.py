"""Multi-head attention, with optional grouped heads, query/key norm, rotary positions and score biases."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from attention_blocks.kernels import leaf
from attention_blocks.sequence.attention import Attention, AttentionOutput, Memory, Past, check_attend, check_project
from attention_blocks.sequence.scores import dot_product_attention
from attention_blocks.weights import Layout


class MultiHeadAttention(Attention):
    """Several scaled dot-product attentions in parallel, each with its own projections.

    ::

        query (B, T_q, D_q) ─ query_proj ─ N heads ─┐
        key   (B, T_k, D_k) ─ key_proj ─ N_kv heads ─┼─ softmax(q·k / sqrt(D_head) + bias) v ─ out_proj ─▶ (B, T_q, D_q)
        value (B, T_k, D_v) ─ value_proj ─ N_kv heads┘

        multi-head   q q q q    grouped   q q q q    multi-query   q q q q
        N_kv = N     │ │ │ │    N_kv < N  ╰┬╯ ╰┬╯    N_kv = 1      ╰─┬─┬─╯
                     k k k k               k   k                     k

    Args:
        query_dim: D_q, and the feature size of the context.
        key_dim: D_k; defaults to ``query_dim``.
        num_heads: N.
        num_kv_heads: N_kv, number of heads of keys and values, each for N / N_kv query heads; defaults to N. Use 1 for
            multi-query attention.
        head_dim: D_head, feature size of a head; defaults to ``query_dim / num_heads``.
        value_dim: D_v; defaults to ``key_dim``.
        bias: whether the four linear layers have a bias.
        dropout: fraction of the weights dropped in training.
        norm: creates the norm of query and key heads, called as ``norm(head_dim)``, such as ``nn.LayerNorm``.
        rotary: creates rotary positions, called as ``rotary(head_dim)``, such as :class:`RotaryPosition`.
        score_bias: creates the bias added to the scores, called as ``score_bias(num_heads)``, such as :class:`ALiBi`;
            it is called as ``bias(T_q, T_k, offset=offset, device=device)`` and returns (N, T_q, T_k).

    Raises:
        ValueError: the numbers of heads do not divide their sizes, a size is not positive, or dropout lies outside
            [0, 1).

    References:
        Vaswani et al. 2017, "Attention Is All You Need"; Shazeer 2019, "Fast Transformer Decoding" (multi-query);
        Ainslie et al. 2023, "GQA" (grouped); Henry et al. 2020, "Query-Key Normalization for Transformers".

    Example:
        >>> import torch
        >>> attention = MultiHeadAttention(query_dim=64, key_dim=32, num_heads=8, num_kv_heads=2)
        >>> context, weights = attention(torch.randn(2, 3, 64), torch.randn(2, 5, 32), need_weights=True)
        >>> context.shape, weights.shape
        (torch.Size([2, 3, 64]), torch.Size([2, 8, 3, 5]))
    """

    def __init__(
        self,
        query_dim: int,
        key_dim: int | None = None,
        *,
        num_heads: int = 8,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        value_dim: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        norm: Callable[[int], nn.Module] | None = None,
        rotary: Callable[[int], nn.Module] | None = None,
        score_bias: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__(query_dim, key_dim, context_dim=query_dim)
        if num_heads < 1:
            raise ValueError(f"num_heads must be 1 or more, got {num_heads}")
        for name, size in (("head_dim", head_dim), ("value_dim", value_dim)):
            if size is not None and size < 1:
                raise ValueError(f"{name} must be a positive feature size, got {size}")
        if head_dim is None and query_dim % num_heads:
            raise ValueError(
                f"num_heads ({num_heads}) must divide query_dim ({query_dim}); choose a divisor or pass head_dim"
            )
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if num_kv_heads < 1 or num_heads % num_kv_heads:
            raise ValueError(f"num_kv_heads ({num_kv_heads}) must be a divisor of num_heads ({num_heads})")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.head_dim = query_dim // num_heads if head_dim is None else head_dim
        self.value_dim = self.key_dim if value_dim is None else value_dim
        self.dropout = dropout
        width, kv_width = num_heads * self.head_dim, num_kv_heads * self.head_dim
        self.query_proj = nn.Linear(query_dim, width, bias=bias)
        self.key_proj = nn.Linear(self.key_dim, kv_width, bias=bias)
        self.value_proj = nn.Linear(self.value_dim, kv_width, bias=bias)
        self.out_proj = nn.Linear(width, query_dim, bias=bias)
        self.query_norm = None if norm is None else norm(self.head_dim)
        self.key_norm = None if norm is None else norm(self.head_dim)
        self.rotary = None if rotary is None else rotary(self.head_dim)
        self.score_bias = None if score_bias is None else score_bias(num_heads)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform weights and zero biases, as in the code of the paper's authors."""
        for linear in (self.query_proj, self.key_proj, self.value_proj, self.out_proj):
            nn.init.xavier_uniform_(linear.weight)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)

    @property
    def layouts(self) -> Mapping[Layout, Mapping[str, str]]:
        """Names in torch's layer, which packs the three projections if their inputs have one size."""
        packed = self.query_dim == self.key_dim == self.value_proj.in_features
        names = {}
        for part in ("query", "key", "value"):
            names[f"{part}_proj.weight"] = "in_proj_weight" if packed else f"{part[0]}_proj_weight"
            names[f"{part}_proj.bias"] = "in_proj_bias"
        return {"torch": names}

    def rearrange(self, key: str, weight: Tensor, layout: Layout) -> Tensor:
        """The third of a packed weight or bias, or the whole of any other; see :func:`load_weights`."""
        if not self.layouts[layout].get(key, "").startswith("in_proj"):
            return weight
        return weight.tensor_split(3)[("query_proj", "key_proj", "value_proj").index(key.partition(".")[0])]

    @property
    def uses_positions(self) -> bool:
        """True with rotary positions or a score bias."""
        return self.rotary is not None or self.score_bias is not None

    def project(self, key: Tensor, value: Tensor | None = None, *, offset: int = 0) -> Memory:
        """Keys and values by head, (B, N_kv, T_k, D_head) each; see :meth:`Attention.project`."""
        check_project(key, value, self.key_dim, self.value_dim)
        heads = self._split(self.key_proj(key), self.key_norm)  # (B, N_kv, T_k, D_head)
        if self.rotary is not None:
            heads = self.rotary(heads, offset=offset)
        return Memory(heads, self._split(self.value_proj(key if value is None else value)))

    def attend(
        self,
        query: Tensor,
        memory: Memory,
        mask: Tensor | None = None,
        *,
        need_weights: bool = False,
        offset: int = 0,
    ) -> AttentionOutput:
        """See :meth:`Attention.attend`; the attention map is (B, N, T_q, T_k), and so may the mask be."""
        sizes = (self.num_kv_heads, self.head_dim)
        mask = check_attend(query, memory, mask, self.query_dim, key_sizes=sizes, num_heads=self.num_heads)
        return self._attend(query, memory, mask, need_weights=need_weights, offset=offset)

    def _attend(
        self,
        query: Tensor,
        memory: Memory | Past,
        mask: Tensor | None,
        *,
        need_weights: bool,
        offset: int,
        dropped: int = 0,
        causal: bool = False,
        same_position: bool = False,
    ) -> AttentionOutput:
        """Attends under a mask that is checked.

        Args:
            query: as in :meth:`attend`.
            memory: as in :meth:`attend`.
            mask: as in :meth:`attend`, with three or four dimensions.
            need_weights: as in :meth:`attend`.
            offset: position of the first query.
            dropped: position of the first key.
            causal: the t-th query may attend to the first t keys only.
            same_position: all queries are at the same position.
        """
        heads = self._split(self.query_proj(query), self.query_norm)  # (B, N, T_q, D_head)
        if self.rotary is not None:
            # Queries at the same position are treated as sequences of length 1.
            rotated = self.rotary(heads.unsqueeze(-2) if same_position else heads, offset=offset)
            heads = rotated.squeeze(-2) if same_position else rotated
        score_bias = None
        if self.score_bias is not None:
            lengths = query.size(1), memory.key.size(-2)
            score_bias = self.score_bias(*lengths, offset=offset - dropped, device=query.device)  # (N, T_q, T_k)
        context, weights = dot_product_attention(
            heads,
            memory.key,
            memory.value,
            _by_head(mask),
            score_bias=score_bias,
            dropout=self.dropout if self.training else 0.0,
            causal=causal,
            need_weights=need_weights,
        )
        context = self.out_proj(context.transpose(1, 2).flatten(2))  # (B, T_q, D_q)
        return AttentionOutput(_without_empty(context, memory.key, mask), weights)

    def _split(self, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        # Normalised before the transposition, while each head is contiguous in memory.
        heads = x.reshape(x.size(0), x.size(1), x.size(2) // self.head_dim, self.head_dim)  # (B, T, N, D_head)
        return (heads if norm is None else norm(heads)).transpose(1, 2)

    def extra_repr(self) -> str:
        """Shows the heads in the printed module."""
        return f"num_heads={self.num_heads}, num_kv_heads={self.num_kv_heads}, head_dim={self.head_dim}"


@leaf
def _by_head(mask: Tensor | None) -> Tensor | None:
    """A mask without a dimension of the heads with one."""
    return mask if mask is None or mask.ndim == 4 else mask.unsqueeze(-3)


@leaf
def _without_empty(context: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    """Zeros for queries that may attend to nothing, which would get the bias of the last projection."""
    if key.size(-2) == 0:
        return torch.zeros_like(context)
    if mask is None:
        return context
    attends = mask.any(dim=-1, keepdim=True)  # (…, T_q, 1)
    return context.masked_fill(~(attends.any(dim=1) if mask.ndim == 4 else attends), 0.0)
