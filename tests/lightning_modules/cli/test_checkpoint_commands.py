from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from attention_blocks import CBAM
from datamodules import ImageTransform
from lightning_modules import (
    BeamSearch,
    Captioner,
    ConvClassifier,
    LengthPenalty,
    Sampling,
    Seq2Seq,
    SmallResNet,
    System,
)

Refused = Callable[..., None]

if TYPE_CHECKING:
    from tests.lightning_modules.conftest import MakeCaptioner, MakeTrainer, MakeTranslator, RunCommand, Trained


def test_classify_prints_what_the_system_says(picture: Path, run_command: RunCommand, trained: Trained) -> None:
    other = picture.with_name("other.png")
    Image.new("RGB", (30, 20), "white").save(other)
    ran = run_command("classify", trained.checkpoint, picture, other)
    assert (ran.code, ran.err) == (None, "")
    lines = ran.out.splitlines()
    assert len(lines) == 12
    for start, image in ((0, picture), (6, other)):
        assert lines[start] == str(image)
        [guesses] = trained.model.classify([image])
        printed = [re.fullmatch(r"\s+([\d.]+)%\s+(\S+)", line) for line in lines[start + 1 : start + 6]]
        assert [found[2] for found in printed if found] == [guess.label for guess in guesses]
        assert [float(found[1]) for found in printed if found] == pytest.approx(
            [100 * guess.probability for guess in guesses], abs=0.006
        )


def test_classify_prints_as_many_classes_as_asked_for(
    picture: Path, run_command: RunCommand, trained: Trained, refused: Refused
) -> None:
    assert len(run_command("classify", trained.checkpoint, picture, "--top", 2).out.splitlines()) == 3
    assert len(run_command("classify", trained.checkpoint, picture, "--top", 99).out.splitlines()) == 11
    refused(run_command("classify", trained.checkpoint, picture, "--top", 0), "top must be 1 or more")


def test_plot_writes_a_picture_an_image(
    tmp_path: Path, picture: Path, run_command: RunCommand, trained: Trained
) -> None:
    other = tmp_path / "other.jpg"
    Image.new("RGB", (30, 20), "white").save(other)
    ran = run_command("plot", trained.checkpoint, picture, other, "--out", tmp_path / "deep" / "plots")
    assert (ran.code, ran.err) == (None, "")
    for name in ("digit.png", "other.png"):
        written = tmp_path / "deep" / "plots" / name
        assert f"wrote {written}" in ran.out
        with Image.open(written) as image:
            assert min(image.size) > 200
            assert len(np.unique(np.asarray(image.convert("L")))) > 10


def test_images_of_one_name_get_a_plot_each(
    tmp_path: Path, picture: Path, run_command: RunCommand, trained: Trained
) -> None:
    again = tmp_path / "again" / "digit.png"
    again.parent.mkdir()
    Image.new("L", (8, 8), 99).save(again)
    run_command("plot", trained.checkpoint, picture, again)
    first, second = sorted((tmp_path / "plots").iterdir())
    assert {first.name, second.name} == {"digit.png", "digit-2.png"}
    assert first.read_bytes() != second.read_bytes()


COMMANDS_ON_IMAGES = pytest.mark.parametrize("command", ["classify", "plot"])


@COMMANDS_ON_IMAGES
def test_an_image_that_is_none(
    command: str, tmp_path: Path, run_command: RunCommand, trained: Trained, refused: Refused
) -> None:
    missing = run_command(command, trained.checkpoint, "nothing.png")
    refused(missing, "'nothing.png'", "there is no such image file", "check the path")
    (tmp_path / "text.png").write_text("no image")
    text = run_command(command, trained.checkpoint, "text.png")
    refused(text, "'text.png'", "cannot be read as an image")
    refused(run_command(command, trained.checkpoint, tmp_path), "cannot be read as an image")


def _empty(path: Path, whole: bytes) -> None:
    path.write_bytes(b"")


def _truncated(path: Path, whole: bytes) -> None:
    path.write_bytes(whole[: len(whole) // 2])


def _text(path: Path, whole: bytes) -> None:
    path.write_text("not a checkpoint")


def _state_dict(path: Path, whole: bytes) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), path)


def _nothing(path: Path, whole: bytes) -> None:
    """Leaves no file at all."""


@COMMANDS_ON_IMAGES
@pytest.mark.parametrize("make", [_empty, _truncated, _text, _state_dict, _nothing])
def test_a_checkpoint_of_nothing(
    command: str,
    make: Callable[[Path, bytes], None],
    tmp_path: Path,
    picture: Path,
    run_command: RunCommand,
    trained: Trained,
    refused: Refused,
) -> None:
    broken = tmp_path / "broken.ckpt"
    make(broken, trained.checkpoint.read_bytes())
    refused(run_command(command, broken, picture), "checkpoint_path: ", "broken.ckpt'")


