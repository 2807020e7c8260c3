from __future__ import annotations

import inspect
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from attention_blocks import (
    CrossAttention,
    DecoderLayer,
    EncoderLayer,
    FeedForward,
    MaskedSelfAttention,
    RMSNorm,
    RotaryPosition,
    SelfAttention,
)
from datamodules import BytePair, ImageTransform
from lightning_modules import (
    RNNSeq2Seq,
    RNNSizes,
    RNNTranslator,
    System,
    TransformerSeq2Seq,
    TransformerTranslator,
    ViTClassifier,
)
from lightning_modules.cli import export as module
from lightning_modules.cli.export import FORMATS
from lightning_modules.generation.beam_search import BeamSearch

TEXTS = ["ein Mann geht", "die Frau sieht das Haus", "zwei Hunde laufen", "ein Haus"]
TOKENIZER = BytePair(vocab_size=60, min_frequency=1).train(TEXTS)


def translator(
    *,
    norm_first: bool = True,
    activation: type[nn.Module] = nn.ReLU,
) -> TransformerSeq2Seq:
    feed_forward = partial(FeedForward, hidden_dim=24, activation=activation)
    common: dict[str, Any] = {"norm_first": norm_first, "feed_forward": feed_forward}
    network = partial(
        TransformerTranslator,
        dim=16,
        depth=2,
        decoder_depth=1,
        encoder_layer=partial(EncoderLayer, attention=partial(SelfAttention, num_heads=4), **common),
        decoder_layer=partial(
            DecoderLayer,
            self_attention=partial(MaskedSelfAttention, num_heads=4),
            cross_attention=partial(CrossAttention, num_heads=4),
            **common,
        ),
        tie_embeddings="all",
    )
    return TransformerSeq2Seq(TOKENIZER, TOKENIZER, network).eval()


def vit() -> ViTClassifier:
    from lightning_modules import VisionTransformer

    return ViTClassifier(3, ImageTransform(8, channels=1), partial(VisionTransformer, patches=4, dim=16, depth=1))


def needs(form: str) -> None:
    if form == "onnx" and "dynamo" not in inspect.signature(torch.onnx.export).parameters:
        pytest.skip("this torch cannot write a traced program as ONNX")
    for package in {"ctranslate2": ["ctranslate2"], "onnx": ["onnx", "onnxscript", "onnxruntime"]}.get(form, []):
        pytest.importorskip(package)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["safetensors", "torch-export", "onnx"])
@pytest.mark.parametrize("make", [vit, translator])
def test_what_is_written_says_the_same(form: str, make: type[System], tmp_path: Path) -> None:
    """Each exporter runs what it wrote on two batch sizes and compares; here once more, by hand, where it is simple."""
    needs(form)
    system = make().eval()
    file = FORMATS[form](system, tmp_path)
    assert file.is_file()
    if form == "torch-export":
        inputs, _ = system.export_inputs()
        some = tuple(torch.cat([tensor, tensor, tensor]) for tensor in inputs)
        with torch.no_grad():
            torch.testing.assert_close(torch.export.load(file).module()(*some), system(*some), atol=1e-4, rtol=1e-4)
    if form == "safetensors":
        assert "network" in json.loads((tmp_path / "config.json").read_text())


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.SiLU])
def test_ctranslate2_writes_the_same_text(norm_first: bool, activation: type[nn.Module], tmp_path: Path) -> None:
    ctranslate2 = pytest.importorskip("ctranslate2")
    system = translator(norm_first=norm_first, activation=activation)
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    FORMATS["ctranslate2"](system, tmp_path)
    engine = ctranslate2.Translator(str(tmp_path), device="cpu")
    eos = TOKENIZER.tokens([TOKENIZER.eos_id])[0]
    for text in TEXTS:
        batch = system.prepare([text])
        [[best]] = system.write(batch, BeamSearch(1))
        [theirs] = engine.translate_batch(
            [TOKENIZER.tokens(batch.source[0].tolist())],
            beam_size=1,
            max_decoding_length=int(system.length_limit(batch)),
            disable_unk=True,
            return_scores=True,
        )
        ours = TOKENIZER.tokens(best.tokens)
        assert theirs.hypotheses[0] == (ours[:-1] if ours[-1] == eos else ours)


def test_a_wrong_export_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ctranslate2")
    monkeypatch.setattr(module, "CT2_ACTIVATIONS", {"ReLU": "GELU"})
    with pytest.raises(RuntimeError, match="the exported log probabilities differ from the system's by"):
        FORMATS["ctranslate2"](translator(), tmp_path)


def test_what_ctranslate2_does_not_support_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2")
    export = FORMATS["ctranslate2"]
    with pytest.raises(ValueError, match=r"format: .* ViTClassifier"):
        export(vit(), tmp_path)
    rotary = partial(EncoderLayer, attention=partial(SelfAttention, num_heads=8, rotary=RotaryPosition))
    with pytest.raises(ValueError, match=r"format: .* SelfAttention"):
        export(system_with(encoder_layer=rotary), tmp_path)
    with pytest.raises(ValueError, match=r"format: .* RMSNorm"):
        export(system_with(encoder_layer=partial(EncoderLayer, norm=RMSNorm)), tmp_path)
    with pytest.raises(ValueError, match=r"format: .* number of heads"):
        export(
            system_with(encoder_layer=partial(EncoderLayer, attention=partial(SelfAttention, num_heads=2))), tmp_path
        )


def system_with(**arguments: object) -> TransformerSeq2Seq:
    return TransformerSeq2Seq(
        TOKENIZER,
        TOKENIZER,
        partial(TransformerTranslator, dim=16, depth=1, **arguments),  # type: ignore[arg-type]
    )


def test_an_rnn_cannot_be_traced(tmp_path: Path) -> None:
    system = RNNSeq2Seq(TOKENIZER, TOKENIZER, partial(RNNTranslator, sizes=RNNSizes(8, 8)))
    with pytest.raises(ValueError, match=r"RNNSeq2Seq cannot be traced by torch\.export"):
        FORMATS["torch-export"](system, tmp_path)
    assert FORMATS["safetensors"](system, tmp_path).is_file()
