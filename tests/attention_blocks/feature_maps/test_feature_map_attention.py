from __future__ import annotations

import pytest
import torch

from attention_blocks import FeatureMapAttention, SqueezeExcite


def test_a_block_must_define_its_gate() -> None:
    class Nothing(FeatureMapAttention):
        pass

    with pytest.raises(NotImplementedError, match=r"Nothing must define gate\(x\)"):
        Nothing(3)(torch.randn(1, 3, 2, 2))


def test_prints_its_channels() -> None:
    assert "channels=32" in repr(SqueezeExcite(32))
