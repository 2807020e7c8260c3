"""Metrics of captions against the COCO caption evaluation and METEOR's own program, in batches and by two processes."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from shutil import which
from threading import Lock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor import meteor as meteor_program
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
from torchmetrics import Metric, MetricCollection

from lightning_modules.metrics.caption_metrics import CaptionBLEU, CaptionScore, RougeL, caption_words
from lightning_modules.metrics.cider import CIDErD
from lightning_modules.metrics.diversity import DistinctNGrams, VocabularyUse
from lightning_modules.metrics.meteor import METEOR
from tests.paths import SHARED

Corpus = tuple[list[str], list[list[str]]]

FLICKR8K = SHARED / "flickr8k-160" / "captions.csv"
needs_flickr8k = pytest.mark.skipif(not FLICKR8K.is_file(), reason="needs ../shared/data/flickr8k-160")
needs_java = pytest.mark.skipif(which("java") is None, reason="needs java, which the program to compare with runs on")

COMPARED: list[Callable[..., Metric]] = [CaptionBLEU, RougeL, METEOR, CIDErD]
EVERY: list[Callable[..., Metric]] = [*COMPARED, DistinctNGrams, VocabularyUse]

# Words and captions.


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A dog , two cats .", "a dog two cats"),
        ("A dog, two cats!?", "a dog two cats"),
        ("The man's dog doesn't see the dogs' ball.", "the man 's dog does n't see the dogs ball"),
        ("The man 's dog does n't see the dogs ' ball .", "the man 's dog does n't see the dogs ball"),
        ("They’ve seen it’s “red”", "they 've seen it 's red"),
        ("I can't, he'll, she'd, I'm, we're", "i ca n't he 'll she 'd i 'm we 're"),
        ("a t-shirt - or a tug-of-war -- at 5 o'clock", "a t-shirt or a tug-of-war at 5 o'clock"),
        ("3,000 people at 12:30 with 1/2 of 3.5% of $7 & #8", "3,000 people at 12:30 with 1/2 of 3.5 % of $ 7 & # 8"),
        ("the U.S. flag (left) in a café", "the u.s. flag left in a café"),
        ("'single' \"double\"", "single double"),
        ("... , -", ""),
        ("", ""),
    ],
)
def test_the_words_of_a_caption(text: str, words: str) -> None:
    assert caption_words(text) == words.split()
    assert caption_words(" ".join(caption_words(text))) == words.split()


@needs_java
@needs_flickr8k
def test_the_words_are_those_of_the_penn_treebank_tokenizer() -> None:
    texts = [text for several in real_captions() for text in several]
    found = PTBTokenizer().tokenize({index: [{"caption": text}] for index, text in enumerate(texts)})
    unlike = [text for index, text in enumerate(texts) if caption_words(text) != found[index][0].split()]
    assert len(unlike) < len(texts) / 1000, unlike


def real_captions() -> list[list[str]]:
    """For each image of Flickr8k its five captions."""
    images = defaultdict(list)
    with FLICKR8K.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            images[row["image"]].append(row["caption"])
    return list(images.values())


def real_corpus(count: int) -> Corpus:
    """One caption per image as the hypothesis, the others as references; words separated by spaces."""
    images = [[" ".join(caption_words(text)) for text in several] for several in real_captions()[:count]]
    return [several[0] for several in images], [several[1:] for several in images]


def made_corpus(count: int, seed: int, most: int = 5) -> Corpus:
    """References that no two images have in common, one to ``most`` per image, and corrupted copies, some empty."""
    draw = random.Random(seed)  # noqa: S311 # nobody's secrets
    parts = [
        ["a", "the", "one", "two young", "a group of"],
        ["brown", "small", "black and white", "smiling", "t-shirt clad"],
        ["dog", "dogs", "man", "men", "child", "girl", "bird", "horses"],
        ["runs", "is running", "jump", "jumps", "jumped", "plays", "playing", "sits", "sitting"],
        ["on", "in front of", "over", "near", "by"],
        ["a fence", "the water", "the man 's car", "a red ball", "grass", "the snowy mountains"],
    ]

    def text() -> str:
        return " ".join(draw.choice(part) for part in parts)

    def corrupted(text: str) -> str:
        words = text.split()
        for _ in range(draw.randint(0, 3)):
            index = draw.randrange(len(words))
            words[index : index + 1] = draw.choice([[], [words[index]] * 2, [draw.choice(draw.choice(parts))]])
            words = words or ["a"]
        return "" if draw.random() < 0.02 else " ".join(words)

    references = [[f"{text()} {index}" for _ in range(draw.randint(1, most))] for index in range(count)]
    return [corrupted(draw.choice(several)) for several in references], references


# Against the authors' programs.


def peer(score: object, corpus: Corpus, **arguments: object) -> tuple[float | list[float], Sequence[float]]:
    """A score of the COCO caption evaluation for a corpus, and for each caption."""
    hypotheses, references = corpus
    written = {index: [hypothesis] for index, hypothesis in enumerate(hypotheses)}
    return score.compute_score(dict(enumerate(references)), written, **arguments)  # type: ignore[attr-defined]


def value(metric: Metric, corpus: Corpus) -> float:
    """The metric of a whole corpus, from 0 to 1, or 10 for CIDEr-D."""
    metric.update(*corpus)
    return float(metric.compute().item()) / 100


CORPORA = [
    pytest.param(lambda: made_corpus(300, seed=0), id="made"),
    pytest.param(lambda: made_corpus(300, seed=1, most=1), id="one reference"),
    pytest.param(lambda: real_corpus(400), id="real", marks=needs_flickr8k),
]


@pytest.mark.parametrize("make", CORPORA)
def test_equal_to_the_coco_caption_evaluation(make: Callable[[], Corpus]) -> None:
    corpus = make()
    bleu = peer(Bleu(4), corpus, verbose=0)[0]
    assert [value(CaptionBLEU(order, str.split), corpus) for order in (1, 2, 3, 4)] == pytest.approx(bleu, abs=1e-6)
    assert value(RougeL(str.split), corpus) == pytest.approx(peer(Rouge(), corpus)[0], abs=1e-6)
    assert value(CIDErD(tokenize=str.split), corpus) == pytest.approx(peer(Cider(), corpus)[0], abs=1e-6)


@needs_java
@pytest.mark.parametrize("make", CORPORA)
def test_meteor_is_that_of_its_program(make: Callable[[], Corpus]) -> None:
    corpus = make()
    # The class starts the program with all of its modules; here it has two.
    jar = Path(meteor_program.__file__).with_name(meteor_program.METEOR_JAR)
    command = ["java", "-jar", "-Xmx1G", str(jar), "-", "-", "-stdio", "-l", "en", "-m", "exact stem"]
    program = meteor_program.Meteor.__new__(meteor_program.Meteor)
    program.lock = Lock()
    program.meteor_p = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    wanted, each = peer(program, corpus)
    found = [value(METEOR(str.split), ([text], [several])) for text, several in zip(*corpus, strict=True)]
    unlike = [index for index, (one, other) in enumerate(zip(found, each, strict=True)) if abs(one - other) > 1e-6]
    # Its search for the best alignment is narrower and misses some.
    assert len(unlike) <= len(found) / 200
    assert value(METEOR(str.split), corpus) == pytest.approx(wanted, abs=1e-6 if not unlike else 1e-4)
    assert all(found[index] > each[index] for index in unlike)


# Common to all.


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), positions=st.lists(st.integers(0, 20), max_size=4))
def test_batches_do_not_matter(seed: int, positions: list[int]) -> None:
    hypotheses, references = made_corpus(20, seed)
    borders = [0, *sorted(positions), 20]
    for make in EVERY:
        metric = make()
        for start, stop in pairwise(borders):
            metric.update(hypotheses[start:stop], references[start:stop])
        assert metric.compute().item() / 100 == pytest.approx(value(make(), (hypotheses, references)))


@settings(max_examples=20)
@given(seed=st.integers(0, 1000))
def test_the_order_of_the_references_does_not_matter(seed: int) -> None:
    hypotheses, references = made_corpus(20, seed)
    turned = [several[::-1] for several in references]
    for make in (CaptionBLEU, RougeL, CIDErD):
        assert value(make(), (hypotheses, turned)) == pytest.approx(value(make(), (hypotheses, references)))
    # Of references that are as good as each other METEOR adds up the first, which counts in a corpus only.
    for hypothesis, one, other in zip(hypotheses, references, turned, strict=True):
        found = value(METEOR(), ([hypothesis], [one]))
        assert found == pytest.approx(value(METEOR(), ([hypothesis], [other])))


@settings(max_examples=20)
@given(seed=st.integers(0, 1000))
def test_perfect_captions_get_the_highest_score(seed: int) -> None:
    _, references = made_corpus(20, seed, most=1)
    hypotheses = [several[0] for several in references]
    for make in COMPARED:
        assert value(make(), (hypotheses, references)) == pytest.approx(10 if make is CIDErD else 1)
    for make in (CaptionBLEU, RougeL, METEOR):
        others = [[*several, "something else"] for several in references]
        assert value(make(), (hypotheses, others)) == pytest.approx(1)


def test_texts_are_split_into_words() -> None:
    hypotheses, references = ["A Dog, running."], [["a dog running", "THE DOG!"]]
    for make in COMPARED:
        pair = hypotheses * 2, references * 2
        words = [" ".join(caption_words(text)) for text in pair[0]]
        several = [[" ".join(caption_words(text)) for text in texts] for texts in pair[1]]
        assert value(make(), pair) == value(make(tokenize=str.split), (words, several))


@pytest.mark.parametrize("make", EVERY)
def test_no_texts_score_zero_and_a_reset_forgets(make: Callable[[], Metric]) -> None:
    metric = make()
    corpus = made_corpus(20, seed=0)
    assert value(metric, corpus) > 0.01
    metric.reset()
    assert value(metric, ([], [])) == 0
    assert value(metric, ([""], [["a dog"]])) == 0
    assert value(metric, (["..."], [["!"]])) == 0
    metric.reset()
    assert value(metric, corpus) == value(make(), corpus)


@pytest.mark.parametrize("make", COMPARED)
def test_mismatched_references_are_refused(make: Callable[[], Metric]) -> None:
    with pytest.raises(ValueError, match="2 hypotheses for 1 references"):
        make().update(["a", "b"], [["a"]])
    with pytest.raises(ValueError, match=r"references\[1\] is empty"):
        make().update(["a", "b"], [["a"], []])
    with pytest.raises(TypeError, match=r"references\[0\] .*got .*'a dog'; give \['a dog'\]"):
        make().update(["a dog"], ["a dog"])


@pytest.mark.parametrize("order", [0, 5])
def test_bleu_has_four_orders(order: int) -> None:
    with pytest.raises(ValueError, match=rf"order .*got {order}"):
        CaptionBLEU(order)


def test_a_score_must_define_its_statistics() -> None:
    class Unfinished(CaptionScore):
        def compute(self) -> torch.Tensor:
            return self.sums

    with pytest.raises(NotImplementedError, match=r"Unfinished.*statistics\(hypothesis, references\)"):
        Unfinished(1).update(["a"], [["a"]])


def test_a_collection_updates_one_bleu_of_four() -> None:
    corpus = made_corpus(20, seed=0)
    metrics = MetricCollection({f"bleu{order}": CaptionBLEU(order) for order in (1, 2, 3, 4)})
    metrics.add_metrics({make.__name__: make() for make in (RougeL, METEOR, CIDErD, DistinctNGrams, VocabularyUse)})
    for _ in range(2):
        metrics.update(*corpus)
    groups = [set(group) for group in metrics.compute_groups.values()]
    assert {"bleu1", "bleu2", "bleu3", "bleu4"} in groups
    assert {"DistinctNGrams", "VocabularyUse"} in groups
    assert len(groups) == 5
    twice = corpus[0] * 2, corpus[1] * 2
    assert metrics.compute()["bleu2"].item() / 100 == pytest.approx(value(CaptionBLEU(2), twice))
    assert metrics.compute()["CIDErD"].item() / 100 == pytest.approx(value(CIDErD(), twice))


# Two processes.

SCRIPT = """
import faulthandler
import json
import os
import socket
import torch
from lightning_modules.metrics.caption_metrics import CaptionBLEU, RougeL
from lightning_modules.metrics.cider import CIDErD
from lightning_modules.metrics.diversity import DistinctNGrams, VocabularyUse
from lightning_modules.metrics.meteor import METEOR

