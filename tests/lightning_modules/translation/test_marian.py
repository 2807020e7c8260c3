"""Marian models of Hugging Face: tokenizers, logits and translations stay the same."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from lightning_modules import System, TransformerSeq2Seq
from lightning_modules.generation.beam_search import BeamSearch, LengthPenalty

transformers = pytest.importorskip("transformers")
sentencepiece = pytest.importorskip("sentencepiece")
if not transformers.is_torch_available():
    pytest.skip("this transformers wants a newer torch", allow_module_level=True)

WORDS = re.findall(
    r"\w+", "ein zwei drei Mann Frau Hund Katze geht steht sieht läuft auf unter neben dem der die das Haus Baum"
)
TEXTS = ["Ein Mann geht.", "", "die Frau sieht das Haus, der Hund auch", "zwei", "Löwe 7 ☃", ">>en<< drei Katzen"]


class Marian(NamedTuple):
    """A small Marian model with random weights, and its tokenizer."""

    model: Any
    tokenizer: Any


@pytest.fixture(scope="module")
def marian(tmp_path_factory: pytest.TempPathFactory) -> Marian:
    folder = tmp_path_factory.mktemp("marian")
    vocabulary = {"</s>": 0, "<unk>": 1, ">>en<<": 2}
    for side, step in (("source", 3), ("target", 7)):
        lines = [" ".join(WORDS[(i * step + j) % len(WORDS)] for j in range(6)) for i in range(40)]
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_prefix=str(folder / side),
            vocab_size=60,
            hard_vocab_limit=False,
            minloglevel=2,
        )
        (folder / f"{side}.model").rename(folder / f"{side}.spm")
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / f"{side}.spm"))
        for number in range(3, pieces.get_piece_size()):
            vocabulary.setdefault(pieces.id_to_piece(number), len(vocabulary))
    vocabulary["<pad>"] = len(vocabulary)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    pad = vocabulary["<pad>"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = transformers.MarianMTModel(
            transformers.MarianConfig(
                vocab_size=len(vocabulary),
                d_model=32,
                encoder_layers=1,
                decoder_layers=2,
                encoder_attention_heads=2,
                decoder_attention_heads=4,
                encoder_ffn_dim=48,
                decoder_ffn_dim=40,
                activation_function="swish",
                scale_embedding=True,
                pad_token_id=pad,
                decoder_start_token_id=pad,
                eos_token_id=0,
                forced_eos_token_id=None,
                max_position_embeddings=128,  # longer than any translation here may become
                init_std=0.2,
            )
        ).eval()
        with torch.no_grad():
            for parameter in (one for one in model.parameters() if one.requires_grad):  # positions stay sines
                parameter.add_(0.1 * torch.randn_like(parameter))
            model.final_logits_bias.normal_()
            model.final_logits_bias[0, 0] = 4.0  # so that some sentences end
    model.generation_config.num_beams = 3
    model.generation_config.bad_words_ids = [[pad]]  # as in every converted model; padding is never generated
    files = (str(folder / "source.spm"), str(folder / "target.spm"), str(folder / "vocab.json"))
    return Marian(model, transformers.MarianTokenizer(*files))


def test_the_tokenizers_are_the_same(marian: Marian) -> None:
    ours = TransformerSeq2Seq.from_marian(*marian)
    theirs = marian.tokenizer(TEXTS)["input_ids"]
    assert [[*numbers, 0] for numbers in ours.source_tokenizer.encode(TEXTS)] == theirs
    assert [[*numbers, 0] for numbers in ours.target_tokenizer.encode(TEXTS)] == marian.tokenizer(text_target=TEXTS)[
        "input_ids"
    ]
    plain = [text for text in TEXTS if ">>" not in text]
    sequences = ours.target_tokenizer.encode(plain)
    assert ours.target_tokenizer.decode(sequences) == marian.tokenizer.batch_decode(sequences, skip_special_tokens=True)
    assert len(ours.source_tokenizer) == marian.model.config.vocab_size


def test_logits_are_the_same(marian: Marian) -> None:
    ours, theirs = TransformerSeq2Seq.from_marian(*marian).eval(), marian.model
    batch, mine = marian.tokenizer(TEXTS, return_tensors="pt", padding=True), ours.prepare(TEXTS)
    assert torch.equal(mine.source, batch["input_ids"])
    target = torch.randint(1, len(ours.target_tokenizer) - 1, (len(TEXTS), 7))
    with torch.inference_mode():
        torch.testing.assert_close(
            ours(mine.source, mine.source_lengths, target),
            theirs(**batch, decoder_input_ids=target).logits,
            atol=1e-4,
            rtol=1e-5,
        )


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("alpha", [0.6, 1.0, 2.0])
def test_beams_generate_the_same_text(marian: Marian, size: int, alpha: float) -> None:
    strategy = BeamSearch(size, LengthPenalty(alpha))
    ours = TransformerSeq2Seq.from_marian(*marian, strategy=strategy)
    for text in ("Ein Mann geht.", "die Frau sieht das Haus, der Hund auch", "zwei"):
        batch = marian.tokenizer([text], return_tensors="pt")
        longest = 4 * batch["input_ids"].size(1) + 16
        written = marian.model.generate(
            **batch, num_beams=size, length_penalty=alpha, max_length=1 + longest, do_sample=False
        )
        assert ours.translate([text]) == marian.tokenizer.batch_decode(written, skip_special_tokens=True)


def test_the_models_beam_size_is_kept(marian: Marian) -> None:
    strategy = TransformerSeq2Seq.from_marian(*marian).strategy
    assert isinstance(strategy, BeamSearch)
    assert strategy.size == 3


def test_a_saved_folder_and_a_checkpoint_of_ours(marian: Marian, tmp_path: Path, make_trainer: Any) -> None:  # noqa: ANN401
    marian.model.save_pretrained(tmp_path)
    marian.tokenizer.save_pretrained(tmp_path)
    ours = TransformerSeq2Seq.from_marian(tmp_path)
    wanted = ours.translate(TEXTS)
    assert wanted == TransformerSeq2Seq.from_marian(*marian).translate(TEXTS)
    trainer = make_trainer()
    trainer.strategy.connect(ours)
    trainer.save_checkpoint(tmp_path / "ours.ckpt")
    loaded = System.load_from_checkpoint(tmp_path / "ours.ckpt", weights_only=True)
    assert isinstance(loaded, TransformerSeq2Seq)
    assert loaded.translate(TEXTS) == wanted
    assert loaded.network.embedding.weight is loaded.network.decoder.output.weight


def test_other_models_are_refused(marian: Marian) -> None:
    other = transformers.BartForConditionalGeneration(
        transformers.BartConfig(
            vocab_size=20, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=8, decoder_ffn_dim=8
        )
    )
    with pytest.raises(ValueError, match=r"Marian.* got a BartForConditionalGeneration"):
        TransformerSeq2Seq.from_marian(other, marian.tokenizer)
    with pytest.raises(ValueError, match=r"tokenizer .*got None"):
        TransformerSeq2Seq.from_marian(marian.model)
    config = transformers.MarianConfig(
        vocab_size=20, d_model=16, encoder_layers=1, decoder_layers=1, pad_token_id=19, decoder_start_token_id=19
    )
    with pytest.raises(ValueError, match="model: scale_embedding=False"):
        TransformerSeq2Seq.from_marian(transformers.MarianMTModel(config), marian.tokenizer)
