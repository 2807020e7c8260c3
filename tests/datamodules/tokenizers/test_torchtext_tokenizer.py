import builtins
import importlib.util
import json
import pickle
from collections.abc import Mapping

import pytest

from datamodules import TorchtextTokenizer, TorchtextWords

INSTALLED = importlib.util.find_spec("torchtext") is not None
TEXTS = ["The man's dog sleeps.", "A man sleeps, the dog runs!"]


@pytest.mark.skipif(INSTALLED, reason="torchtext is installed")
@pytest.mark.parametrize(
    "ask",
    [
        lambda: TorchtextWords().train(TEXTS),
        lambda: TorchtextTokenizer('{"tokenizer": "basic_english", "language": "en", "words": ["a"]}'),
    ],
)
def test_without_torchtext_the_error_says_how_to_install_it(ask: object) -> None:
    assert callable(ask)
    with pytest.raises(ImportError, match=r"pip install 'attention-blocks\[torchtext\]' .* torch 2\.3"):
        ask()


def test_a_torchtext_that_fails_to_load_gives_the_same_error(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def broken(name: str, *_: object) -> object:
        raise OSError(f"{name}: undefined symbol")

    monkeypatch.setattr("importlib.import_module", broken)
    with pytest.raises(ImportError, match=r"undefined symbol.*attention-blocks\[torchtext\]"):
        TorchtextWords().train(TEXTS)
    assert builtins.__import__ is real


@pytest.mark.parametrize("definition", ["", "[]", "{}", '{"tokenizer": "basic_english"}', "3"])
def test_unusable_definitions_are_refused(definition: str) -> None:
    with pytest.raises(ValueError, match="must be a JSON object with tokenizer, language and words"):
        TorchtextTokenizer(definition)


def test_min_frequency_is_checked() -> None:
    with pytest.raises(ValueError, match="min_frequency must be 1 or more, got 0"):
        TorchtextWords(min_frequency=0)


class TestWithTorchtext:
    @pytest.fixture(autouse=True)
    def _needs_torchtext(self) -> None:
        pytest.importorskip("torchtext")

    def test_words_are_those_of_torchtext(self) -> None:
        from torchtext.data import get_tokenizer

        made = TorchtextWords().train(TEXTS)
        split = get_tokenizer("basic_english")
        for text, numbers in zip(TEXTS, made.encode(TEXTS), strict=True):
            assert made.tokens(numbers) == split(text)

    def test_special_tokens_come_first(self) -> None:
        made = TorchtextWords().train(TEXTS)
        assert made.tokens([made.pad_id, made.unk_id, made.bos_id, made.eos_id]) == ["<pad>", "<unk>", "<bos>", "<eos>"]
        assert made.encode(["<eos> <pad> zebra"]) == [[1, 1, 1]]
        assert len(made) == 4 + len({"the", "man", "'", "s", "dog", "sleeps", ".", "a", ",", "runs", "!"})

    def test_frequent_words_come_first(self) -> None:
        made = TorchtextWords(min_frequency=2).train(TEXTS)
        assert made.tokens(range(4, len(made))) == ["dog", "man", "sleeps", "the"]

    def test_text_comes_back_in_lower_case(self) -> None:
        made = TorchtextWords().train(TEXTS)
        rows = [[2, *numbers, 3, 0] for numbers in made.encode(TEXTS)]
        assert made.decode(rows) == [text.lower() for text in TEXTS]

    def test_definition_is_enough(self) -> None:
        made = TorchtextWords().train(TEXTS)
        content: Mapping[str, object] = json.loads(made.definition)
        assert content["tokenizer"] == "basic_english"
        again = TorchtextTokenizer(made.definition)
        assert again == made == pickle.loads(pickle.dumps(made))  # noqa: S301
        assert again.encode(TEXTS) == made.encode(TEXTS)

    def test_no_text_is_refused(self) -> None:
        with pytest.raises(ValueError, match="there is no text"):
            TorchtextWords().train([])
