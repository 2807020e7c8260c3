import json
import math
import os
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules import BytePair, Character, SavedTokenizer, TokenizerTrainer, Unigram, Word
from datamodules.tokenizers.tokenizer_trainers import word_decoder
from tests.paths import ROOT

# Letters with and without marks, composed and not; CJK; Hangul, composed and as jamo; emoji with joiners; spaces.
ALPHABET = (
    "abzAZäÖßéI\u0301e\u0308ñ\u0303 \t\n\u00a0\u3000.,;:!?'\"()-–_/<>[]{}%&@#0189²½한국어\u1100\u1161\u11a8"
    "日本語カタナガ゙、。😀👩\u200d🚀❤\ufe0f▁Ġ\u2028"
)
SENTENCES = [
    "Zwei junge weiße Männer sind im Freien in der Nähe vieler Büsche.",
    "Two young, White males are outside near many bushes!",
    "나는 학교에 간다. 그는 집에 있다.",
    "彼は学校へ行く。私は本を読む。",
    "It's 3 o'clock (or 4): 😀 👩\u200d🚀",
]
EXACT: list[TokenizerTrainer] = [BytePair(vocab_size=400), Unigram(vocab_size=300), Character()]
CHARACTERS = [
    *SENTENCES,
    *ALPHABET,
    ALPHABET,
    unicodedata.normalize("NFC", ALPHABET),
    *unicodedata.normalize("NFC", ALPHABET),
]
TRAINED = [trainer.train(CHARACTERS) for trainer in EXACT]


@pytest.mark.parametrize("which", range(len(EXACT)), ids=["byte pairs", "unigrams", "characters"])
@given(text=st.text(alphabet=ALPHABET, max_size=30))
@settings(max_examples=60, deadline=None)
def test_text_survives_up_to_normalisation(which: int, text: str) -> None:
    made = TRAINED[which]
    expected = unicodedata.normalize("NFC", text)
    [numbers] = made.encode([text])
    if made.unk_id in numbers:  # a composed character that occurs in no training text
        assert not set(expected) <= set(unicodedata.normalize("NFC", "".join(CHARACTERS)))
    else:
        assert made.decode([[made.bos_id, *numbers, made.eos_id, made.pad_id]]) == [expected]


@pytest.mark.parametrize("which", range(len(EXACT)), ids=["byte pairs", "unigrams", "characters"])
def test_sentences_survive_exactly(which: int) -> None:
    made = TRAINED[which]
    texts = [*SENTENCES, *reversed(SENTENCES), " ".join(SENTENCES), "  two  blanks ", ""]
    numbers = made.encode(texts)
    assert made.decode(numbers) == [unicodedata.normalize("NFC", text) for text in texts]
    assert not any(made.unk_id in sequence for sequence in numbers)


@pytest.mark.parametrize("trainer", [BytePair(100), Unigram(100), Word(), Character()])
def test_unseen_characters_are_unknown(trainer: TokenizerTrainer) -> None:
    made = trainer.train(["hello world", "hollow"])
    [numbers] = made.encode(["hello ☃ world"])
    assert numbers.count(made.unk_id) == 1
    assert made.decode([numbers]) == ["hello <unk> world"]


@pytest.mark.parametrize(
    "trainer", [BytePair(200, lower=True), Unigram(100, lower=True), Word(lower=True), Character(lower=True)]
)
def test_lower_case(trainer: TokenizerTrainer) -> None:
    made = trainer.train(["Der Hund läuft nach Ürzig", "der hund LÄUFT"])
    assert made.encode(["DER HUND LÄUFT NACH ÜRZIG"]) == made.encode(["der hund läuft nach ürzig"])
    assert made.decode(made.encode(["Der Hund LÄUFT"])) == ["der hund läuft"]
    assert made.unk_id not in made.encode(["DER"])[0]


