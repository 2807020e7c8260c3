"""Trainers of tokenizers: on text, or from a file."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from datamodules.tokenizers.tokenizer import SPECIAL_TOKENS, UNK, SubwordTokenizer, Tokenizer

# Letters, digits and punctuation never share a token, and a word includes the space before it: concatenating the pieces
# gives the text again.
_PIECES = r" ?[\p{L}\p{M}]+| ?\p{N}+| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"
_CHARACTER = r"[\s\S]"
_WORDS = r"\w+|[^\w\s]"

# Spaces to remove between tokens that are words or punctuation marks.
_NO_SPACE = (
    r" (?=[.,;:!?…%)\]}»”、。！？])",
    r"(?<=[(\[{«“¿¡、。！？]) ",
    r"(?<=\w) (?=['’\-/] \w)",
    r"(?<=\w['’\-/]) (?=\w)",
)


class TokenizerTrainer(ABC):
    """Base of all trainers of tokenizers; subclass it to bring your own to any DataModule with text.

    A subclass defines :meth:`train`, which must return the same tokenizer for the same texts in every process.

    Example:
        >>> class Lowered(TokenizerTrainer):
        ...     def train(self, texts):
        ...         return Word().train(text.lower() for text in texts)
        >>> Lowered().train(["A B a"]).tokens([4, 5])
        ['a', 'b']
    """

    @abstractmethod
    def train(self, texts: Iterable[str]) -> Tokenizer:
        """Trains a tokenizer on texts.

        Raises:
            ValueError: the texts do not suffice.
        """

    @property
    def recipe(self) -> str:
        """All settings that the tokenizer depends on besides the texts; part of the key of cached files."""
        kind = f"{type(self).__module__}.{type(self).__qualname__}"
        return json.dumps([kind, tokenizers.__version__, vars(self)], sort_keys=True, default=repr)


@dataclass(frozen=True)
class BytePair(TokenizerTrainer):
    """Byte-pair encoding: merges the most frequent pairs of characters first; decoding is exact.

    The basic units are characters, not bytes: unseen ones become ``<unk>``. Text is normalised to Unicode NFC. Words
    include the space before them; letters, digits and punctuation never share a token.

    Args:
        vocab_size: maximum size of the vocabulary, characters and the four special tokens included.
        lower: whether to lower-case all text.
        dropout: fraction of the merges to omit at random whenever a sentence is encoded for training.
        min_frequency: pairs that occur less often are not merged.

    Raises:
        ValueError: a number is out of range.

    References:
        Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units".

    Example:
        >>> tokenizer = BytePair(vocab_size=30, lower=True).train(["so long and thanks for all the fish"])
        >>> tokenizer.decode(tokenizer.encode(["The fish is all on the tan sand."]))
        ['the fish is all on the tan sand<unk>']
    """

    vocab_size: int = 8000
    lower: bool = False
    dropout: float = 0.0
    min_frequency: int = 2

    def __post_init__(self) -> None:
        _check_counts(self.vocab_size, self.min_frequency)
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")

    def train(self, texts: Iterable[str]) -> SubwordTokenizer:
        """Learns the merges.

        Raises:
            ValueError: there is no text, or ``vocab_size`` is too small for its characters.
        """
        blank = _spaced(models.BPE(unk_token=UNK, dropout=self.dropout or None), self.lower)
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            min_frequency=self.min_frequency,
            special_tokens=list(SPECIAL_TOKENS),
            show_progress=False,
        )
        return _trained(blank, trainer, texts, self.vocab_size)


@dataclass(frozen=True)
class Unigram(TokenizerTrainer):
    """Unigram language model over pieces of words, tokenized for the highest likelihood; decoding is exact.

    Text is normalised as by :class:`BytePair`; adjacent unknown characters become one ``<unk>``.

    Args:
        vocab_size: maximum size of the vocabulary, characters and the four special tokens included.
        lower: whether to lower-case all text.

    Raises:
        ValueError: ``vocab_size`` is not above the number of special tokens.

    References:
        Kudo 2018, "Subword Regularization: Improving Neural Network Translation Models with Multiple Subword
        Candidates".

    Example:
        >>> tokenizer = Unigram(vocab_size=30, lower=True).train(["so long and thanks for all the fish"])
        >>> tokenizer.decode(tokenizer.encode(["Thanks, fish"]))
        ['thanks<unk> fish']
    """

    vocab_size: int = 8000
    lower: bool = False

    def __post_init__(self) -> None:
        _check_counts(self.vocab_size)

    def train(self, texts: Iterable[str]) -> SubwordTokenizer:
        """Learns the pieces and their probabilities.

        Raises:
            ValueError: there is no text, or ``vocab_size`` is too small for its characters.
        """
        trainer = trainers.UnigramTrainer(
            vocab_size=self.vocab_size, special_tokens=list(SPECIAL_TOKENS), unk_token=UNK, show_progress=False
        )
        learned = _trained(_spaced(models.Unigram(), self.lower), trainer, texts, self.vocab_size)
        return SubwordTokenizer(_settle(learned.definition))


@dataclass(frozen=True)
class Word(TokenizerTrainer):
    r"""Whole words and single punctuation marks, as in many tutorials.

    A word is a run of letters, digits and underscores (the pattern ``\w+``). Decoding joins tokens with spaces, but
    adds none before ``.,;:!?…%)]}»”``, none after ``([{«“¿¡``, none next to ``、。！？``, and none around an
    apostrophe, hyphen or slash between two words. Other spacing, such as that of straight quotation marks, is not
    restored.

    Args:
        vocab_size: maximum size of the vocabulary, the four special tokens included; the most frequent words are kept.
            If omitted, all words.
        lower: whether to lower-case all text.
        min_frequency: words that occur less often become ``<unk>``.

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> tokenizer = Word(lower=True).train(["The man's T-shirt (red)."])
        >>> [numbers] = tokenizer.encode(["The man's red T-shirt, big"])
        >>> tokenizer.tokens(numbers)
        ['the', 'man', "'", 's', 'red', 't', '-', 'shirt', '<unk>', '<unk>']
        >>> tokenizer.decode([numbers])
        ["the man's red t-shirt <unk> <unk>"]
    """

    vocab_size: int | None = None
    lower: bool = False
    min_frequency: int = 1

    def __post_init__(self) -> None:
        _check_counts(self.vocab_size, self.min_frequency)

    def train(self, texts: Iterable[str]) -> SubwordTokenizer:
        """Builds the vocabulary.

        Raises:
            ValueError: there is no text.
        """
        blank = tokenizers.Tokenizer(models.WordLevel(unk_token=UNK))
        blank.normalizer = _normalizer(self.lower)
        blank.pre_tokenizer = pre_tokenizers.Split(Regex(_WORDS), "removed", invert=True)
        blank.decoder = word_decoder()
        return _trained(blank, _word_trainer(self.vocab_size, self.min_frequency), texts)


@dataclass(frozen=True)
class Character(TokenizerTrainer):
    """One token per character, spaces included; decoding is exact.

    Args:
        lower: whether to lower-case all text.
        min_frequency: characters that occur less often become ``<unk>``.

    Raises:
        ValueError: ``min_frequency`` is below 1.

    Example:
        >>> tokenizer = Character().train(["0123456789"])
        >>> tokenizer.tokens(tokenizer.encode(["42"])[0])
        ['4', '2']
    """

    lower: bool = False
    min_frequency: int = 1

    def __post_init__(self) -> None:
        _check_counts(None, self.min_frequency)

    def train(self, texts: Iterable[str]) -> SubwordTokenizer:
        """Builds the vocabulary.

        Raises:
            ValueError: there is no text.
        """
        blank = tokenizers.Tokenizer(models.WordLevel(unk_token=UNK))
        blank.normalizer = _normalizer(self.lower)
        blank.pre_tokenizer = pre_tokenizers.Split(Regex(_CHARACTER), "isolated")
        blank.decoder = decoders.Fuse()
        return _trained(blank, _word_trainer(None, self.min_frequency), texts)


@dataclass(frozen=True)
class SavedTokenizer(TokenizerTrainer):
    """A tokenizer from a file, independent of the texts.

    Args:
        path: path of a JSON file of Hugging Face's ``tokenizers``: the ``tokenizer.json`` of a published model, or a
            saved ``SubwordTokenizer.definition``.

    Raises:
        FileNotFoundError: there is no such file; raised when it is read.

    Example:
        >>> SavedTokenizer("no/such/tokenizer.json").train([])
        Traceback (most recent call last):
        FileNotFoundError: path='no/such/tokenizer.json': there is no such file; give a tokenizer's JSON file
    """

    path: str | Path

    def train(self, texts: Iterable[str]) -> SubwordTokenizer:
        """Reads the file; ``texts`` is ignored.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not a tokenizer with the special tokens.
        """
        try:
            return SubwordTokenizer(self._read())
        except ValueError as error:
            raise ValueError(f"path={str(self.path)!r}: {error}") from error

    @property
    def recipe(self) -> str:
        """Content of the file."""
        return self._read()

    def _read(self) -> str:
        if not Path(self.path).is_file():
            raise FileNotFoundError(f"path={str(self.path)!r}: there is no such file; give a tokenizer's JSON file")
        return Path(self.path).read_bytes().decode("utf-8")


def word_decoder() -> decoders.Decoder:
    """Decoder that joins words and punctuation marks, see :class:`Word`.

    Example:
        >>> word_decoder().decode(["oh", ",", "isn", "'", "t", "it", "(", "nearly", ")", "so", "?"])
        "oh, isn't it (nearly) so?"
    """
    # No token of Word begins with "##", so this only joins tokens with spaces.
    joined: list[decoders.Decoder] = [decoders.WordPiece(prefix="##", cleanup=False), decoders.Fuse()]
    return decoders.Sequence([*joined, *(decoders.Replace(Regex(pattern), "") for pattern in _NO_SPACE)])


def _normalizer(lower: bool) -> normalizers.Normalizer:
    return normalizers.Sequence([normalizers.NFC(), *([normalizers.Lowercase()] if lower else [])])


def _spaced(model: models.Model, lower: bool) -> tokenizers.Tokenizer:
    """Untrained tokenizer whose words include the space before them; one is prepended to the first word."""
    blank = tokenizers.Tokenizer(model)
    blank.normalizer = normalizers.Sequence([_normalizer(lower), normalizers.Prepend(" ")])
    blank.pre_tokenizer = pre_tokenizers.Split(Regex(_PIECES), "isolated")
    blank.decoder = decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return blank


def _word_trainer(vocab_size: int | None, min_frequency: int) -> trainers.WordLevelTrainer:
    return trainers.WordLevelTrainer(
        vocab_size=2**31 if vocab_size is None else vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
    )


def _trained(
    blank: tokenizers.Tokenizer, trainer: trainers.Trainer, texts: Iterable[str], vocab_size: int | None = None
) -> SubwordTokenizer:
    try:
        blank.train_from_iterator(texts, trainer=trainer)
    except BaseException as error:  # a panic of the library is not an Exception
        if isinstance(error, (KeyboardInterrupt, ValueError, TypeError, OSError)):
            raise
        raise ValueError(
            f"texts: training a tokenizer failed ({error}); give more text or another vocab_size"
        ) from error
    found = blank.get_vocab_size()
    if found <= len(SPECIAL_TOKENS):
        raise ValueError("texts: there is no text to train a tokenizer on, or nothing in it occurs min_frequency times")
    if vocab_size is not None and found > vocab_size:
        raise ValueError(
            f"vocab_size={vocab_size} is too small: the characters of the texts and the special tokens are "
            f"{found:,} tokens already; give at least that, or use Character"
        )
    return SubwordTokenizer(blank.to_str())


def _settle(definition: str) -> str:
    """Makes a unigram vocabulary reproducible.

    The library sums likelihoods in an order that differs between runs, which changes their last digits and thereby the
    order of the vocabulary; and it assigns the smallest scores, 0.0001 apart, to the rarest characters in random order.
    """
    content: dict[str, Any] = json.loads(definition)
    special, pieces = content["model"]["vocab"][: len(SPECIAL_TOKENS)], content["model"]["vocab"][len(SPECIAL_TOKENS) :]
    floor = min(score for _, score in pieces)
    rare = floor + 1e-4 * (sum(len(piece) == 1 for piece, _ in pieces) + 0.5)
    settled = [[piece, round(floor if len(piece) == 1 and score < rare else score, 6)] for piece, score in pieces]
    content["model"]["vocab"] = special + sorted(settled, key=lambda entry: (-entry[1], entry[0]))
    return json.dumps(content, ensure_ascii=False)


def _check_counts(vocab_size: int | None, min_frequency: int = 1) -> None:
    if vocab_size is not None and vocab_size <= len(SPECIAL_TOKENS):
        raise ValueError(f"vocab_size must be above {len(SPECIAL_TOKENS)}, the special tokens, got {vocab_size}")
    if min_frequency < 1:
        raise ValueError(f"min_frequency must be 1 or more, got {min_frequency}")
