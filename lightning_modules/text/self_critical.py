"""What captioners are trained for: the likelihood of given captions, or the score of those that they write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from attention_blocks.evaluating import evaluating
from lightning_modules.captioning.caption_network import CaptionNetwork
from lightning_modules.generation.beam_search import BeamSearch
from lightning_modules.generation.engine import never_written
from lightning_modules.generation.sampling import Sampling
from lightning_modules.metrics.caption_metrics import caption_words
from lightning_modules.metrics.cider import cider_d
from lightning_modules.text.rnn_text_decoder import RNNTextDecoder

if TYPE_CHECKING:
    from datamodules.captions.caption_batch import CaptionBatch
    from lightning_modules.captioning.captioner import Captioner


class CaptionObjective:
    """Base of what a captioner is trained for; a frozen dataclass, so that checkpoints carry it."""

    def check(self, network: CaptionNetwork) -> None:
        """Refuses a network that cannot be trained for it.

        Raises:
            ValueError: it cannot.
        """

    def loss(self, system: Captioner, batch: CaptionBatch) -> Tensor:
        """One number, to be made smaller.

        Args:
            system: that is trained.
            batch: images with a caption each, and their references.
        """
        raise NotImplementedError(f"{type(self).__name__} must define loss(system, batch)")


@dataclass(frozen=True)
class Likelihood(CaptionObjective):
    """Makes the given captions likely: cross-entropy of each word given those before it, a mean over the words.

    Args:
        label_smoothing: share of each target that is spread over the vocabulary.
        doubly_stochastic: λ of Show, Attend and Tell: what it costs that a place is not looked at once in all. To a
            caption's negative log-likelihood comes :math:`λ Σ_i (1 - Σ_t α_{ti})^2`, over all places i and words t.

    Raises:
        ValueError: a value out of its range; or, from :meth:`check`, a ``doubly_stochastic`` for a network whose
            decoder is no RNN with attention.

    References:
        Xu et al. 2015, "Show, Attend and Tell", section 4.2.1.

    Example:
        >>> Likelihood(label_smoothing=0.1, doubly_stochastic=1.0)
        Likelihood(label_smoothing=0.1, doubly_stochastic=1.0)
    """

    label_smoothing: float = 0.0
    doubly_stochastic: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {self.label_smoothing}")
        if self.doubly_stochastic < 0.0:
            raise ValueError(f"doubly_stochastic must be 0 (off) or more, got {self.doubly_stochastic}")

    def check(self, network: CaptionNetwork) -> None:
        """See :meth:`CaptionObjective.check`."""
        decoder = network.decoder
        if self.doubly_stochastic and not (isinstance(decoder, RNNTextDecoder) and decoder.attends):
            raise ValueError(
                f"doubly_stochastic={self.doubly_stochastic} is for an RNN with attention, and "
                f"{type(decoder).__name__} is none; leave it 0"
            )

    def loss(self, system: Captioner, batch: CaptionBatch) -> Tensor:
        """See :meth:`CaptionObjective.loss`."""
        target, memory, decoder = system.target(batch), system.encode(batch), system.decoder
        if not self.doubly_stochastic or not isinstance(decoder, RNNTextDecoder):
            return system.cross_entropy(decoder(target[:, :-1], memory), target, self.label_smoothing)
        features, weights = decoder.unroll(target[:, :-1], memory, need_weights=True)
        real = target[:, 1:] != system.target_tokenizer.pad_id
        seen = (cast(Tensor, weights) * real[..., None]).sum(dim=1)
        # Over as many words as the cross-entropy is a mean over.
        added = self.doubly_stochastic * (1.0 - seen).square().sum() / real.sum()
        return system.cross_entropy(features, target, self.label_smoothing) + added


def words_and_end(text: str) -> list[str]:
    """The words of a caption, and its end as one more: a caption that breaks off ends as no reference does.

    Example:
        >>> words_and_end("A dog runs.")
        ['a', 'dog', 'runs', '<end>']
    """
    return [*caption_words(text), "<end>"]


@dataclass(frozen=True)
class SelfCritical(CaptionObjective):
    """Makes captions likelier that score higher than others that the network writes, and the rest unlikelier.

    ::

        loss = - (CIDEr-D(drawn) - baseline) · log p(drawn),    a mean over the words

    For the last epochs, from a checkpoint that was trained for :class:`Likelihood` (see :class:`StartFrom`), at a low
    rate. Rare n-grams are told from common ones by the captions that are trained on; the end of a caption counts as a
    word, or captions would learn to break off. ``train/reward`` is the mean CIDEr-D of what was drawn.

    Args:
        samples: captions that are drawn for each image of a batch.
        baseline: "others", the mean CIDEr-D of the other captions drawn for the same image, so that some are made
            likelier and some unlikelier at every step; or "greedy", that of the caption which is written greedily, as
            in the first paper, better than most that are drawn.

    Raises:
        ValueError: ``samples`` is not positive, or 1 where there must be others; or there is no such baseline.

    References:
        Rennie et al. 2017, "Self-Critical Sequence Training for Image Captioning"; Luo 2020, "A Better Variant of
        Self-Critical Sequence Training".

    Example:
        >>> SelfCritical(samples=3)
        SelfCritical(samples=3, baseline='others')
    """

    samples: int = 5
    baseline: Literal["others", "greedy"] = "others"

    def __post_init__(self) -> None:
        if self.baseline not in ("others", "greedy"):
            raise ValueError(f"baseline must be 'others' or 'greedy', got {self.baseline!r}")
        if self.samples < 1 + (self.baseline == "others"):
            raise ValueError(
                f"samples must be 1 or more, 2 or more for the baseline 'others'; got samples={self.samples} and "
                f"baseline={self.baseline!r}"
            )

    def loss(self, system: Captioner, batch: CaptionBatch) -> Tensor:
        """See :meth:`CaptionObjective.loss`."""
        tokenizer, references = system.target_tokenizer, system.references(batch)
        with evaluating(system), torch.no_grad():
            memory = system.encode(batch)
            found = system.write(batch, Sampling(), n_best=self.samples, memory=memory)
            drawn = [hypothesis.tokens for several in found for hypothesis in several]
            rewards = self._score(
                system, tokenizer.decode(drawn), [texts for texts in references for _ in range(self.samples)]
            ).view(-1, self.samples)
            if self.baseline == "greedy":
                greedy = system.texts(system.write(batch, BeamSearch(size=1), memory=memory))
                baseline = self._score(system, greedy, references)[:, None]
            else:
                baseline = (rewards.sum(dim=1, keepdim=True) - rewards) / (self.samples - 1)
        target = pad_sequence(
            [torch.tensor([tokenizer.bos_id, *tokens], device=system.device) for tokens in drawn],
            batch_first=True,
            padding_value=tokenizer.pad_id,
        )
        labels = target[:, 1:]
        real = labels != tokenizer.pad_id
        # By the very chances by which the captions were drawn, without dropout and without what is never written: what
        # is pushed down and what is pushed up even out only so, and else feed the rest.
        with evaluating(system):
            for part in system.modules():  # which drop nothing here, and on GPUs go backward in training mode alone
                part.training = isinstance(part, nn.RNNBase) and part.dropout == 0.0
            features = system.decoder(target[:, :-1], system.encode(batch).repeat(self.samples))
            logits = system.decoder.output(features[real]).float()
            never = never_written(tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.unk_id)
            logits = logits.index_fill(1, torch.tensor(never, device=logits.device), -torch.inf)
            surprise = F.cross_entropy(logits, labels[real], reduction="none")
        system.log("train/reward", rewards.mean(), on_epoch=True, prog_bar=True, batch_size=len(references))
        advantage = (rewards - baseline).flatten()[:, None].expand(labels.shape)
        return (advantage[real] * surprise).mean()

    @staticmethod
    def _score(system: Captioner, texts: Sequence[str], references: Sequence[Sequence[str]]) -> Tensor:
        return torch.tensor(
            cider_d(texts, references, system.training_frequencies, words_and_end), device=system.device
        )
