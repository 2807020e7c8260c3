"""SelfAttention: seconds over timm's attention, ``nn.MultiheadAttention`` and a floor of projections and fused kernel.

The floor is four ``nn.Linear`` and ``F.scaled_dot_product_attention``. Batches of 4 to 32 sequences of 65 to 512 tokens
with 192 to 512 features, forward alone and with gradients.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from rich.table import Table
from timm.layers.attention import Attention as TimmAttention
from torch import Tensor, nn

from attention_blocks import SelfAttention
from benchmarks.timing import ratio, take_turns

# B, T, D, N.
CASES = [(32, 65, 192, 3), (16, 197, 192, 3), (8, 197, 384, 6), (4, 512, 512, 8)]


class Floor(nn.Module):
    """Minimum of multi-head attention: linear layers for queries, keys, values and output, and the fused kernel."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.projections = nn.ModuleList(nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        batch, length, dim = x.shape
        query, key, value = (
            projection(x).view(batch, length, self.num_heads, dim // self.num_heads).transpose(1, 2)
            for projection in self.projections[:3]
        )
        context = F.scaled_dot_product_attention(query, key, value)
        return self.projections[3](context.transpose(1, 2).reshape(batch, length, dim))


def measure(quick: bool) -> Table:
    """Goal: at most 1.03 of the time of the floor."""
    table = Table("B, T, D, N", "pass", "over the floor", "over timm", "over nn.MultiheadAttention")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for batch, length, dim, heads in CASES[:1] if quick else CASES:
        x = torch.randn(batch, length, dim, device=device, requires_grad=True)
        forward = candidates(x, heads)
        for name, wrap in (("forward", without_grad), ("forward and backward", with_backward)):
            seconds = take_turns({k: wrap(f) for k, f in forward.items()}, 5 if quick else 40)
            row = [str(ratio(seconds["ours"], seconds[other])) for other in ("floor", "timm", "torch")]
            table.add_row(f"{batch}, {length}, {dim}, {heads}", name, *row)
    return table


def candidates(x: Tensor, num_heads: int) -> dict[str, Callable[[], Tensor]]:
    """Self-attention modules of the same sizes, by name."""
    dim = x.size(-1)
    floor = Floor(dim, num_heads).to(x.device)
    timm = TimmAttention(dim, num_heads, qkv_bias=True).to(x.device)
    torchs = nn.MultiheadAttention(dim, num_heads, batch_first=True).to(x.device)
    ours = SelfAttention(dim, num_heads=num_heads).to(x.device)
    return {
        "floor": lambda: floor(x),
        "timm": lambda: timm(x),
        "torch": lambda: torchs(x, x, x, need_weights=False)[0],
        "ours": lambda: ours(x).context,
    }


def without_grad(run: Callable[[], Tensor]) -> Callable[[], object]:
    """Wraps a forward pass without gradients."""

    def forward() -> None:
        with torch.no_grad():
            run()

    return forward


def with_backward(run: Callable[[], Tensor]) -> Callable[[], object]:
    """Wraps a forward pass and the gradients of input and parameters."""

    def both() -> None:
        torch.autograd.backward(run().sum())

    return both
