"""What is the Transformer captioner's own; what all captioners share is tried in test_captioner.py."""

from __future__ import annotations

import pytest

from lightning_modules import TransformerCaptionNetwork


def test_a_depth_below_none_is_named() -> None:
    with pytest.raises(ValueError, match=r"encoder_depth must be 0 .* or more, got -1"):
        TransformerCaptionNetwork(9, (16, 16), 3, encoder_depth=-1)
