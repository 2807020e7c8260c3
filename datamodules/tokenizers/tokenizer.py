"""Text as numbers and back: what a model that reads or writes text carries in its checkpoint."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence

import tokenizers

PAD, UNK, BOS, EOS = SPECIAL_TOKENS = ("<pad>", "<unk>", "<bos>", "<eos>")

# What the special tokens are called in the tokenizers that people publish, the names used here first.
_NAMES = {
    "pad": (PAD, "[PAD]", "<|pad|>"),
    "unk": (UNK, "[UNK]", "<|unk|>"),
    "bos": (BOS, "<s>", "[BOS]", "[CLS]", "<|startoftext|>"),
    "eos": (EOS, "</s>", "[EOS]", "[SEP]", "<|endoftext|>"),
}


class Tokenizer(ABC):
    """Base of what turns text into numbers and numbers into text; subclass it to bring your own.

    All there is to know about a tokenizer is its definition, a JSON text: two of one class and definition are equal,
    a checkpoint stores nothing else, and so does pickle, for the processes that make batches.

    Args:
        definition: JSON text that the whole tokenizer is built from.

    Attributes:
        definition: as given.
        pad_id: the number that fills short sequences up.
        unk_id: the number of what the vocabulary does not know.
        bos_id: the number that a target begins with.
        eos_id: the number that ends a sequence.
        dropout: share of the merges that ``encode(texts, dropout=True)`` leaves out; 0 where there is no such thing.

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
        """How many tokens the vocabulary has, the special ones counted: V."""

    @abstractmethod
    def encode(self, texts: Sequence[str], *, dropout: bool = False) -> list[list[int]]:
        """The numbers of each text's tokens, with neither beginning nor end of sentence added.

        Args:
            texts: as people write them.
            dropout: leave merges out at random, so that a text is cut in another way each time; for training only.
        """

    @abstractmethod
    def decode(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """The text of each sequence up to its end of sentence, without padding, as people write it."""

    @abstractmethod
    def tokens(self, ids: Sequence[int]) -> list[str]:
        """The piece of text that each number stands for, for plots."""

    def content(self, ids: Sequence[int]) -> list[int]:
        """What stands before the first end of sentence, without padding and beginning of sentence."""
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
    """Any tokenizer of Hugging Face's ``tokenizers``: byte pairs, unigrams, words or characters.

    Text never becomes a special token, whatever is written in it: ``<eos>`` in a sentence is five characters. A space
    inside a token shows as ``▁`` in :meth:`tokens`.

    BPE dropout is drawn by the library from the operating system: no seed reaches it, so what a sentence is cut into
    differs from run to run where dropout is used.

    Args:
        definition: the JSON text of a ``tokenizers.Tokenizer``, as its ``to_str`` gives it and its files hold it.

    Raises:
        ValueError: the definition cannot be read, or its vocabulary lacks padding, unknown, beginning or end of
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
        """The numbers of each text's tokens; with ``dropout``, another cut each time."""
        encoder = self._dropping if dropout else self._encoder
        return [encoding.ids for encoding in encoder.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """The text of each sequence up to its end of sentence, put together as the definition's decoder says."""
        contents = [self.content(ids) for ids in sequences]
        return self._encoder.decode_batch(contents, skip_special_tokens=False)

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """The token of each number.

        Raises:
            ValueError: the vocabulary has no such number.
        """
        pieces = [self._encoder.id_to_token(number) for number in ids]
        for number, piece in zip(ids, pieces, strict=True):
            if piece is None:
                raise ValueError(f"ids: {number} is not in the vocabulary of {len(self):,} tokens")
        return [str(piece).replace(" ", "▁") for piece in pieces]


def _build(definition: str) -> tokenizers.Tokenizer:
    try:
        built = tokenizers.Tokenizer.from_str(definition)
    except Exception as error:  # the library raises this very class
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
