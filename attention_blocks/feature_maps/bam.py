"""BAM: a gate for each channel and each place, side by side."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor, nn

from attention_blocks.feature_maps.feature_map_attention import FeatureMapAttention, Layout, hidden
from attention_blocks.feature_maps.pooling import mean_of

_DILATION = 4


class BAM(FeatureMapAttention):
    """Adds to the map itself, weighted by a channel branch and a spatial branch together.

    ::

                     ┌─ mean over places ─ linear C → C/r ─ norm ─ ReLU ─ linear C/r → C ────────────────┐
        (B, C, H, W) ┤                                                                                   ├─ · ─ σ ─ 1 +
                     └─ 1 x 1, C → C/r ─ [3 x 3, dilated by 4] x 2, norm and ReLU behind each ─ 1 x 1 → 1 ┘

    The authors' released networks multiply the branches, gate = 1 + σ(channels · places). The paper adds them, and has
    a batch norm at the end of each: gate = 1 + σ(BN(channels) + BN(places)).

    Args:
        channels: C.
        reduction: r; the authors' 16.
        hidden_channels: C/r itself, in place of ``reduction``.
        divisor: C/r is rounded to a multiple of this, at least one. When left out, r must divide C.
        form: "code", as released, or "paper".

    Raises:
        ValueError: ``reduction`` does not divide ``channels``; a size is not positive; ``form`` is neither.

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
        of_channels: list[tuple[str, nn.Module]] = [
            ("down", nn.Linear(channels, width)),
            ("norm", nn.BatchNorm1d(width)),
            ("relu", nn.ReLU()),
            ("up", nn.Linear(width, channels)),
        ]
        of_places: list[tuple[str, nn.Module]] = [
            ("down", nn.Conv2d(channels, width, 1)),
            ("norm", nn.BatchNorm2d(width)),
            ("relu", nn.ReLU()),
        ]
        for number in ("1", "2"):
            convolution = nn.Conv2d(width, width, 3, padding=_DILATION, dilation=_DILATION)
            of_places += [("conv" + number, convolution), ("norm" + number, nn.BatchNorm2d(width))]
            of_places += [("relu" + number, nn.ReLU())]
        of_places += [("up", nn.Conv2d(width, 1, 1))]
        if form == "paper":
            of_channels += [("last_norm", nn.BatchNorm1d(channels))]
            of_places += [("last_norm", nn.BatchNorm2d(1))]
        self.channel_branch = nn.Sequential(OrderedDict(of_channels))
        self.spatial_branch = nn.Sequential(OrderedDict(of_places))

    def gate(self, x: Tensor) -> Tensor:
        """(B, C, H, W), between 1 and 2."""
        channels = self.channel_branch(mean_of(x, (2, 3)).flatten(1))[:, :, None, None]
        places = self.spatial_branch(x)
        return 1 + (channels * places if self.form == "code" else channels + places).sigmoid()