# Translators.


@pytest.fixture
def translator(make_writer: MakeTranslator, make_trainer: MakeTrainer, tmp_path: Path) -> Seq2Seq:
    """A system whose checkpoint is the file translator.ckpt."""
    system = make_writer("bahdanau", strategy=BeamSearch(size=2))
    save(system, tmp_path / "translator.ckpt", make_trainer)
    return system


def save(system: System, path: Path, make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    trainer.strategy.connect(system)
    trainer.save_checkpoint(path)


def test_translate_reads_a_file_line_by_line(
    tmp_path: Path, translator: Seq2Seq, sentences: list[str], run_command: RunCommand
) -> None:
    lines = [sentences[0], "", *sentences[1:], "   "]
    (tmp_path / "in.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    ran = run_command("translate", "translator.ckpt", "--input", "in.txt")
    assert ran.code is None, ran.err
    assert ran.out.split("\n") == [*translator.translate(lines), ""]
    assert re.search(r"8 sentences in \d+\.\d s, \d+\.\d per second\n$", ran.err)
    smaller = run_command("translate", "translator.ckpt", "--input", "in.txt", "--batch-size", 2)
    assert smaller.out == ran.out


@pytest.mark.parametrize("ending", ["\n", "\r\n", ""])
def test_translate_reads_standard_input(
    ending: str,
    translator: Seq2Seq,
    sentences: list[str],
    monkeypatch: pytest.MonkeyPatch,
    run_command: RunCommand,
) -> None:
    monkeypatch.setattr("lightning_modules.cli.checkpoint_commands.LINES_AT_A_TIME", 4)
    text = ending.join(sentences) if ending else sentences[0]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((text + ending).encode()), encoding="utf-8"))
    ran = run_command("translate", "translator.ckpt")
    assert ran.code is None, ran.err
    assert ran.out.splitlines() == translator.translate(sentences if ending else sentences[:1])


def test_translate_with_another_beam_keeps_the_rest_of_the_strategy(
    tmp_path: Path,
    sentences: list[str],
    make_writer: MakeTranslator,
    make_trainer: MakeTrainer,
    run_command: RunCommand,
) -> None:
    plain = LengthPenalty(alpha=0.0)
    system = make_writer("bahdanau", strategy=BeamSearch(size=2, length_penalty=plain))
    save(system, tmp_path / "one.ckpt", make_trainer)
    (tmp_path / "in.txt").write_text("\n".join(sentences))
    ran = run_command("translate", "one.ckpt", "--input", "in.txt", "--beam", 4)
    wanted = system.translate(sentences, BeamSearch(size=4, length_penalty=plain))
    assert ran.out.splitlines() == wanted
    assert wanted != system.translate(sentences, BeamSearch(size=4))
    assert wanted != system.translate(sentences)
    save(make_writer("bahdanau", strategy=Sampling()), tmp_path / "two.ckpt", make_trainer)
    ran = run_command("translate", "two.ckpt", "--input", "in.txt", "--beam", 4)
    assert ran.out.splitlines() == system.translate(sentences, BeamSearch(size=4))


def test_translate_of_nothing_is_nothing(tmp_path: Path, translator: Seq2Seq, run_command: RunCommand) -> None:
    (tmp_path / "in.txt").write_text("")
    ran = run_command("translate", "translator.ckpt", "--input", "in.txt")
    assert (ran.code, ran.out) == (None, "")
    assert ran.err.startswith("0 sentences")


def test_what_is_wrong_with_translate_is_said_in_one_line(
    tmp_path: Path, translator: Seq2Seq, trained: Trained, run_command: RunCommand, refused: Refused
) -> None:
    (tmp_path / "in.txt").write_text("ein Vogel\n")
    for words, said in (
        (("translator.ckpt", "--input", "none.txt"), ("--input: there is no file 'none.txt'",)),
        (("translator.ckpt", "--input", "in.txt", "--beam", 0), ("size must be 1", "got 0")),
        (("translator.ckpt", "--input", "in.txt", "--batch-size", 0), ("batch_size must be 1 or more, got 0",)),
        (("none.ckpt", "--input", "in.txt"), ("checkpoint_path: there is no file 'none.ckpt'",)),
        ((trained.checkpoint, "--input", "in.txt"), ("holds a ViTClassifier, not a Seq2Seq",)),
    ):
        refused(run_command("translate", *words), *said)


def test_plot_draws_sentences(tmp_path: Path, translator: Seq2Seq, run_command: RunCommand) -> None:
    long = " ".join(["der Hund sieht ein Vogel"] * 12)  # longer than a file's name may be
    ran = run_command("plot", "translator.ckpt", "ein Vogel", long, "--out", "maps")
    assert ran.code is None, ran.err
    sizes = []
    for number in (1, 2):
        written = Path("maps") / f"sentence-{number}.png"
        assert f"wrote {written}" in ran.out
        with Image.open(written) as image:
            sizes.append(image.size)
            assert len(np.unique(np.asarray(image.convert("L")))) > 10
    assert sizes[1][0] > 4 * sizes[0][0]


