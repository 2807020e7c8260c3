"""Base of the networks that translate."""

from __future__ import annotations

from torch import Tensor, nn

from lightning_modules.text.text_decoder import Encoded, TextDecoder


class Seq2SeqNetwork(nn.Module):
    """Base of the networks that map one sentence to another.

    Attributes:
        decoder: generates the target.
    """

    decoder: TextDecoder

    def encode(self, source: Tensor, lengths: Tensor) -> Encoded:
        """Encodes source sentences.

        Args:
            source: (B, T) int64, padded.
            lengths: (B,) int64, tokens of each row without padding.
        """
        raise NotImplementedError(f"{type(self).__name__} must define encode(source, lengths)")

    def forward(self, source: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        """Logits of each next token, (B, T, V), given the target, (B, T) int64."""
        return self.decoder.output(self.decoder(target, self.encode(source, lengths)))
