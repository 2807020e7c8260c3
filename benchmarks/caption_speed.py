"""Caption generation: captions per second of this library over Hugging Face's ``VisionEncoderDecoderModel.generate``.

A ViT encoder and a Transformer decoder of the same sizes on both sides, with random weights; 16 images of 224 pixels in
patches of 16, 16 generated tokens, beams of 1 and 5, float32.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
from rich.table import Table
from torch import Tensor, nn

from attention_blocks import DecoderLayer, FeedForward, LearnedPosition, MaskedSelfAttention, MultiHeadAttention
from benchmarks.timing import ratio, take_turns
from lightning_modules.backbones.image_features import ViTFeatures
from lightning_modules.backbones.vit import VisionTransformer
from lightning_modules.captioning.caption_network import CaptionNetwork
from lightning_modules.captioning.transformer_caption_network import TransformerCaptionNetwork
from lightning_modules.generation.beam_search import BeamSearch
from lightning_modules.generation.engine import generate

# Encoder (D, layers) and decoder (D, layers, V). The first decoder has the sizes of captioner_transformer_flickr8k, the
# second those of GPT-2.
CASES = [((192, 12), (512, 3, 8_000)), ((384, 12), (768, 12, 50_257))]
IMAGES, SIZE, PATCH, NEW_TOKENS = 16, 224, 16, 16
BEAMS = (1, 5)


def measure(quick: bool) -> Table:
    """Goal: at least 2.0. The encoder costs the same on both sides; the table shows its fraction of our time."""
    table = Table(
        "ViT D, layers", "decoder D, layers, V", "beam", "captions/s, ours over HF", "encoder's fraction of our time"
    )
    images = torch.randn(2 if quick else IMAGES, 3, SIZE, SIZE)
    for encoder, decoder in CASES[:1] if quick else CASES:
        theirs, ours = hugging_face_model(encoder, decoder), our_network(encoder, decoder)
        for beam in BEAMS:
            seconds = take_turns(
                {
                    "theirs": partial(generate_hugging_face, theirs, images, beam),
                    "ours": partial(generate_ours, ours, images, beam),
                    "encoder": partial(encode, ours, images),
                },
                3 if quick else 7,
            )
            table.add_row(
                ", ".join(map(str, encoder)),
                ", ".join(f"{size:,}" for size in decoder),
                str(beam),
                str(ratio(seconds["theirs"], seconds["ours"])),
                str(ratio(seconds["encoder"], seconds["ours"])),
            )
    return table


def hugging_face_model(encoder: tuple[int, int], decoder: tuple[int, int, int]) -> nn.Module:
    """Hugging Face model: ViT and GPT-2 with cross-attention."""
    from transformers import GPT2Config, VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig

    (width, depth), (dim, layers, vocabulary) = encoder, decoder
    vit = ViTConfig(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
        image_size=SIZE,
        patch_size=PATCH,
    )
    gpt2 = GPT2Config(
        vocab_size=vocabulary, n_embd=dim, n_layer=layers, n_head=dim // 64, bos_token_id=0, eos_token_id=1
    )
    model: Any = VisionEncoderDecoderModel(VisionEncoderDecoderConfig.from_encoder_decoder_configs(vit, gpt2))
    model.generation_config.decoder_start_token_id = model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = 1
    return cast(nn.Module, model.eval())


def our_network(encoder: tuple[int, int], decoder: tuple[int, int, int]) -> TransformerCaptionNetwork:
    """This library's network of the same sizes: pre-norm layers and learned positions."""
    (width, depth), (dim, layers, vocabulary) = encoder, decoder
    heads = dim // 64
    return TransformerCaptionNetwork(
        vocabulary,
        (SIZE, SIZE),
        3,
        backbone=partial(ViTFeatures, network=partial(VisionTransformer, patches=PATCH, dim=width, depth=depth)),
        dim=dim,
        depth=layers,
        encoder_depth=0,
        decoder_layer=partial(
            DecoderLayer,
            self_attention=partial(MaskedSelfAttention, num_heads=heads),
            cross_attention=partial(MultiHeadAttention, num_heads=heads),
            feed_forward=partial(FeedForward, hidden_dim=4 * dim),
        ),
        position=partial(LearnedPosition, max_length=1024),
    ).eval()


def generate_hugging_face(model: nn.Module, images: Tensor, beam: int) -> Tensor:
    """Generates captions with Hugging Face."""
    with torch.inference_mode():
        rows: Tensor = model.generate(  # type: ignore[operator]
            images, num_beams=beam, do_sample=False, min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS
        )
    assert rows.shape == (len(images), NEW_TOKENS + 1)
    return rows


def encode(network: CaptionNetwork, images: Tensor) -> Tensor:
    """Encodes images with this library."""
    with torch.inference_mode():
        return network.encode(network.backbone(images)).sequence


def generate_ours(network: CaptionNetwork, images: Tensor, beam: int) -> list[list[int]]:
    """Generates captions with this library."""
    with torch.inference_mode():
        memory = network.encode(network.backbone(images))
    hypotheses = generate(
        network.decoder,
        memory,
        BeamSearch(beam),
        bos_id=0,
        eos_id=1,
        pad_id=2,
        min_length=NEW_TOKENS,
        max_length=NEW_TOKENS,
    )
    assert all(len(best[0].tokens) == NEW_TOKENS for best in hypotheses)
    return [best[0].tokens for best in hypotheses]
