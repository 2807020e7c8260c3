"""Base of the networks that translate."""

from __future__ import annotations

from torch import Tensor, nn

from lightning_modules.text.text_decoder import Encoded, TextDecoder


class Seq2SeqNetwork(nn.Module):
    """Base of the networks that read one sentence and write another.

    Attributes:
        decoder: what writes.
    """

    decoder: TextDecoder

    def encode(self, source: Tensor, lengths: Tensor) -> Encoded:
        """Reads sentences.

        Args:
            source: (B, T) int64, padded.
            lengths: (B,), how many tokens of each row are real.
        """
        raise NotImplementedError(f"{type(self).__name__} must define encode(source, lengths)")

    def forward(self, source: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        """Logits of each next token, (B, T, V), of a target that is known, (B, T)."""
        return self.decoder.output(self.decoder(target, self.encode(source, lengths)))