@pytest.mark.parametrize("trainer", [BytePair(200), Unigram(100), Word(), Character()])
def test_one_text_in_two_normal_forms_is_one(trainer: TokenizerTrainer) -> None:
    text = "Männer 한국 é"
    made = trainer.train([text])
    [composed, apart] = made.encode([unicodedata.normalize(form, text) for form in ("NFC", "NFD")])
    assert composed == apart
    assert made.unk_id not in apart


@pytest.mark.slow
def test_training_gives_the_same_in_every_process() -> None:
    trainers = "BytePair(150), Unigram(110), Word(), Character()"
    script = (
        "import hashlib; from datamodules import *\n"
        "from tests.datamodules.tokenizers.test_tokenizer_trainers import SENTENCES\n"
        f"for t in ({trainers}): print(hashlib.sha256(t.train(SENTENCES * 3).definition.encode()).hexdigest())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "TOKENIZERS_PARALLELISM": parallel, "PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for parallel, seed in (("true", "1"), ("false", "2"))
    ]
    assert runs[0] == runs[1]
    assert len(set(runs[0].split())) == 4


class TestBytePair:
    def test_frequent_words_are_one_token_with_their_space(self) -> None:
        made = BytePair(200).train(["the dog saw the cat", "a dog and the cat"] * 5)
        assert made.tokens(made.encode(["the dog, the cat"])[0])[:2] == ["▁the", "▁dog"]

    def test_letters_digits_and_punctuation_never_share_a_token(self) -> None:
        made = BytePair(300).train(["dog! dog! 7dogs (dog) 42% dog?!"] * 20)
        for piece in made.tokens(range(4, len(made))):
            kinds = {unicodedata.category(character)[0] for character in piece.replace("▁", "")}
            assert len(kinds - {"P", "S"}) + bool(kinds & {"P", "S"}) <= 1, piece

    def test_the_vocabulary_has_the_given_size_if_the_text_allows(self) -> None:
        assert len(BytePair(150).train(SENTENCES * 2)) == 150
        assert len(BytePair(8000).train(SENTENCES * 2)) < 8000

    def test_rare_pairs_are_not_merged(self) -> None:
        merged = {}
        for least in (1, 3):
            made = BytePair(50, min_frequency=least).train(["aa aa aa bb"])
            merged[least] = {piece for piece in made.tokens(range(4, len(made))) if len(piece) > 1}
        assert merged[3] == {"▁a", "▁aa"}
        assert merged[3] | {"▁b", "▁bb"} == merged[1]

    def test_too_many_characters(self) -> None:
        with pytest.raises(ValueError, match=r"vocab_size=20 is too small: .* 31 tokens already; give at least that"):
            BytePair(20).train(["abcdefghijklmnopqrstuvwxyz"])


class TestWord:
    def test_words_and_punctuation_are_separate(self) -> None:
        made = Word().train(["A man's dog (big), 3 years!"])
        assert made.tokens(made.encode(["A man's dog (big), 3 years!"])[0]) == [
            *("A", "man", "'", "s", "dog", "(", "big", ")", ",", "3", "years", "!"),
        ]

    def test_decoded_text_has_normal_spacing(self) -> None:
        texts = [
            "A man's T-shirt, isn't it (the red one)?",
            "Well: 50% and/or more; done!",
            "¿Qué? «Oui.» “No…” [sic]",
            "彼は学校へ行く、そして。",
        ]
        made = Word().train(texts)
        assert made.decode(made.encode(texts)) == texts

    def test_unknown_spacing_costs_no_bleu(self) -> None:
        texts = ['He said "no" - twice.', "a - b ' c"]
        made = Word().train(texts)
        back = made.decode(made.encode(texts))
        assert [text.replace(" ", "") for text in back] == [text.replace(" ", "") for text in texts]
        assert sacrebleu.corpus_bleu(back[:1], [texts[:1]]).score > 50

    def test_most_frequent_come_first_and_rare_ones_are_unknown(self) -> None:
        texts = ["b b b a a c c d"]
        assert Word().train(texts).tokens(range(4, 8)) == ["b", "a", "c", "d"]
        assert len(Word(min_frequency=2).train(texts)) == 7
        assert len(Word(vocab_size=6).train(texts)) == 6
        assert Word(vocab_size=6).train(texts).encode(["b a c"]) == [[4, 5, 1]]


