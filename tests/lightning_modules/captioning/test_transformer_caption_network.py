"""Caption networks with a Transformer."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from lightning_modules import TransformerCaptionNetwork, VisionTransformer, ViTFeatures

TINY = partial(TransformerCaptionNetwork, 12, (16, 24), 1, dim=16, depth=1, dropout=0.0)
PATCHES = partial(ViTFeatures, network=partial(VisionTransformer, patches=8, dim=24, depth=1))


@pytest.mark.parametrize("encoder_depth", [0, 2])
def test_the_memory_is_the_locations_of_the_feature_map_after_the_encoder_layers(encoder_depth: int) -> None:
    network = TINY(backbone=PATCHES, encoder_depth=encoder_depth).eval()
    features = network.backbone(torch.randn(2, 1, 16, 24))
    memory, wanted = network.encode(features), network.locations(features)
    if encoder_depth:
        assert network.encoder is not None
        assert len(network.encoder.layers) == encoder_depth
        wanted = network.encoder(wanted).hidden
    else:
        assert network.encoder is None
    assert memory.sequence.shape == (2, 2 * 3, 16)
    torch.testing.assert_close(memory.sequence, wanted)
    assert memory.mask is None


def test_depth_counts_decoder_layers() -> None:
    assert len(TINY(depth=3).decoder.layers.layers) == 3


def test_a_negative_depth_is_refused() -> None:
    with pytest.raises(ValueError, match=r"encoder_depth .* got -1"):
        TransformerCaptionNetwork(9, (16, 16), 3, encoder_depth=-1)
