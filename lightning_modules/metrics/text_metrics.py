"""sacreBLEU and chrF of a corpus, over all batches and processes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from torch import Tensor

from lightning_modules.metrics.text_records import TextRecords


class CorpusScore(TextRecords):
    """Base of the corpus scores that sacreBLEU computes.

    Args:
        metric: sacreBLEU's object that computes the score.
    """

    def __init__(self, metric: BLEU | CHRF) -> None:
        super().__init__()
        self._metric = metric

    def update(self, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """Adds generated text.

        Args:
            hypotheses: one per sentence.
            references: the reference texts of each sentence, the same number for each.

        Raises:
            ValueError: the numbers of sentences differ, or the numbers of references per sentence.
        """
        if len(hypotheses) != len(references):
            raise ValueError(
                f"{len(hypotheses)} hypotheses for {len(references)} references; give one list per sentence"
            )
        if len({len(several) for several in references}) > 1:
            raise ValueError("references must have the same number for each sentence")
        self.keep([text, list(several)] for text, several in zip(hypotheses, references, strict=True))

    def compute(self) -> Tensor:
        """The score, from 0 to 100; 0 without any sentence."""
        records = self.kept()
        if not records:
            return torch.tensor(0.0, device=self.device)
        hypotheses = [text for text, _ in records]
        streams = [list(stream) for stream in zip(*(several for _, several in records), strict=True)]
        return torch.tensor(self._metric.corpus_score(hypotheses, streams).score, device=self.device)

    def signature(self) -> str:
        """Settings to print next to the score, so that others can compare."""
        return str(self._metric.get_signature())


class CorpusBLEU(CorpusScore):
    """sacreBLEU of a corpus, equal to the output of the ``sacrebleu`` command for the same lines.

    Args:
        lowercase: whether to ignore case.
        tokenize: sacreBLEU's tokenizer: "13a" is the standard; "intl", "char", "ja-mecab", … are others.

    References:
        Papineni et al. 2002, "BLEU"; Post 2018, "A Call for Clarity in Reporting BLEU Scores".

    Example:
        >>> metric = CorpusBLEU()
        >>> metric.update(["the cat sat on the mat"], [["the cat sat on the mat"]])
        >>> round(metric.compute().item(), 3)
        100.0
        >>> metric.signature()  # doctest: +ELLIPSIS
        'nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:...'
    """

    def __init__(self, *, lowercase: bool = False, tokenize: str | None = None) -> None:
        super().__init__(BLEU(lowercase=lowercase, tokenize=tokenize))


class CorpusCHRF(CorpusScore):
    """chrF2 of a corpus, equal to the output of ``sacrebleu --metrics chrf`` for the same lines.

    It is the F score of the precisions and recalls averaged over n-gram orders; torchmetrics averages the F scores.

    References:
        Popović 2015, "chrF: character n-gram F-score for automatic MT evaluation".

    Example:
        >>> metric = CorpusCHRF()
        >>> metric.update(["the cat sat"], [["the cat sat"]])
        >>> round(metric.compute().item(), 3)
        100.0
        >>> metric.signature()  # doctest: +ELLIPSIS
        'nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:...'
    """

    def __init__(self) -> None:
        super().__init__(CHRF())
