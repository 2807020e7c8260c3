"""``python -m benchmarks.tutorial_bleu HYPOTHESES REFERENCES``: BLEU as computed by published tutorials.

Unsmoothed BLEU of lower-cased tokens of spaCy's English rules. Figures published for small networks on Multi30k are of
this kind; they are not comparable with sacreBLEU's 13a tokenization, which this library logs. Both files are plain text
with one sentence per line.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from sacrebleu.metrics.bleu import BLEU, BLEUScore


def spacy_tokens() -> Callable[[str], list[str]]:
    """Tokenizer of spaCy's English rules, without a trained model."""
    try:
        import spacy
    except ImportError as error:
        raise ImportError("the tutorials' BLEU needs spaCy: pip install 'attention-blocks[bench]'") from error
    tokenizer = spacy.blank("en").tokenizer
    return lambda text: [token.text for token in tokenizer(text)]


def tutorial_bleu(
    hypotheses: Sequence[str], references: Sequence[str], tokens: Callable[[str], list[str]]
) -> BLEUScore:
    """BLEU over lower-cased tokens, from 0 to 100.

    Args:
        hypotheses: generated sentences.
        references: one reference per hypothesis.
        tokens: splits a text into tokens.

    Raises:
        ValueError: the numbers of hypotheses and references differ.
    """
    if len(hypotheses) != len(references):
        raise ValueError(
            f"{len(hypotheses)} hypotheses for {len(references)} references; give one line per sentence in both files"
        )
    tokenized = [[" ".join(tokens(text.strip().lower())) for text in texts] for texts in (hypotheses, references)]
    # tokenize="none" since the texts are tokenized already; force=True turns off the warning about that.
    return BLEU(tokenize="none", smooth_method="none", force=True).corpus_score(tokenized[0], [tokenized[1]])


def main() -> None:
    """Prints the score of two files."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tutorial_bleu", description=__doc__)
    parser.add_argument("hypotheses", type=Path, help="generated text, one sentence per line")
    parser.add_argument("references", type=Path, help="reference text, one sentence per line")
    options = parser.parse_args()
    texts = [path.read_text(encoding="utf-8").splitlines() for path in (options.hypotheses, options.references)]
    print(tutorial_bleu(texts[0], texts[1], spacy_tokens()))


if __name__ == "__main__":
    main()