given = json.load(open("given.json"))

def run(rank, port):
    # A process that waits for ever prints where.
    faulthandler.dump_traceback_later(180, exit=True)
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    found = []
    for border in given["borders"]:
        part = [slice(border), slice(border, None)][rank]
        metrics = [make() for make in (CaptionBLEU, RougeL, METEOR, CIDErD, DistinctNGrams, VocabularyUse)]
        for metric in metrics:
            if given["hypotheses"][part]:
                metric.update(given["hypotheses"][part], given["references"][part])
        found.append([metric.compute().item() for metric in metrics])
    with open(f"found{rank}.json", "w") as file:
        json.dump(found, file)
    # Not by destroy_process_group(), in which torch 2.3 sometimes waits for ever for its own threads.
    os._exit(0)

if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    torch.multiprocessing.spawn(run, (port,), nprocs=2)
"""


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch cannot run several processes")
def test_two_processes_have_the_scores_of_the_whole(tmp_path: Path) -> None:
    hypotheses, references = made_corpus(20, seed=0)
    # In the second round one process has nothing.
    content = {"borders": [7, 20], "hypotheses": [*hypotheses[:-1], "naïve “dog”"], "references": references}
    (tmp_path / "given.json").write_text(json.dumps(content))
    (tmp_path / "run.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "run.py"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    whole = [100 * value(make(), (content["hypotheses"], references)) for make in EVERY]  # type: ignore[arg-type]
    for rank in (0, 1):
        for found in json.loads((tmp_path / f"found{rank}.json").read_text()):
            assert found == pytest.approx(whole)
