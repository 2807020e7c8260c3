"""Caption networks with an RNN."""

from __future__ import annotations

from functools import partial

import torch

from attention_blocks import AdditiveAttention
from lightning_modules import FixedVectorDecoder, GatedDecoder, ResNetFeatures, RNNCaptionNetwork, RNNSizes

TINY = partial(
    RNNCaptionNetwork,
    12,
    (16, 24),
    1,
    backbone=partial(ResNetFeatures, widths=(8, 12), depth=1),
    sizes=RNNSizes(6, 12, dropout=0.5),
)


def test_with_attention_the_decoder_is_gated_and_without_it_sees_the_image_once() -> None:
    attending, fixed = TINY(attention=AdditiveAttention), TINY()
    assert isinstance(attending.decoder, GatedDecoder)
    assert isinstance(attending.decoder.attention, AdditiveAttention)
    assert isinstance(fixed.decoder, FixedVectorDecoder)
    images = torch.randn(2, 1, 16, 24)
    for network in (attending, fixed):
        assert network.decoder.sizes == RNNSizes(6, 12, dropout=0.5)
        assert network(images, torch.tensor([[2, 4, 5], [2, 7, 6]])).shape == (2, 3, 12)


def test_the_memory_is_the_locations_and_their_mean() -> None:
    network = TINY(attention=AdditiveAttention).eval()
    features = network.backbone(torch.randn(2, 1, 16, 24))
    memory = network.encode(features)
    rows, columns = features.shape[2:]
    assert memory.sequence.shape == (2, rows * columns, 12)
    torch.testing.assert_close(memory.sequence, network.locations(features))
    assert memory.summary is not None
    torch.testing.assert_close(memory.summary, memory.sequence.mean(dim=1))
    assert memory.mask is None


def test_dropout_of_the_sizes_acts_on_the_locations_in_training_only() -> None:
    network = TINY().eval()
    features = network.backbone(torch.randn(2, 1, 16, 24))
    assert network.encode(features).sequence.all()
    dropped = (network.train().encode(features).sequence == 0).float().mean().item()
    assert 0.3 < dropped < 0.7
