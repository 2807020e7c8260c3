"""BAM: a channel branch and a spatial branch in parallel."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor, nn

from attention_blocks.feature_maps.feature_map_attention import FeatureMapAttention, Layout, hidden
from attention_blocks.feature_maps.pooling import mean_of
from attention_blocks.normalised import Normalised

_DILATION = 4


class BAM(FeatureMapAttention):
    """Adds the feature map, gated by a channel branch and a spatial branch, to itself.

    ::

                     ┌─ mean over H and W ─ linear C → C/r ─ norm ─ ReLU ─ linear C/r → C ───────────────┐
        (B, C, H, W) ┤                                                                                   ├─ · ─ σ ─ 1 +
                     └─ 1 x 1, C → C/r ─ [3 x 3, dilated by 4] x 2, norm and ReLU after each ── 1 x 1 → 1 ┘

    The networks released by the authors multiply the branches, gate = 1 + σ(channels · locations). In the paper they
    are added, with a batch norm at the end of each: gate = 1 + σ(BN(channels) + BN(locations)).

    Args:
        channels: C.
        reduction: r; 16 in the authors' code.
        hidden_channels: C/r itself, instead of ``reduction``.
        divisor: round C/r to a multiple of this, at least one. If omitted, r must divide C.
        form: "code", as released, or "paper".

    Raises:
        ValueError: ``reduction`` does not divide ``channels``; a size is not positive; ``form`` is unknown.

    References:
        Park et al. 2018, "BAM: Bottleneck Attention Module".

    Example:
        >>> import torch
        >>> BAM(channels=32).gate(torch.randn(2, 32, 7, 7)).shape
        torch.Size([2, 32, 7, 7])
    """

    layouts: ClassVar[Mapping[Layout, Mapping[str, str]]] = {
        "authors": {
            "channel_branch.down": "channel_att.gate_c.gate_c_fc_0",
            "channel_branch.norm": "channel_att.gate_c.gate_c_bn_1",
            "channel_branch.up": "channel_att.gate_c.gate_c_fc_final",
            "spatial_branch.down": "spatial_att.gate_s.gate_s_conv_reduce0",
            "spatial_branch.norm": "spatial_att.gate_s.gate_s_bn_reduce0",
            "spatial_branch.conv1": "spatial_att.gate_s.gate_s_conv_di_0",
            "spatial_branch.norm1": "spatial_att.gate_s.gate_s_bn_di_0",
            "spatial_branch.conv2": "spatial_att.gate_s.gate_s_conv_di_1",
            "spatial_branch.norm2": "spatial_att.gate_s.gate_s_bn_di_1",
            "spatial_branch.up": "spatial_att.gate_s.gate_s_conv_final",
        }
    }

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        *,
        hidden_channels: int | None = None,
        divisor: int | None = None,
        form: Literal["code", "paper"] = "code",
    ) -> None:
        super().__init__(channels)
        if form not in ("code", "paper"):
            raise ValueError(f"form must be 'code' or 'paper', got {form!r}")
        width = hidden(channels, reduction, hidden_channels, divisor)
        self.form = form
        channel_layers: list[tuple[str, nn.Module]] = [
            ("down", nn.Linear(channels, width)),
            ("norm", nn.BatchNorm1d(width)),
            ("relu", nn.ReLU()),
            ("up", nn.Linear(width, channels)),
        ]
        spatial_layers: list[tuple[str, nn.Module]] = [
            ("down", nn.Conv2d(channels, width, 1)),
            ("norm", nn.BatchNorm2d(width)),
            ("relu", nn.ReLU()),
        ]
        for number in ("1", "2"):
            convolution = nn.Conv2d(width, width, 3, padding=_DILATION, dilation=_DILATION)
            spatial_layers += [("conv" + number, convolution), ("norm" + number, nn.BatchNorm2d(width))]
            spatial_layers += [("relu" + number, nn.ReLU())]
        spatial_layers += [("up", nn.Conv2d(width, 1, 1))]
        if form == "paper":
            channel_layers += [("last_norm", nn.BatchNorm1d(channels))]
            spatial_layers += [("last_norm", nn.BatchNorm2d(1))]
        self.channel_branch = Normalised(OrderedDict(channel_layers))
        self.spatial_branch = Normalised(OrderedDict(spatial_layers))

    def gate(self, x: Tensor) -> Tensor:
        """(B, C, H, W), between 1 and 2."""
        pooled = mean_of(x, (2, 3)).flatten(1)  # (B, C)
        channels = self.channel_branch(pooled)[:, :, None, None]  # (B, C, 1, 1)
        locations = self.spatial_branch(x)  # (B, 1, H, W)
        return 1 + (channels * locations if self.form == "code" else channels + locations).sigmoid()
