"""A feature map as a sequence of locations, and the base of the networks that describe images."""

from __future__ import annotations

import pytest
import torch

from attention_blocks import SinCosPosition2d
from lightning_modules.captioning.caption_network import GridEmbedding


def test_each_location_is_normed_projected_and_gets_its_position() -> None:
    embedding, features = GridEmbedding(6, 8, (2, 3)).double(), torch.randn(2, 6, 2, 3, dtype=torch.float64)
    found = embedding(features)
    positions = SinCosPosition2d(8)(torch.zeros(1, 2, 3, 8, dtype=torch.float64))[0]
    for row in range(2):
        for column in range(3):
            x = features[:, :, row, column]
            normed = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
            wanted = normed @ embedding.proj.weight.T + embedding.proj.bias + positions[row, column]
            torch.testing.assert_close(found[:, 3 * row + column], wanted)


def test_dropout_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"dropout .*got 1.0"):
        GridEmbedding(6, 8, (2, 3), dropout=1.0)
