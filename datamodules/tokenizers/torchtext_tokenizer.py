"""torchtext's tokenizers and ``Vocab`` as a :class:`Tokenizer`; needs torchtext."""

from __future__ import annotations

import importlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol

from datamodules.tokenizers.tokenizer import SPECIAL_TOKENS, UNK, Tokenizer
from datamodules.tokenizers.tokenizer_trainers import TokenizerTrainer, word_decoder


class _Vocab(Protocol):
    """The part of ``torchtext.vocab.Vocab`` that is used here."""

    def __len__(self) -> int: ...

    def __call__(self, tokens: list[str]) -> list[int]: ...

    def lookup_tokens(self, indices: list[int]) -> list[str]: ...

    def set_default_index(self, index: int | None) -> None: ...


class TorchtextTokenizer(Tokenizer):
    """A tokenizer of torchtext with a ``torchtext.vocab.Vocab``.

    Decoding joins words as :class:`Word` does, since torchtext does not decode. Text never becomes a special token: a
    word that is spelled like one is unknown.

    Args:
        definition: JSON object with the arguments ``tokenizer`` and ``language`` of ``torchtext.data.get_tokenizer``,
            and the ``words`` of the vocabulary in order, without the special tokens.

    Attributes:
        vocab: the ``Vocab``.

    Raises:
        ImportError: torchtext cannot be imported.
        ValueError: the definition is not such an object.
    """

    pad_id, unk_id, bos_id, eos_id = range(4)

    def __init__(self, definition: str) -> None:
        super().__init__(definition)
        try:
            content = json.loads(definition)
            name, language, words = content["tokenizer"], content["language"], content["words"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"definition: {definition[:60]!r}… must be a JSON object with tokenizer, language and words ({error})"
            ) from error
        self._split = _splitter(name, language)
        ordered = dict.fromkeys([*SPECIAL_TOKENS, *words], 1)
        self.vocab: _Vocab = _torchtext("vocab").vocab(ordered)
        self.vocab.set_default_index(self.unk_id)
        self._decoder = word_decoder()

    def __len__(self) -> int:
        return len(self.vocab)

    def encode(self, texts: Sequence[str], *, dropout: bool = False) -> list[list[int]]:
        """See :meth:`Tokenizer.encode`; there is no dropout."""
        return [self.vocab([UNK if word in SPECIAL_TOKENS else word for word in self._split(text)]) for text in texts]

    def decode(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """See :meth:`Tokenizer.decode`; joins words by rules, see :class:`Word`."""
        return [self._decoder.decode(self.vocab.lookup_tokens(self.content(ids))) for ids in sequences]

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """See :meth:`Tokenizer.tokens`."""
        return self.vocab.lookup_tokens(list(ids))


@dataclass(frozen=True)
class TorchtextWords(TokenizerTrainer):
    """Trainer of a :class:`TorchtextTokenizer`: words of a tokenizer of torchtext.

    Args:
        tokenizer: argument of ``torchtext.data.get_tokenizer``: ``basic_english``, which also lower-cases, or
            ``spacy``, ``moses``, ``toktok``, ``revtok``, ``subword``, each of which needs the package of its name.
        language: language of the text, for tokenizers that depend on it.
        min_frequency: words that occur less often become ``<unk>``.

    Raises:
        ImportError: torchtext cannot be imported; raised when it is trained.
        ValueError: ``min_frequency`` is below 1.

    Example:
        >>> "TorchtextWords" in TorchtextWords(min_frequency=2).recipe
        True
    """

    tokenizer: str = "basic_english"
    language: str = "en"
    min_frequency: int = 1

    def __post_init__(self) -> None:
        if self.min_frequency < 1:
            raise ValueError(f"min_frequency must be 1 or more, got {self.min_frequency}")

    def train(self, texts: Iterable[str]) -> TorchtextTokenizer:
        """Builds the vocabulary, in order of frequency, then in alphabetical order.

        Raises:
            ImportError: torchtext, or a package that the tokenizer needs, cannot be imported.
            ValueError: torchtext has no such tokenizer, or there is no text.
        """
        split = _splitter(self.tokenizer, self.language)
        counts = Counter(word for text in texts for word in split(text) if word not in SPECIAL_TOKENS)
        if not counts:
            raise ValueError("texts: there is no text to train a tokenizer on")
        frequent = [(-count, word) for word, count in counts.items() if count >= self.min_frequency]
        words = [word for _, word in sorted(frequent)]
        content = {"tokenizer": self.tokenizer, "language": self.language, "words": words}
        return TorchtextTokenizer(json.dumps(content, ensure_ascii=False))


def _splitter(name: str, language: str) -> Callable[[str], list[str]]:
    return _torchtext("data").get_tokenizer(name, language=language)


def _torchtext(part: str) -> ModuleType:
    try:
        return importlib.import_module(f"torchtext.{part}")
    except (ImportError, OSError, AttributeError) as error:  # its C++ extension fails to load with other torch releases
        raise ImportError(
            f"torchtext cannot be imported ({error}); pip install 'attention-blocks[torchtext]' installs it, with "
            "torch 2.3, the last release that it supports"
        ) from error
