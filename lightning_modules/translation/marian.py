"""Conversion of Marian models of Hugging Face's transformers, such as those of OPUS-MT."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from attention_blocks import (
    CrossAttention,
    DecoderLayer,
    EncoderLayer,
    FeedForward,
    MaskedSelfAttention,
    SelfAttention,
    SinusoidalPosition,
)
from datamodules.tokenizers.sentencepiece_tokenizer import SentencePieceTokenizer
from lightning_modules.generation.beam_search import BeamSearch, LengthPenalty
from lightning_modules.translation.transformer_translator import TransformerTranslator

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


_ACTIVATIONS = {"swish": nn.SiLU, "silu": nn.SiLU, "relu": nn.ReLU, "gelu": nn.GELU}

# Our name and Marian's name of each module of a layer.
_ATTENTION = {"query_proj": "q_proj", "key_proj": "k_proj", "value_proj": "v_proj", "out_proj": "out_proj"}
_BLOCKS = {"attention": "self_attn", "self_attention": "self_attn", "cross_attention": "encoder_attn"}
_OTHERS = {
    "attention_norm": "self_attn_layer_norm",
    "self_attention_norm": "self_attn_layer_norm",
    "cross_attention_norm": "encoder_attn_layer_norm",
    "feed_forward.up_proj": "fc1",
    "feed_forward.down_proj": "fc2",
    "feed_forward_norm": "final_layer_norm",
}


def load_marian(model: str | Path | PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> tuple[Any, Any]:
    """A Marian model and its tokenizer, loaded if a folder or a name is given.

    Args:
        model: a model, or its folder or name.
        tokenizer: tokenizer of the model; ignored if a folder or a name is given.

    Raises:
        ImportError: ``transformers`` is not installed.
        ValueError: the model is not a Marian model, or the tokenizer is missing.
    """
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            "from_marian needs the package transformers: pip install 'attention-blocks[marian]'"
        ) from error
    if isinstance(model, (str, Path)):
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(model))
        model = cast("PreTrainedModel", transformers.AutoModelForSeq2SeqLM.from_pretrained(str(model)))
    if not isinstance(model, transformers.MarianMTModel):
        raise ValueError(f"model must be a Marian model, got a {type(model).__name__}")
    if not isinstance(tokenizer, transformers.MarianTokenizer):
        raise ValueError(f"tokenizer must be the model's MarianTokenizer, got {tokenizer!r:.80}; give both")
    return model, tokenizer


def network_like(model: Any) -> partial[TransformerTranslator]:  # noqa: ANN401
    """Factory of :class:`TransformerTranslator` with the sizes and options of a Marian model.

    Raises:
        ValueError: the model has an option that :class:`TransformerTranslator` does not support.
    """
    config = model.config
    unsupported = {
        "activation_function": config.activation_function not in _ACTIVATIONS,
        "scale_embedding": not config.scale_embedding,
        "tie_word_embeddings": not config.tie_word_embeddings,
    }
    for name, is_unsupported in unsupported.items():
        if is_unsupported:
            raise ValueError(
                f"model: {name}={getattr(config, name)!r} is not supported; use a model that is configured as those of "
                "OPUS-MT"
            )

    def layer(kind: str, blocks: dict[str, type], layer_class: Any) -> Any:  # noqa: ANN401
        heads = {"num_heads": getattr(config, f"{kind}_attention_heads"), "dropout": config.attention_dropout}
        return partial(
            layer_class,
            **{name: partial(block, **heads) for name, block in blocks.items()},
            feed_forward=partial(
                FeedForward,
                hidden_dim=getattr(config, f"{kind}_ffn_dim"),
                activation=_ACTIVATIONS[config.activation_function],
                dropout=config.activation_dropout,
            ),
            norm_first=False,
            dropout=config.dropout,
        )

    return partial(
        TransformerTranslator,
        dim=config.d_model,
        depth=config.encoder_layers,
        decoder_depth=config.decoder_layers,
        encoder_layer=layer("encoder", {"attention": SelfAttention}, EncoderLayer),
        decoder_layer=layer(
            "decoder", {"self_attention": MaskedSelfAttention, "cross_attention": CrossAttention}, DecoderLayer
        ),
        position=partial(SinusoidalPosition, interleaved=False),
        dropout=config.dropout,
        tie_embeddings="all" if config.share_encoder_decoder_embeddings else "target",
        output_bias=bool(model.final_logits_bias.any()),
    )


def renamed_state(model: Any, ours: TransformerTranslator) -> dict[str, Tensor]:  # noqa: ANN401
    """State dict of :class:`TransformerTranslator` with the weights of a Marian model."""
    theirs = cast(dict[str, Tensor], model.state_dict())
    state = {
        "embedding.weight": model.get_encoder().embed_tokens.weight,
        "decoder.embedding.weight": model.get_decoder().embed_tokens.weight,
        "decoder.output.weight": model.lm_head.weight,
    }
    if ours.decoder.output.bias is not None:
        state["decoder.output.bias"] = theirs["final_logits_bias"][0]
    for side, stack in (("encoder", ours.encoder), ("decoder", ours.decoder.layers)):
        prefix = "encoder.layers" if side == "encoder" else "decoder.layers.layers"
        for index, layer in enumerate(stack.layers):
            for mine, name in _names(layer):
                for kind in ("weight", "bias"):
                    state[f"{prefix}.{index}.{mine}.{kind}"] = theirs[f"model.{side}.layers.{index}.{name}.{kind}"]
    return {name: tensor.detach().to(torch.float32, copy=True) for name, tensor in state.items()}


def _names(layer: nn.Module) -> Iterator[tuple[str, str]]:
    """Our name and Marian's name of each linear layer and norm of a layer."""
    present = dict(layer.named_modules())
    for block, theirs in _BLOCKS.items():
        for mine, name in _ATTENTION.items():
            if f"{block}.{mine}" in present:
                yield f"{block}.{mine}", f"{theirs}.{name}"
    for mine, name in _OTHERS.items():
        if mine in present:
            yield mine, name


def tokenizers_like(model: Any, tokenizer: Any) -> tuple[SentencePieceTokenizer, SentencePieceTokenizer]:  # noqa: ANN401
    """Source and target tokenizers of a Marian model."""
    config = model.config
    vocabularies = (tokenizer.encoder, getattr(tokenizer, "target_encoder", tokenizer.encoder))
    source, target = (
        SentencePieceTokenizer.from_files(
            file,
            vocabulary,
            pad_id=config.pad_token_id,
            unk_id=vocabulary[str(tokenizer.unk_token)],
            bos_id=config.decoder_start_token_id,
            eos_id=config.eos_token_id,
        )
        for file, vocabulary in zip(tokenizer.spm_files, vocabularies, strict=True)
    )
    return source, target


def beam_like(model: Any) -> BeamSearch:  # noqa: ANN401
    """Beam search with the generation settings of a Marian model."""
    generation = model.generation_config
    return BeamSearch(generation.num_beams or 1, LengthPenalty(generation.length_penalty or 1.0))
