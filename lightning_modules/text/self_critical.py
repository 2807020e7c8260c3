"""Self-critical sequence training as a training objective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lightning_modules.generation.beam_search import BeamSearch
from lightning_modules.generation.engine import never_generated
from lightning_modules.generation.sampling import Sampling
from lightning_modules.system.evaluation import evaluation_view
from lightning_modules.text.text_generator import Objective, TextGenerator

Baseline = Literal["others", "greedy"]


@dataclass(frozen=True)
class SelfCritical(Objective):
    """Self-critical sequence training: raises the probability of samples that score above a baseline.

    ::

        loss = -(reward(sample) - baseline) · log p(sample),    a mean over the tokens

    For the last epochs, from a checkpoint trained by :class:`Likelihood` (see :class:`StartFrom`), at a low learning
    rate. The reward is the system's own (:meth:`TextGenerator.rewards`): CIDEr-D of captions, chrF of translations.
    Its mean is logged as ``train/reward``.

    Args:
        samples: texts drawn for each row of a batch.
        baseline: "others", the mean reward of the other texts drawn for the same row; or "greedy", the reward of the
            greedily decoded text, as in the first paper.

    Raises:
        ValueError: too few samples, or an unknown baseline.

    References:
        Rennie et al. 2017, "Self-Critical Sequence Training for Image Captioning"; Luo 2020, "A Better Variant of
        Self-Critical Sequence Training".

    Example:
        >>> SelfCritical(samples=3)
        SelfCritical(samples=3, baseline='others')
    """

    samples: int = 5
    baseline: Baseline = "others"

    def __post_init__(self) -> None:
        if self.baseline not in get_args(Baseline):
            raise ValueError(f"baseline must be 'others' or 'greedy', got {self.baseline!r}")
        if self.samples < 1 + (self.baseline == "others"):
            raise ValueError(
                f"samples must be 1 or more, 2 or more for the baseline 'others'; got samples={self.samples} and "
                f"baseline={self.baseline!r}"
            )

    def loss(self, system: TextGenerator, batch: Any) -> Tensor:  # noqa: ANN401
        """See :meth:`Objective.loss`."""
        tokenizer, references = system.target_tokenizer, system.references(batch)
        view = evaluation_view(system)
        with torch.no_grad():
            memory = view.encode(batch)
            found = view.write(batch, Sampling(), n_best=self.samples, memory=memory)
            drawn = [hypothesis.tokens for several in found for hypothesis in several]
            repeated = [texts for texts in references for _ in range(self.samples)]
            rewards = system.rewards(tokenizer.decode(drawn), repeated).view(-1, self.samples)  # (B, samples)
            if self.baseline == "greedy":
                greedy = view.texts(view.write(batch, BeamSearch(size=1), memory=memory))
                baseline = system.rewards(greedy, references)[:, None]  # (B, 1)
            else:
                baseline = (rewards.sum(dim=1, keepdim=True) - rewards) / (self.samples - 1)  # (B, samples)
        target = pad_sequence(
            [torch.tensor([tokenizer.bos_id, *tokens], device=system.device) for tokens in drawn],
            batch_first=True,
            padding_value=tokenizer.pad_id,
        )  # (B · samples, T)
        labels = target[:, 1:]
        real = labels != tokenizer.pad_id
        # By the distribution that the texts were drawn from, without dropout and without tokens that are never
        # generated; otherwise what raises and what lowers probabilities would not cancel. Without cuDNN, whose RNNs
        # have no backward pass in evaluation mode.
        with torch.backends.cudnn.flags(enabled=False):
            features = view.decoder(target[:, :-1], view.encode(batch).repeat(self.samples))
            logits = view.decoder.output(features[real]).float()  # (M, V)
            never = never_generated(tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.unk_id)
            logits = logits.index_fill(1, torch.tensor(never, device=logits.device), -torch.inf)
            surprise = F.cross_entropy(logits, labels[real], reduction="none")  # (M,)
        system.log("train/reward", rewards.mean(), on_epoch=True, prog_bar=True, batch_size=len(references))
        advantage = (rewards - baseline).flatten()[:, None].expand(labels.shape)
        return (advantage[real] * surprise).mean()