def test_plot_without_attention_is_refused(
    tmp_path: Path, make_writer: MakeTranslator, make_trainer: MakeTrainer, run_command: RunCommand, refused: Refused
) -> None:
    save(make_writer("fixed"), tmp_path / "fixed.ckpt", make_trainer)
    refused(run_command("plot", "fixed.ckpt", "ein Vogel"), "FixedVectorDecoder has no attention")


def test_plot_draws_the_gates_of_a_cnn(
    tmp_path: Path, picture: Path, make_trainer: MakeTrainer, run_command: RunCommand
) -> None:
    network = partial(SmallResNet, widths=(8, 16), depth=1)
    attention = partial(CBAM, reduction=4)
    save(ConvClassifier(3, ImageTransform(12, channels=1), network, attention), tmp_path / "cbam.ckpt", make_trainer)
    ran = run_command("plot", "cbam.ckpt", picture, "--out", "maps")
    assert ran.code is None, ran.err
    with Image.open(Path("maps") / "digit.png") as image:
        assert image.width > 3 * image.height  # the image, and two gates of each of two stages
        assert len(np.unique(np.asarray(image.convert("L")))) > 10


# Captions.


@pytest.fixture
def describer(make_captioner: MakeCaptioner, make_trainer: MakeTrainer, tmp_path: Path) -> Captioner:
    """A system whose checkpoint is the file captioner.ckpt."""
    system = make_captioner("transformer")
    save(system, tmp_path / "captioner.ckpt", make_trainer)
    return system


def test_caption_says_what_the_system_says(
    tmp_path: Path, picture: Path, describer: Captioner, run_command: RunCommand
) -> None:
    other = tmp_path / "größer.png"
    Image.new("RGB", (30, 20), "red").save(other)
    texts = describer.caption([picture, other])
    for more in ((), ("--batch-size", 1)):
        ran = run_command("caption", "captioner.ckpt", picture, other, *more)
        assert ran.code is None, ran.err
        assert ran.out.splitlines() == [f"{picture}\t{texts[0]}", f"{other}\t{texts[1]}"]
    ran = run_command("caption", "captioner.ckpt", picture, other, "--json", "--beam", 3)
    said = [json.loads(line) for line in ran.out.splitlines()]
    wanted = describer.caption([picture, other], BeamSearch(size=3))
    assert said == [{"image": str(picture), "caption": wanted[0]}, {"image": str(other), "caption": wanted[1]}]
    assert "größer" in ran.out


def test_what_is_wrong_with_caption_is_said_in_one_line(
    tmp_path: Path, picture: Path, describer: Captioner, trained: Trained, run_command: RunCommand, refused: Refused
) -> None:
    cut = tmp_path / "cut.png"
    cut.write_bytes(picture.read_bytes()[:60])
    for words, said in (
        (("captioner.ckpt", "none.png"), ("'none.png': there is no such image file",)),
        (("captioner.ckpt", cut), ("cut.png", "cannot be read as an image")),
        (("captioner.ckpt", picture, "--beam", 0), ("size must be 1", "got 0")),
        (("captioner.ckpt", picture, "--batch-size", 0), ("batch_size must be 1 or more, got 0",)),
        ((trained.checkpoint, picture), ("holds a ViTClassifier, not a Captioner",)),
    ):
        refused(run_command("caption", *words), *said)


def test_a_device_that_is_not_there_is_refused(
    picture: Path, describer: Captioner, run_command: RunCommand, refused: Refused
) -> None:
    assert run_command("caption", "captioner.ckpt", picture, "--device", "cpu").code is None
    for device in ("cuda:99", "abacus"):
        refused(run_command("caption", "captioner.ckpt", picture, "--device", device), "device", repr(device))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_a_gpu_is_taken_where_there_is_one(picture: Path, describer: Captioner, run_command: RunCommand) -> None:
    for command in ("caption", "plot"):
        before = torch.cuda.memory_stats()["allocation.all.allocated"]
        assert run_command(command, "captioner.ckpt", picture).code is None
        assert torch.cuda.memory_stats()["allocation.all.allocated"] > before


def test_plot_draws_an_image_once_a_word(picture: Path, describer: Captioner, run_command: RunCommand) -> None:
    ran = run_command("plot", "captioner.ckpt", picture, "--out", "maps")
    assert ran.code is None, ran.err
    with Image.open(Path("maps") / "digit.png") as image:
        assert len(np.unique(np.asarray(image.convert("L")))) > 10
