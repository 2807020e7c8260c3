"""Every subject of ``python -m benchmarks`` runs."""

import importlib.util
import subprocess
import sys

import pytest

from benchmarks.__main__ import SUBJECTS, main


@pytest.mark.slow
@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_subject_measures(subject: str) -> None:
    # Not imported here, since its classes would make bare names in recipes ambiguous.
    if subject == "seq2seq_speed" and importlib.util.find_spec("x_transformers") is None:
        pytest.skip("the peers are not installed: pip install 'attention-blocks[bench]'")
    words = [sys.executable, "-m", "benchmarks", subject, "--quick"]
    finished = subprocess.run(words, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert subject in finished.stdout
    assert " to " in finished.stdout  # a ratio with its quartiles
    assert "Goal" in finished.stdout


def test_an_unknown_subject_names_the_known_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "vit_sped"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert "vit_sped" in printed
    assert all(subject in printed for subject in SUBJECTS)
