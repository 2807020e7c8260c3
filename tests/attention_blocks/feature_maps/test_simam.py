from __future__ import annotations

import pytest
import torch

from attention_blocks import SimAM


def test_equals_the_energy_of_the_paper() -> None:
    """Equation 5: e = 4 (σ² + λ) / ((t - μ)² + 2 σ² + 2 λ), and the gate is σ(1 / e)."""
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    mean = x.mean((2, 3), keepdim=True)
    variance = ((x - mean) ** 2).sum((2, 3), keepdim=True) / (5 * 4 - 1)
    energy = 4 * (variance + 1e-4) / ((x - mean) ** 2 + 2 * variance + 2e-4)
    torch.testing.assert_close(SimAM(3)(x), x * torch.sigmoid(1 / energy))


def test_has_no_parameters() -> None:
    assert not SimAM(64).state_dict()


def test_a_constant_map_has_a_constant_gate() -> None:
    torch.testing.assert_close(SimAM(2).gate(torch.full((1, 2, 3, 3), 7.0)), torch.full((1, 2, 3, 3), 0.5).sigmoid())


def test_refuses_a_variance_floor_of_zero() -> None:
    with pytest.raises(ValueError, match=r"variance_floor must be positive.*got 0"):
        SimAM(3, variance_floor=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_wide_map_in_half_precision(dtype: torch.dtype) -> None:
    x = (1000 * torch.randn(2, 3, 8, 8)).to(dtype)
    gate = SimAM(3).gate(x)
    assert gate.dtype == dtype
    torch.testing.assert_close(gate.double(), SimAM(3).gate(x.double()), atol=1e-2, rtol=1e-2)