@given(words=st.lists(st.text("abcdé", min_size=1, max_size=4), min_size=1, max_size=8))
def test_plain_words_are_joined_by_spaces(words: list[str]) -> None:
    assert word_decoder().decode(words) == " ".join(words)


class TestUnigram:
    def test_uses_the_likeliest_segmentation(self) -> None:
        texts = [f"{verb}{ending}" for verb in ("walk", "talk", "jump", "look") for ending in ("s", "ed", "ing", "er")]
        made = Unigram(60).train(texts * 3)
        pieces = json.loads(made.definition)["model"]["vocab"]
        scores = dict(pieces[4:])

        def best(text: str) -> float:
            """Likelihood of the best segmentation, by exhaustive search."""
            if not text:
                return 0.0
            ends = [end for end in range(1, len(text) + 1) if text[:end] in scores]
            return max((scores[text[:end]] + best(text[end:]) for end in ends), default=-math.inf)

        for text in ("walking", "jumper", "lookseder", "gnikool"):
            [numbers] = made.encode([text])
            assert sum(pieces[number][1] for number in numbers) == pytest.approx(best(f" {text}"))
            assert len(numbers) < len(text) + 1 or text == "gnikool"

    def test_the_vocabulary_has_at_most_the_given_size(self) -> None:
        assert 80 < len(Unigram(120).train(SENTENCES * 3)) <= 120

    def test_too_many_characters(self) -> None:
        with pytest.raises(ValueError, match="not large enough to contain all chars"):
            Unigram(10).train(["abcdefghijklmnopqrstuvwxyz"])


class TestSavedTokenizer:
    def test_reads_a_trained_tokenizer(self, tmp_path: Path) -> None:
        made = BytePair(100).train(SENTENCES[:2])
        path = tmp_path / "tokenizer.json"
        path.write_text(made.definition, encoding="utf-8")
        assert SavedTokenizer(path).train(["something else"]) == made
        assert SavedTokenizer(str(path)).recipe == made.definition

    def test_unusable_files_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"path='.*none.json': there is no such file"):
            SavedTokenizer(tmp_path / "none.json").train([])
        (tmp_path / "bad.json").write_bytes(b"\xff\xfe")
        with pytest.raises(ValueError, match=r"path='.*bad.json'"):
            SavedTokenizer(tmp_path / "bad.json").train([])
        (tmp_path / "empty.json").write_text("{}")
        with pytest.raises(ValueError, match=r"path='.*empty.json': definition"):
            SavedTokenizer(tmp_path / "empty.json").train([])


@pytest.mark.parametrize("trainer", [BytePair(100), Unigram(100), Word(), Character()])
@pytest.mark.parametrize("texts", [[], ["", " "[:0]]])
def test_no_text_is_refused(trainer: TokenizerTrainer, texts: list[str]) -> None:
    with pytest.raises(ValueError, match="texts: "):
        trainer.train(texts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocab_size": 4}, "vocab_size must be above 4"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\)"),
        ({"min_frequency": 0}, "min_frequency must be 1 or more, got 0"),
    ],
)
def test_numbers_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BytePair(**arguments)


def test_errors_of_the_texts_themselves_pass_through() -> None:
    def broken() -> list[str]:
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        BytePair().train(text for text in broken())


def test_different_settings_have_different_recipes() -> None:
    trainers = [BytePair(), BytePair(100), BytePair(lower=True), Unigram(), Word(), Character(), Character(True)]
    assert len({trainer.recipe for trainer in trainers}) == len(trainers)
    assert BytePair(100).recipe == BytePair(100).recipe
