"""SentencePiece models with a separate vocabulary, such as those of Marian."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path

from datamodules.tokenizers.tokenizer import Tokenizer


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model and a vocabulary of its pieces.

    A language code at the beginning of a text, such as ``>>fra<<``, is one token if the vocabulary contains it; models
    with several target languages choose the language by it.

    Args:
        definition: JSON text with ``model``, the SentencePiece file in base 64; ``vocabulary``, the token id of each
            piece; and ``pad``, ``unk``, ``bos``, ``eos``, the ids of the special tokens.

    Raises:
        ImportError: the package ``sentencepiece`` is not installed.
        ValueError: the definition lacks a part.

    References:
        Kudo and Richardson 2018, "SentencePiece: A simple and language independent subword tokenizer".
    """

    def __init__(self, definition: str) -> None:
        super().__init__(definition)
        try:
            import sentencepiece
        except ImportError as error:
            raise ImportError(
                "this tokenizer needs the package sentencepiece: pip install 'attention-blocks[marian]'"
            ) from error
        content = json.loads(definition)
        missing = {"model", "vocabulary", "pad", "unk", "bos", "eos"} - set(content)
        if missing:
            raise ValueError(f"definition lacks {', '.join(sorted(missing))}; build it with from_files")
        self.pad_id, self.unk_id, self.bos_id, self.eos_id = (content[name] for name in ("pad", "unk", "bos", "eos"))
        self._numbers: dict[str, int] = content["vocabulary"]
        self._pieces = {number: piece for piece, number in self._numbers.items()}
        self._model = sentencepiece.SentencePieceProcessor(model_proto=base64.b64decode(content["model"]))

    @classmethod
    def from_files(
        cls, model: str | Path, vocabulary: dict[str, int], *, pad_id: int, unk_id: int, bos_id: int, eos_id: int
    ) -> SentencePieceTokenizer:
        """Reads a SentencePiece file.

        Args:
            model: path of the file.
            vocabulary: token id of each piece.
            pad_id: token id of the padding.
            unk_id: token id of pieces that the vocabulary lacks.
            bos_id: token id of the beginning of sentence.
            eos_id: token id of the end of sentence.

        Raises:
            FileNotFoundError: there is no such file.
        """
        if not Path(model).is_file():
            raise FileNotFoundError(f"model: there is no file {str(model)!r}")
        content = {
            "model": base64.b64encode(Path(model).read_bytes()).decode(),
            "vocabulary": vocabulary,
            "pad": pad_id,
            "unk": unk_id,
            "bos": bos_id,
            "eos": eos_id,
        }
        return cls(json.dumps(content, ensure_ascii=False))

    def __len__(self) -> int:
        return max(self._pieces) + 1

    def encode(self, texts: Sequence[str], *, dropout: bool = False) -> list[list[int]]:
        """See :meth:`Tokenizer.encode`; there is no dropout."""
        encoded = []
        for text in texts:
            code = text[: text.find("<<") + 2] if text.startswith(">>") else ""
            numbers = [self._numbers[code]] if code in self._numbers else []
            rest = text[len(code) :] if numbers else text
            numbers += [self._numbers.get(piece, self.unk_id) for piece in self._model.encode(rest, out_type=str)]
            encoded.append(numbers)
        return encoded

    def decode(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """See :meth:`Tokenizer.decode`; unknown tokens are omitted, as in Marian."""
        contents = [[number for number in self.content(ids) if number != self.unk_id] for ids in sequences]
        texts = [self._model.decode_pieces(self.tokens(content)) for content in contents]
        # Pieces that the model lacks keep the mark of their space.
        return [text.replace("▁", " ").strip() for text in texts]

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """See :meth:`Tokenizer.tokens`."""
        return [self._pieces[number] for number in ids]
