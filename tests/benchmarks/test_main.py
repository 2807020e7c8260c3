import importlib.util
import subprocess
import sys

import pytest

from benchmarks.__main__ import SUBJECTS


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "benchmarks", *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_subject_measures(subject: str) -> None:
    # Not imported here, since its classes would make bare names in recipes ambiguous.
    if subject == "seq2seq_speed" and importlib.util.find_spec("x_transformers") is None:
        pytest.skip("the peers are not installed: pip install 'attention-blocks[bench]'")
    finished = run(subject, "--quick")
    assert finished.returncode == 0, finished.stderr
    assert subject in finished.stdout
    assert " to " in finished.stdout  # a ratio with its quartiles
    assert "Goal" in finished.stdout


def test_an_unknown_subject_names_the_known_ones() -> None:
    finished = run("vit_sped")
    assert finished.returncode == 2
    assert "no subject vit_sped; choose from vit_speed" in finished.stderr
