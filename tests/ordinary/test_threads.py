"""A shared system in training mode, asked from many threads, answers as in evaluation mode and stays as it is."""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from lightning_modules import Captioner, RNNSeq2Seq, SelfCritical, Seq2Seq, System, TransformerSeq2Seq
from lightning_modules.plots.figures import NoAttentionError
from lightning_modules.text.self_critical import Baseline
from tests.lightning_modules.test_every_system import EVERY_SYSTEM, EXAMPLES

THREADS, ROUNDS = 4, 2
METHODS = ("predict", "classify", "translate", "caption", "attention_maps", "attention_gates", "plot")


@pytest.fixture(autouse=True)
def _frequent_switches() -> Iterator[None]:
    """Threads take turns a hundred times as often as usual."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(interval / 100)
    yield
    sys.setswitchinterval(interval)


def build(cls: type[System]) -> System:
    """A system in training mode whose layers drop half of their inputs."""
    torch.manual_seed(0)
    system = EXAMPLES[cls].build().train()
    for part in system.modules():
        if isinstance(getattr(part, "dropout", None), float):
            vars(part)["dropout"] = 0.5
        if isinstance(part, nn.Dropout):
            part.p = 0.5
    return system


def question(system: System) -> Any:  # noqa: ANN401
    """Input of the methods of a system."""
    return ["5", "1 0", "3 7 9 1"] if isinstance(system, Seq2Seq) else EXAMPLES[type(system)].inputs()[0]


def methods(system: System) -> list[str]:
    return [name for name in METHODS if hasattr(system, name)]


def answer(system: System, method: str, asked: Any) -> Any:  # noqa: ANN401
    """What a method returns, a figure as its pixels and titles."""
    try:
        found = getattr(system, method)(asked)
    except NoAttentionError as error:
        return str(error)
    if isinstance(found, Figure):
        shown = [torch.from_numpy(np.asarray(image.get_array())) for axes in found.axes for image in axes.images]
        return shown, [axes.get_title() for axes in found.axes]
    return found


def is_same(found: Any, wanted: Any) -> bool:  # noqa: ANN401
    if isinstance(wanted, Tensor):
        return found.shape == wanted.shape and torch.allclose(found.float(), wanted.float(), atol=1e-6)
    if isinstance(wanted, Mapping):
        return list(found) == list(wanted) and all(is_same(found[name], wanted[name]) for name in wanted)
    if isinstance(wanted, Sequence) and not isinstance(wanted, str):
        return len(found) == len(wanted) and all(map(is_same, found, wanted))
    return bool(found == pytest.approx(wanted, abs=1e-6)) if isinstance(wanted, float) else bool(found == wanted)


def state_of(system: System) -> tuple[list[bool], list[Tensor], Tensor]:
    """Modes, parameters and buffers, and the random state."""
    tensors = [value.detach().clone() for value in (*system.parameters(), *system.buffers())]
    return [part.training for part in system.modules()], tensors, torch.get_rng_state()


def wrong_answers(system: System, method: str, wanted: Any, asked: Any) -> int:  # noqa: ANN401
    """The number of threads' answers that differ from the one of an evaluated copy."""
    start = threading.Barrier(THREADS)

    def ask(_: int) -> list[bool]:
        start.wait()
        return [is_same(answer(system, method, asked), wanted) for _ in range(ROUNDS)]

    with ThreadPoolExecutor(THREADS) as pool:
        return sum(not same for found in pool.map(ask, range(THREADS)) for same in found)


@EVERY_SYSTEM
def test_threads_get_the_answers_of_evaluation_mode(cls: type[System]) -> None:
    system = build(cls)
    asked = question(system)
    evaluated = copy.deepcopy(system).eval()
    wanted = {method: answer(evaluated, method, asked) for method in methods(system)}
    assert wanted
    before = state_of(system)
    wrong = {method: wrong_answers(system, method, wanted[method], asked) for method in wanted}
    after = state_of(system)
    assert wrong == dict.fromkeys(wanted, 0), f"wrong answers of {THREADS * ROUNDS} each"
    assert after[0] == before[0]
    assert all(map(torch.equal, after[1], before[1]))
    assert torch.equal(after[2], before[2])


class Watch:
    """Forward pre-hook that notes the modes of a system, whichever module calls it."""

    def __init__(self, system: System) -> None:
        self.parts = list(system.modules())
        self.calls = 0
        self.flipped: set[str] = set()

    def __call__(self, module: nn.Module, inputs: object) -> None:
        self.calls += 1
        self.flipped |= {type(part).__name__ for part in self.parts if not part.training}


@EVERY_SYSTEM
def test_no_mode_is_flipped_during_a_call(cls: type[System]) -> None:
    system = build(cls)
    asked = question(system)
    watch = Watch(system)
    for part in watch.parts:
        part.register_forward_pre_hook(watch)
    for method in methods(system):
        answer(system, method, asked)
        assert not watch.flipped, method
    assert watch.calls


@pytest.mark.parametrize("cls", [RNNSeq2Seq, TransformerSeq2Seq, Captioner])
@pytest.mark.parametrize("baseline", ["others", "greedy"])
def test_self_critical_training_flips_no_mode(
    cls: type[Seq2Seq] | type[Captioner], baseline: Baseline, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = build(cls)
    assert isinstance(system, (Seq2Seq, Captioner))
    asked_of: list[object] = []

    def rewards(texts: Sequence[str], references: Sequence[Sequence[str]]) -> Tensor:
        asked_of.append(system)
        return torch.tensor([float(len(text)) for text in texts])

    monkeypatch.setattr(system, "rewards", rewards)
    logged: list[str] = []
    monkeypatch.setattr(system, "log", lambda name, *_, **__: logged.append(name))
    watch = Watch(system)
    for part in watch.parts:
        part.register_forward_pre_hook(watch)
    [batch, *_] = EXAMPLES[cls].loader()
    SelfCritical(samples=2, baseline=baseline).loss(system, batch).backward()  # type: ignore[no-untyped-call]
    assert watch.calls
    assert not watch.flipped
    assert asked_of
    assert logged == ["train/reward"]
    trained = [weight.grad is not None and bool(weight.grad.any()) for weight in system.network.parameters()]
    assert sum(trained) > len(trained) / 2
