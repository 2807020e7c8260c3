from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from datamodules.tokenizers.sentencepiece_tokenizer import SentencePieceTokenizer

sentencepiece = pytest.importorskip("sentencepiece")
TEXTS = ["ein Hund sieht einen Mann", "der Mann sieht den Hund", "ein Baum", "der Hund schläft"] * 5


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pieces")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_prefix=str(folder / "m"),
        vocab_size=40,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return folder / "m.model"


@pytest.fixture(scope="module")
def pieces(model: Path) -> Any:  # noqa: ANN401
    return sentencepiece.SentencePieceProcessor(model_file=str(model))


@pytest.fixture(scope="module")
def tokenizer(model: Path, pieces: Any) -> SentencePieceTokenizer:  # noqa: ANN401
    names = [pieces.id_to_piece(number) for number in range(3, pieces.get_piece_size())]
    vocabulary = {"</s>": 0, "<unk>": 1, ">>de<<": 2, **{name: 3 + i for i, name in enumerate(reversed(names))}}
    return SentencePieceTokenizer.from_files(model, vocabulary, pad_id=len(vocabulary), unk_id=1, bos_id=9, eos_id=0)


def test_pieces_of_the_model_with_ids_of_the_vocabulary(tokenizer: SentencePieceTokenizer, pieces: Any) -> None:  # noqa: ANN401
    for text in TEXTS[:4]:
        [numbers] = tokenizer.encode([text])
        assert tokenizer.tokens(numbers) == pieces.encode(text, out_type=str)
        assert tokenizer.decode([[*numbers, 0, numbers[0]]]) == [text]


def test_a_language_code_is_one_token_where_it_is_known(tokenizer: SentencePieceTokenizer) -> None:
    plain, coded, other = tokenizer.encode(["ein Hund", ">>de<<ein Hund", ">>xx<<ein Hund"])
    assert coded == [2, *plain]
    assert other[0] != 2


def test_unknown_tokens_are_omitted(tokenizer: SentencePieceTokenizer) -> None:
    [numbers] = tokenizer.encode(["ein ☃ Hund"])
    assert 1 in numbers
    assert "☃" not in tokenizer.decode([numbers])[0]


def test_it_is_pickled_by_its_definition(tokenizer: SentencePieceTokenizer) -> None:
    again = pickle.loads(pickle.dumps(tokenizer))  # noqa: S301 # our own bytes
    assert again == tokenizer
    assert again.encode(TEXTS[:2]) == tokenizer.encode(TEXTS[:2])


def test_missing_parts_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="definition lacks bos, eos, model, pad, unk"):
        SentencePieceTokenizer('{"vocabulary": {}}')
    with pytest.raises(FileNotFoundError, match=r"model: there is no file .*none\.spm"):
        SentencePieceTokenizer.from_files(tmp_path / "none.spm", {}, pad_id=0, unk_id=1, bos_id=2, eos_id=3)
