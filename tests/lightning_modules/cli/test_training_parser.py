from __future__ import annotations

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_modules.cli.training_parser import TrainingParser, constructor_errors, trainer_errors


class Wheel:
    """A part that may be refused."""

    def __init__(self, size: int = 1) -> None:
        if size == 0:
            raise ZeroDivisionError("a bug")
        if size < 0:
            raise ValueError(f"size must be positive, got {size}")
        self.size = size


class Car:
    """Something with a part."""

    def __init__(self, wheel: Wheel | None = None) -> None:
        self.wheel = wheel


def build(*words: str) -> Car:
    parser = TrainingParser()
    parser.add_subclass_arguments(Car, "car", required=True)
    parser.add_instantiator(lambda kind, *args, **kwargs: kind(*args, **kwargs), object)
    config = parser.parse_args(["--car", f"{__name__}.Car", "--car.wheel", f"{__name__}.Wheel", *words])
    with constructor_errors():
        car = parser.instantiate(config).car
    assert isinstance(car, Car)
    return car


def test_what_a_constructor_refuses_is_said_in_its_own_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert build("--car.wheel.size", "3").wheel is not None
    with pytest.raises(SystemExit):
        build("--car.wheel.size", "-3")
    assert capsys.readouterr().err == "attention-blocks: error: size must be positive, got -3\n"


def test_a_bug_in_a_constructor_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError, match="a bug"):
        build("--car.wheel.size", "0")


@pytest.mark.parametrize(
    "error",
    [MisconfigurationException("no\n such device"), RuntimeError("Early stopping conditioned on metric `x` which is")],
)
def test_what_the_trainer_refuses_is_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), trainer_errors():
        raise error
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_other_errors_of_a_run_keep_their_traceback() -> None:
    with pytest.raises(RuntimeError, match="out of memory"), trainer_errors():
        raise RuntimeError("out of memory")
