"""Attention on feature maps: seconds and peak memory over timm's modules with the same weights.

Feature maps of 32 x 256 x 28 x 28 and 32 x 64 x 56 x 56, in the default and the channels-last memory format.
``SelfAttention2d`` is compared with timm's ``NonLocalAttn`` of the same widths, but with other weights:
``NonLocalAttn`` ends in batch normalisation, ``SelfAttention2d`` in a learned scale.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch
from rich.table import Table
from timm import layers
from timm.layers.cbam import CbamModule
from timm.layers.coord_attn import CoordAttn
from timm.layers.non_local_attn import NonLocalAttn
from torch import Tensor, nn

from attention_blocks import (
    CBAM,
    CoordinateAttention,
    EfficientChannelAttention,
    FeatureMapAttention,
    GlobalContext,
    SelectiveKernel,
    SelfAttention2d,
    SqueezeExcite,
    load_weights,
)
from benchmarks.timing import ratio, take_turns

SHAPES = [(32, 256, 28, 28), (32, 64, 56, 56)]

# This library's block and timm's module, each created from the number of channels.
PAIRS: dict[str, tuple[Callable[[int], FeatureMapAttention], Callable[[int], nn.Module]]] = {
    "SqueezeExcite": (lambda c: SqueezeExcite(c, divisor=8), lambda c: layers.SEModule(c)),
    "CBAM": (lambda c: CBAM(c, bias=False), CbamModule),
    "EfficientChannelAttention": (EfficientChannelAttention, layers.EcaModule),
    "GlobalContext": (
        lambda c: GlobalContext(c, reduction=8, fuse="multiply", eps=1e-6),
        lambda c: layers.GlobalContext(c),
    ),
    "CoordinateAttention": (
        lambda c: CoordinateAttention(c, hidden_channels=16, bias=False),
        lambda c: CoordAttn(c, rd_channels=16),
    ),
    "SelectiveKernel": (
        lambda c: SelectiveKernel(c, groups=32),
        lambda c: layers.SelectiveKernel(c, groups=32, split_input=False, rd_channels=32),
    ),
    "SelfAttention2d": (SelfAttention2d, NonLocalAttn),
}


def measure(quick: bool) -> Table:
    """Goal: at most 0.95 of timm's time, never above 1.0."""
    columns = ("block", "B, C, H, W", "layout", "forward", "forward and backward", "peak MiB: ours, timm's")
    table = Table(*columns)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for name, (make_ours, make_theirs) in PAIRS.items():
        for shape in [(2, *SHAPES[0][1:])] if quick else SHAPES:
            ours, theirs = make_ours(shape[1]).to(device), make_theirs(shape[1]).to(device)
            comparable = "timm" in ours.layouts
            if comparable:
                load_weights(ours, theirs.state_dict(), "timm")
            for layout in (torch.contiguous_format, torch.channels_last):
                x = torch.randn(shape, device=device).contiguous(memory_format=layout).requires_grad_()
                upstream = torch.randn(shape, device=device).contiguous(memory_format=layout)
                modules = {"ours": ours.to(memory_format=layout), "timm": theirs.to(memory_format=layout)}
                if comparable:
                    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)
                rounds = 2 if quick else 30
                forward = take_turns({k: _forward(m, x) for k, m in modules.items()}, rounds)
                both = take_turns({k: _both(m, x, upstream) for k, m in modules.items()}, rounds)
                memory = [peak_memory(_both(m, x, upstream), device) / 2**20 for m in modules.values()]
                table.add_row(
                    name,
                    ", ".join(map(str, shape)),
                    "channels last" if layout is torch.channels_last else "default",
                    str(ratio(forward["ours"], forward["timm"])),
                    str(ratio(both["ours"], both["timm"])),
                    ", ".join(f"{size:.0f}" for size in memory),
                )
    return table


def _forward(module: nn.Module, x: Tensor) -> Callable[[], object]:
    def run() -> None:
        with torch.no_grad():
            module(x)

    return run


def _both(module: nn.Module, x: Tensor, upstream: Tensor) -> Callable[[], object]:
    leaves = [x, *module.parameters()]

    def run() -> None:
        torch.autograd.grad(module(x), leaves, upstream)

    return run


def peak_memory(run: Callable[[], object], device: str) -> int:
    """Peak memory of a call in bytes, above the memory allocated before it."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)  # returns freed memory to the system, so that the call has to allocate it
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    """Value of a line of /proc/self/status, in bytes (Linux)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
