from __future__ import annotations

import gzip
import sys
from pathlib import Path

import pytest
import sacrebleu

from benchmarks.attention_by_length import bleu, length_groups, main


def test_every_sentence_is_in_the_group_of_its_length() -> None:
    sources = ["a", "a b", "a b c", "a b c d e", "a b c d"]
    assert length_groups(sources, (2, 4)) == [[0, 1], [2, 4], [3]]


def test_bleu_of_some_sentences_is_sacrebleus_of_them_alone() -> None:
    hypotheses = ["A dog runs in the snow .", "nothing", "two men are here now"]
    references = ["a dog runs through the snow .", "something else", "two men are here"]
    wanted = sacrebleu.corpus_bleu([hypotheses[0], hypotheses[2]], [[references[0], references[2]]], lowercase=True)
    assert bleu(hypotheses, references, [0, 2]) == wanted.score


def test_it_runs_on_files_named_like_multi30ks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "Zwei Hunde spielen.\nEine Katze schläft in der Sonne.\nSchnee!\nEin Mann liest ein Buch.\n" * 2
    for split in ("train", "val", "test_2016_flickr"):
        for side in ("de", "en"):
            (tmp_path / f"{split}.{side}.gz").write_bytes(gzip.compress(text.encode()))
    monkeypatch.chdir(tmp_path)
    words = [".", "--epochs", "1", "--attentions", "none", "Luong dot", "--out", "found"]
    monkeypatch.setattr(sys, "argv", ["attention_by_length", *words])
    main()
    table = Path("found/table.md").read_text(encoding="utf-8")
    assert table in capsys.readouterr().out + "\n"
    assert [line.split(" | ")[0] for line in table.splitlines()[2:]] == ["| none", "| Luong dot"]
    assert "| to 8 (8) | 9 to 10 (0) |" in table
    assert Path("found/plot.png").stat().st_size > 1000
