from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attention_blocks import BAM, load_weights

Draw = Callable[[nn.Module], nn.Module]
CHANNELS, PLACES = "channel_att.gate_c.gate_c_", "spatial_att.gate_s.gate_s_"


def _released() -> dict[str, Tensor]:
    """Names and shapes as in the networks that the authors released, for 32 channels reduced to 2."""

    def map_of(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}

    def norm_of(name: str) -> dict[str, tuple[int, ...]]:
        return {f"{name}.{part}": (2,) for part in ("weight", "bias", "running_mean", "running_var")}

    shapes = {
        **map_of(CHANNELS + "fc_0", 2, 32),
        **norm_of(CHANNELS + "bn_1"),
        **map_of(CHANNELS + "fc_final", 32, 2),
        **map_of(PLACES + "conv_reduce0", 2, 32, 1, 1),
        **norm_of(PLACES + "bn_reduce0"),
        **map_of(PLACES + "conv_di_0", 2, 2, 3, 3),
        **norm_of(PLACES + "bn_di_0"),
        **map_of(PLACES + "conv_di_1", 2, 2, 3, 3),
        **norm_of(PLACES + "bn_di_1"),
        **map_of(PLACES + "conv_final", 1, 2, 1, 1),
    }
    return {name: torch.rand(shape, dtype=torch.float64) + 0.1 for name, shape in shapes.items()}


def _normalised(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    parts = ("weight", "bias", "running_mean", "running_var")
    scale, shift, mean, variance = (state[f"{name}.{part}"].view(-1, *[1] * (x.ndim - 2)) for part in parts)
    return (x - mean) / (variance + 1e-5).sqrt() * scale + shift


def _branches(x: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    def parts(name: str) -> tuple[Tensor, Tensor]:
        return state[f"{name}.weight"], state[f"{name}.bias"]

    channels = F.linear(x.mean((2, 3)), *parts(CHANNELS + "fc_0"))
    channels = F.linear(_normalised(channels, state, CHANNELS + "bn_1").relu(), *parts(CHANNELS + "fc_final"))
    locations = _normalised(F.conv2d(x, *parts(PLACES + "conv_reduce0")), state, PLACES + "bn_reduce0").relu()
    for number in "01":
        locations = F.conv2d(locations, *parts(PLACES + "conv_di_" + number), padding=4, dilation=4)
        locations = _normalised(locations, state, PLACES + "bn_di_" + number).relu()
    return channels[:, :, None, None], F.conv2d(locations, *parts(PLACES + "conv_final"))


def test_takes_the_released_weights() -> None:
    """Branches are multiplied there; and maps need not be square here."""
    state, block, x = _released(), BAM(32).double().eval(), torch.randn(2, 32, 9, 5, dtype=torch.float64)
    load_weights(block, state, "authors")
    channels, locations = _branches(x, state)
    torch.testing.assert_close(block(x), x * (1 + torch.sigmoid(channels * locations)))


def test_the_papers_form_adds_normalised_branches(draw: Draw) -> None:
    state, block = _released(), BAM(32, form="paper")
    draw(block)
    plain = BAM(32).double()
    load_weights(plain, state, "authors")
    block.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(2, 32, 5, 5, dtype=torch.float64)
    channels, locations = _branches(x, state)
    norms = {
        f"{branch}.{name}": value
        for branch in ("channel_branch.last_norm", "spatial_branch.last_norm")
        for name, value in block.get_submodule(branch).state_dict().items()
    }
    channels = _normalised(channels.flatten(1), norms, "channel_branch.last_norm")[:, :, None, None]
    locations = _normalised(locations, norms, "spatial_branch.last_norm")
    torch.testing.assert_close(block(x), x * (1 + torch.sigmoid(channels + locations)))


def test_parameters_of_the_authors_code() -> None:
    wanted = (32 * 2 + 2) + 4 + (2 * 32 + 32) + (32 * 2 + 2) + 4 + 2 * (2 * 2 * 9 + 2 + 4) + (2 + 1)
    assert sum(p.numel() for p in BAM(32).parameters()) == wanted


def test_refuses_another_form() -> None:
    with pytest.raises(ValueError, match="form must be 'code' or 'paper', got 'timm'"):
        BAM(32, form="timm")  # type: ignore[arg-type]
