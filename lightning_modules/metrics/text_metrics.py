"""How good written text is: sacreBLEU and chrF of a whole corpus, gathered batch by batch and device by device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from torch import Tensor
from torchmetrics import Metric

ORDERS = 4


class CorpusScore(Metric):
    """Base of the scores that are made of sums over the corpus: batches and devices only add up.

    Args:
        size: how many sums there are.
    """

    higher_is_better = True
    full_state_update = False
    sums: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")

    def statistics(self, hypotheses: list[str], references: list[list[str]]) -> Sequence[int]:
        """The sums over some sentences.

        Args:
            hypotheses: one a sentence.
            references: the first of each sentence, the second of each, and so on, as sacreBLEU wants them.
        """
        raise NotImplementedError(f"{type(self).__name__} must define statistics(hypotheses, references)")

    def signature(self) -> str:
        """What to print beside the number, so that others can compare."""
        raise NotImplementedError(f"{type(self).__name__} must define signature()")

    def update(self, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """Adds written text.

        Args:
            hypotheses: one a sentence.
            references: for each sentence what it is compared with, as many for each.

        Raises:
            ValueError: unlike numbers of sentences, or of references a sentence.
        """
        if len(hypotheses) != len(references):
            raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references; give one list a sentence")
        if len({len(several) for several in references}) > 1:
            raise ValueError("references must have the same number for each sentence")
        if hypotheses:
            found = self.statistics(list(hypotheses), [list(stream) for stream in zip(*references, strict=True)])
            self.sums += torch.tensor(found, dtype=self.sums.dtype, device=self.sums.device)


class CorpusBLEU(CorpusScore):
    """sacreBLEU of everything seen: exactly the number that the ``sacrebleu`` command prints for the same lines.

    Args:
        lowercase: whether case counts for nothing.
        tokenize: sacreBLEU's tokenizer: "13a" is the standard, "intl", "char", "ja-mecab", … are others.

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
        # Matches of each order, n-grams of each order, written words, words of the closest reference.
        super().__init__(2 * ORDERS + 2)
        self._bleu = BLEU(lowercase=lowercase, tokenize=tokenize)

    def statistics(self, hypotheses: list[str], references: list[list[str]]) -> Sequence[int]:
        """See :meth:`CorpusScore.statistics`."""
        score = self._bleu.corpus_score(hypotheses, references)
        return [*score.counts, *score.totals, score.sys_len, score.ref_len]

    def compute(self) -> Tensor:
        """BLEU, from 0 to 100."""
        *counts, written, wanted = (int(value) for value in self.sums.tolist())
        score = BLEU.compute_bleu(
            counts[:ORDERS],
            counts[ORDERS:],
            written,
            wanted,
            smooth_method=self._bleu.smooth_method,
            smooth_value=self._bleu.smooth_value,
            effective_order=self._bleu.effective_order,
            max_ngram_order=ORDERS,
        )
        return torch.tensor(score.score, device=self.sums.device)

    def signature(self) -> str:
        """See :meth:`CorpusScore.signature`."""
        return str(self._bleu.get_signature())


class CorpusCHRF(CorpusScore):
    """chrF2 of everything seen: exactly the number that ``sacrebleu --metrics chrf`` prints for the same lines.

    (The chrF of torchmetrics takes the mean of the orders' F scores; sacreBLEU takes the F score of their means.)

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
        # For each order the n-grams written, those of the best reference, and the matches.
        super().__init__(3 * CHRF.CHAR_ORDER)
        self._chrf = CHRF()

    def statistics(self, hypotheses: list[str], references: list[list[str]]) -> Sequence[int]:
        """See :meth:`CorpusScore.statistics`."""
        # The library sums inside; only a step before are the numbers that can be added up.
        sentences = self._chrf._extract_corpus_statistics(hypotheses, references)
        return [sum(column) for column in zip(*sentences, strict=True)]

    def compute(self) -> Tensor:
        """chrF, from 0 to 100."""
        score = self._chrf._compute_score_from_stats([int(value) for value in self.sums.tolist()])
        return torch.tensor(score.score, device=self.sums.device)

    def signature(self) -> str:
        """See :meth:`CorpusScore.signature`."""
        return str(self._chrf.get_signature())
