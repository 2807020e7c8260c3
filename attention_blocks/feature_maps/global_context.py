"""Global context: one attention-pooled vector of the feature map is added to every location."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from attention_blocks.feature_maps.feature_map_attention import FeatureMapAttention, Layout, check_map, hidden
from attention_blocks.kernels import attention_pool


class GlobalContext(FeatureMapAttention):
    """Adds a vector computed from the attention-pooled feature map to every location, or multiplies by its sigmoid.

    ::

        (B, C, H, W) ┬─ 1 x 1 convolution ─ softmax over locations ─ weighted mean
                     │     ─ linear C → C/r ─ layer norm ─ ReLU ─ linear C/r → C ─┐
                     └────────────────────────────────────────────────────── + ──┴──▶ (B, C, H, W)

        context = Σₚ softmax(w · x)ₚ xₚ over the locations p;   out = x + W₂ relu(LN(W₁ context))

    With ``fuse="add"`` the block is the identity at first: the weights of the last linear layer start at zero.

    Args:
        channels: C.
        reduction: r; 16 in the authors' networks.
        hidden_channels: C/r itself, instead of ``reduction``.
        divisor: round C/r to a multiple of this, at least one; 1 in timm. If omitted, r must divide C.
        fuse: "add", as in the authors' networks, or "multiply" by the sigmoid, as in timm.
        eps: of the layer norm; 1e-6 in timm.

    Attributes:
        score_weight: w, (C,).
        score_bias: added to each score, (1,); a softmax does not see it, but other implementations have it.

    Raises:
        ValueError: ``reduction`` does not divide ``channels``; a size is not positive; ``fuse`` is unknown.

    References:
        Cao et al. 2019, "GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond".

    Example:
        >>> import torch
        >>> block, x = GlobalContext(channels=32), torch.randn(2, 32, 7, 7)
        >>> block.gate(x).shape, torch.equal(block(x), x)
        (torch.Size([2, 1, 7, 7]), True)
    """

    layouts: ClassVar[Mapping[Layout, Mapping[str, str]]] = {
        "authors": {
            "score_weight": "conv_mask.weight",
            "score_bias": "conv_mask.bias",
            "down_proj": "channel_add_conv.0",
            "norm": "channel_add_conv.1",
            "up_proj": "channel_add_conv.3",
        },
        "timm": {
            "score_weight": "conv_attn.weight",
            "score_bias": "conv_attn.bias",
            "down_proj": "mlp_scale.fc1",
            "norm": "mlp_scale.norm",
            "up_proj": "mlp_scale.fc2",
        },
    }

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        *,
        hidden_channels: int | None = None,
        divisor: int | None = None,
        fuse: Literal["add", "multiply"] = "add",
        eps: float = 1e-5,
    ) -> None:
        super().__init__(channels)
        if fuse not in ("add", "multiply"):
            raise ValueError(f"fuse must be 'add' or 'multiply', got {fuse!r}")
        width = hidden(channels, reduction, hidden_channels, divisor)
        self.fuse = fuse
        self.score_weight = nn.Parameter(torch.empty(channels))
        self.score_bias = nn.Parameter(torch.empty(1))
        self.down_proj = nn.Linear(channels, width)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.activation = nn.ReLU()
        self.up_proj = nn.Linear(width, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kaiming-normal scores; the last linear layer starts at zero if its output is added."""
        nn.init.normal_(self.score_weight, std=math.sqrt(2 / self.channels))
        nn.init.zeros_(self.score_bias)
        if self.fuse == "add":
            nn.init.zeros_(self.up_proj.weight)
            nn.init.zeros_(self.up_proj.bias)

    def gate(self, x: Tensor) -> Tensor:
        """Attention weights of the locations, (B, 1, H, W), which sum to 1; with "multiply", the gate, (B, C, 1, 1)."""
        if self.fuse == "multiply":
            return self._transformed(x).sigmoid()
        return self._pool(x)[1].view(x.size(0), 1, *x.shape[2:])

    def forward(self, x: Tensor) -> Tensor:
        """See :meth:`FeatureMapAttention.forward`."""
        check_map(x, self.channels)
        context = self._transformed(x)
        return x + context if self.fuse == "add" else x * context.sigmoid()

    def _transformed(self, x: Tensor) -> Tensor:
        """Vector to add, or logits of the gate: (B, C, 1, 1)."""
        context, _ = self._pool(x)
        return self.up_proj(self.activation(self.norm(self.down_proj(context))))[:, :, None, None]

    def _pool(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Attention-pooled feature map, (B, C), and the weights, (B, H * W)."""
        return attention_pool(x, self.score_weight, self.score_bias)
