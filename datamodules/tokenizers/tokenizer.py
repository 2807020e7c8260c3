"""Tokenizers: from text to token ids and back."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence

import tokenizers

PAD, UNK, BOS, EOS = SPECIAL_TOKENS = ("<pad>", "<unk>", "<bos>", "<eos>")

# Names of the special tokens in published tokenizers; those used here come first.
_NAMES = {
    "pad": (PAD, "[PAD]", "<|pad|>"),
    "unk": (UNK, "[UNK]", "<|unk|>"),
    "bos": (BOS, "<s>", "[BOS]", "[CLS]", "<|startoftext|>"),
    "eos": (EOS, "</s>", "[EOS]", "[SEP]", "<|endoftext|>"),
}


class Tokenizer(ABC):
    """Base of all tokenizers; subclass it to bring your own.

    A tokenizer is fully described by its definition, a JSON text: tokenizers of the same class and definition are
    equal, and checkpoints and pickles store nothing else.

    Args:
        definition: JSON text that the tokenizer is built from.

    Attributes:
        definition: as given.
        pad_id: token id of the padding.
        unk_id: token id of unknown text.
        bos_id: token id of the beginning of sentence.
        eos_id: token id of the end of sentence.
        dropout: fraction of the merges that ``encode(texts, dropout=True)`` omits; 0 if there is no dropout.

    Example:
        >>> import json
        >>> class Digits(Tokenizer):
        ...     pad_id, unk_id, bos_id, eos_id = range(4)
        ...     def __len__(self):
        ...         return 4 + json.loads(self.definition)["base"]
        ...     def encode(self, texts, *, dropout=False):
        ...         return [[4 + int(digit) for digit in text] for text in texts]
        ...     def decode(self, sequences):
        ...         return ["".join(self.tokens(self.content(ids))) for ids in sequences]
        ...     def tokens(self, ids):
        ...         return [str(number - 4) for number in ids]
        >>> digits = Digits('{"base": 8}')
        >>> digits.encode(["017"]), digits.decode([[2, 4, 5, 11, 3, 0]])
        ([[4, 5, 11]], ['017'])
    """

    pad_id: int
    unk_id: int
    bos_id: int
    eos_id: int
    dropout: float = 0.0

    def __init__(self, definition: str) -> None:
        self.definition = definition

    @abstractmethod
    def __len__(self) -> int:
        """Size of the vocabulary, special tokens included: V."""

    @abstractmethod
    def encode(self, texts: Sequence[str], *, dropout: bool = False) -> list[list[int]]:
        """Token ids of each text, without beginning and end of sentence.

        Args:
            texts: plain texts.
            dropout: whether to omit merges at random, so that the tokens of a text vary; for training only.
        """

    @abstractmethod
    def decode(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """Plain text of each sequence of token ids, up to its end of sentence."""

    @abstractmethod
    def tokens(self, ids: Sequence[int]) -> list[str]:
        """Piece of text of each token id, for plots."""

    def content(self, ids: Sequence[int]) -> list[int]:
        """Token ids before the first end of sentence, without padding and beginning of sentence."""
        numbers = list(ids)
        if self.eos_id in numbers:
            numbers = numbers[: numbers.index(self.eos_id)]
        return [number for number in numbers if number not in (self.pad_id, self.bos_id)]

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, Tokenizer) and other.definition == self.definition

    def __hash__(self) -> int:
        return hash((type(self), self.definition))

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[str]]:
        return type(self), (self.definition,)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self):,} tokens)"


class SubwordTokenizer(Tokenizer):
    """A tokenizer of Hugging Face's ``tokenizers``: byte pairs, unigrams, words or characters.

    Text never becomes a special token: ``<eos>`` in a sentence is five characters. Spaces inside tokens appear as ``▁``
    in :meth:`tokens`.

    The library draws BPE dropout from the operating system's random numbers and cannot be seeded, so with dropout the
    tokens of a sentence differ between runs.

    Args:
        definition: JSON text of a ``tokenizers.Tokenizer``, from its ``to_str`` or its file.

    Raises:
        ValueError: the definition cannot be read, or its vocabulary has no padding, unknown token, beginning or end of
            sentence under any of the usual names.

    References:
        Provilkov et al. 2020, "BPE-Dropout: Simple and Effective Subword Regularization".

    Example:
        >>> from datamodules import BytePair
        >>> tokenizer = BytePair(vocab_size=16).train(["low lower lowest", "low new"])
        >>> [numbers] = tokenizer.encode(["lowest new"])
        >>> tokenizer.tokens(numbers)
        ['▁low', 'e', 's', 't', '▁', 'n', 'e', 'w']
        >>> tokenizer.decode([[tokenizer.bos_id, *numbers, tokenizer.eos_id, tokenizer.pad_id]])
        ['lowest new']
    """

    def __init__(self, definition: str) -> None:
        super().__init__(definition)
        self._encoder = _build(definition)
        found = {kind: _find(self._encoder, kind) for kind in _NAMES}
        self.pad_id, self.unk_id, self.bos_id, self.eos_id = found["pad"], found["unk"], found["bos"], found["eos"]
        model = json.loads(definition)["model"]
        self.dropout = model.get("dropout") or 0.0
        self._dropping = self._encoder
        if self.dropout:
            self._dropping = _build(definition)
            self._encoder.model.dropout = None

    def __len__(self) -> int:
        return self._encoder.get_vocab_size()

    def encode(self, texts: Sequence[str], *, dropout: bool = False) -> list[list[int]]:
        """See :meth:`Tokenizer.encode`."""
        encoder = self._dropping if dropout else self._encoder
        return [encoding.ids for encoding in encoder.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """See :meth:`Tokenizer.decode`; uses the decoder of the definition."""
        contents = [self.content(ids) for ids in sequences]
        return self._encoder.decode_batch(contents, skip_special_tokens=False)

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """See :meth:`Tokenizer.tokens`.

        Raises:
            ValueError: the vocabulary has no such token id.
        """
        pieces = [self._encoder.id_to_token(number) for number in ids]
        for number, piece in zip(ids, pieces, strict=True):
            if piece is None:
                raise ValueError(f"ids: {number} is not in the vocabulary of {len(self):,} tokens")
        return [str(piece).replace(" ", "▁") for piece in pieces]


def _build(definition: str) -> tokenizers.Tokenizer:
    try:
        built = tokenizers.Tokenizer.from_str(definition)
    except Exception as error:  # the library raises this class
        raise ValueError(
            f"definition: {definition[:60]!r}… cannot be read as a tokenizer of the 'tokenizers' library ({error})"
        ) from error
    built.encode_special_tokens = True
    built.no_padding()
    built.no_truncation()
    return built


def _find(tokenizer: tokenizers.Tokenizer, kind: str) -> int:
    for name in _NAMES[kind]:
        number = tokenizer.token_to_id(name)
        if number is not None:
            return number
    raise ValueError(
        f"definition: the vocabulary has none of {_NAMES[kind]} for {kind!r}; add one with "
        f"tokenizers.Tokenizer.add_special_tokens([{_NAMES[kind][0]!r}])"
    )
