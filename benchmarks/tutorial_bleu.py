"""``python -m benchmarks.tutorial_bleu HYPOTHESES REFERENCES``: the BLEU that published tutorials print.

They lower-case, cut by spaCy's English rules, and take BLEU over those tokens without smoothing. It is not comparable
with sacreBLEU's 13a tokens, which is what this library logs; it stands beside it because the figures published for
small networks on Multi30k are of this kind. Both files hold plain text, a sentence a line.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from sacrebleu.metrics.bleu import BLEU, BLEUScore


def spacy_tokens() -> Callable[[str], list[str]]:
    """Cuts by spaCy's English rules, which need no trained model."""
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
        hypotheses: one a sentence.
        references: one a sentence.
        tokens: cuts a text.

    Raises:
        ValueError: there are not as many hypotheses as references.
    """
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references; give a line for each")
    cut = [[" ".join(tokens(text.strip().lower())) for text in texts] for texts in (hypotheses, references)]
    # The text is cut already, so sacreBLEU is told to leave it so, and that this is meant.
    return BLEU(tokenize="none", smooth_method="none", force=True).corpus_score(cut[0], [cut[1]])


def main() -> None:
    """Prints the score of two files."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tutorial_bleu", description=__doc__)
    parser.add_argument("hypotheses", type=Path, help="what was written, a sentence a line")
    parser.add_argument("references", type=Path, help="what it is compared with, a sentence a line")
    options = parser.parse_args()
    texts = [path.read_text(encoding="utf-8").splitlines() for path in (options.hypotheses, options.references)]
    print(tutorial_bleu(texts[0], texts[1], spacy_tokens()))


if __name__ == "__main__":
    main()
