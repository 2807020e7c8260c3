"""The Transformer captioner by itself; behaviour common to all captioners is tested in test_captioner.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, cast

import pytest
from torch import Tensor

from attention_blocks import Attention, DecoderLayer
from datamodules import CaptionBatch, ImageTransform, Word
from lightning_modules import TransformerCaptioner, TransformerCaptionNetwork
from tests.lightning_modules.conftest import CAPTION_TRANSFORMER, TINY_RESNET

if TYPE_CHECKING:
    from tests.lightning_modules.conftest import MakeCaptioner

pytestmark = pytest.mark.filterwarnings("ignore:You are trying to .self.log")


def test_it_takes_any_cross_attention(
    attention: Callable[[int, int], Attention], make_captioner: MakeCaptioner, caption_batch: CaptionBatch
) -> None:
    layer = partial(DecoderLayer, cross_attention=attention)
    network = partial(CAPTION_TRANSFORMER, backbone=TINY_RESNET, decoder_layer=layer)
    system = make_captioner("transformer", network=network)
    loss = system.training_step(caption_batch, 0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in system.parameters())
    assert len(system.caption(cast(Tensor, caption_batch.images))) == 3


def test_the_default_network_is_a_transformer() -> None:
    system = TransformerCaptioner(Word().train(["a dog"]), ImageTransform((16, 24)))
    assert isinstance(system.network, TransformerCaptionNetwork)
    assert system.network.decoder.embedding.num_embeddings == len(system.target_tokenizer)
