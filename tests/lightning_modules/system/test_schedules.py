"""Learning-rate schedules against their formulas, in training and after resuming."""

from __future__ import annotations

import math
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import SGD

from lightning_modules import LengthAwareSchedule, Noam, WarmupCosine

if TYPE_CHECKING:
    from tests.lightning_modules.conftest import MakeClassifier, MakeLoader, MakeTrainer

SGD_1 = partial(SGD, lr=1.0)


class Rates(Callback):
    """Records the rate of every step."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: tuple[Tensor, Tensor], batch_idx: int
    ) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


class Halving(LengthAwareSchedule):
    """1 in the first half, 1/2 in the second."""

    def factor(self, progress: float) -> float:
        return 1.0 if progress < 0.5 else 0.5


def optimizer(*rates: float) -> SGD:
    return SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates], lr=9.0)


def rates_of(schedule: LengthAwareSchedule, steps: int) -> list[list[float]]:
    rates = []
    for _ in range(steps):
        rates.append([group["lr"] for group in schedule.optimizer.param_groups])
        schedule.optimizer.step()
        schedule.step()
    return rates


def formula(step: int, total: int, warmup: float, final: float) -> float:
    """Loshchilov and Hutter's equation 5 with one period, after a linear rise."""
    progress = step / total
    if progress < warmup:
        return max(progress / warmup, 1e-3)
    fraction = (progress - warmup) / (1 - warmup) if warmup < 1 else 0.0
    return final + 0.5 * (1 - final) * (1 + math.cos(math.pi * fraction))


@given(total=st.integers(1, 60), warmup=st.floats(0, 1), final=st.floats(0, 1))
def test_the_rates_are_the_formulas(total: int, warmup: float, final: float) -> None:
    schedule = WarmupCosine(optimizer(0.3, 0.02), warmup=warmup, final=final, total_steps=total)
    for step, (first, second) in enumerate(rates_of(schedule, total)):
        expected = formula(step, total, warmup, final)
        assert first == pytest.approx(0.3 * expected, rel=1e-6, abs=1e-9)
        assert second == pytest.approx(0.02 * expected, rel=1e-6, abs=1e-9)


def test_it_rises_to_the_base_rate_then_falls_to_the_final_fraction() -> None:
    rates = [rate for [rate] in rates_of(WarmupCosine(optimizer(2.0), warmup=0.1, final=0.1, total_steps=100), 101)]
    assert rates[:11] == sorted(rates[:11])
    assert rates[10] == pytest.approx(2.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[99] == pytest.approx(0.2, rel=0.01)
    assert rates[100] == pytest.approx(0.2)


def test_beyond_the_end_the_rate_stays() -> None:
    rates = [rate for [rate] in rates_of(WarmupCosine(optimizer(1.0), final=0.25, total_steps=4), 10)]
    assert rates[4:] == pytest.approx([0.25] * 6)


def test_no_warm_up_starts_at_the_base_rate() -> None:
    [[first], *_] = rates_of(WarmupCosine(optimizer(0.7), warmup=0.0, total_steps=10), 1)
    assert first == pytest.approx(0.7)


def test_the_length_is_set_once() -> None:
    schedule = Halving(optimizer(1.0))
    schedule.set_total_steps(4)
    schedule.set_total_steps(400)
    assert rates_of(schedule, 4) == [[1.0], [1.0], [0.5], [0.5]]
    given_length = Halving(optimizer(1.0), total_steps=2)
    given_length.set_total_steps(400)
    assert rates_of(given_length, 2) == [[1.0], [0.5]]


def test_setting_the_length_corrects_the_rate_of_the_first_step() -> None:
    schedule = WarmupCosine(optimizer(1.0), warmup=0.5, total_steps=None, last_epoch=-1)
    schedule.set_total_steps(10)
    assert schedule.get_last_lr() == [group["lr"] for group in schedule.optimizer.param_groups]
    assert schedule.get_last_lr() == pytest.approx([1e-3])


@pytest.mark.parametrize(("name", "fraction"), [("warmup", -0.1), ("warmup", 1.5), ("final", -1.0), ("final", 2.0)])
def test_fractions_out_of_range(name: str, fraction: float) -> None:
    with pytest.raises(ValueError, match=rf"{name}.*\[0, 1\], got {fraction}"):
        WarmupCosine(optimizer(1.0), **{name: fraction})  # type: ignore[arg-type]


def test_a_schedule_must_define_factor() -> None:
    with pytest.raises(NotImplementedError, match=r"LengthAwareSchedule.*factor"):
        LengthAwareSchedule(optimizer(1.0))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_length_is_the_trainers_number_of_optimiser_steps(
    accumulate: int, make_classifier: MakeClassifier, make_loader: MakeLoader, make_trainer: MakeTrainer
) -> None:
    model = make_classifier(optimizer=SGD_1, lr_scheduler=partial(WarmupCosine, warmup=0.25, final=0.1))
    seen = Rates()
    trainer = make_trainer(max_epochs=4, accumulate_grad_batches=accumulate, callbacks=[seen])
    trainer.fit(model, make_loader(16, 4))
    steps = 16 // accumulate
    assert trainer.global_step == steps
    expected = [formula(batch // accumulate, steps, 0.25, 0.1) for batch in range(16)]
    assert seen.rates == pytest.approx(expected)


def test_a_given_length_is_kept(
    make_classifier: MakeClassifier, make_loader: MakeLoader, make_trainer: MakeTrainer
) -> None:
    model = make_classifier(optimizer=SGD_1, lr_scheduler=partial(Halving, total_steps=2))
    seen = Rates()
    make_trainer(max_epochs=2, callbacks=[seen]).fit(model, make_loader())
    assert seen.rates == [1.0, 0.5, 0.5, 0.5]


def test_a_training_without_end_is_refused(
    make_classifier: MakeClassifier, make_loader: MakeLoader, make_trainer: MakeTrainer
) -> None:
    model = make_classifier(lr_scheduler=WarmupCosine)
    with pytest.raises(ValueError, match=r"WarmupCosine .*max_epochs"):
        make_trainer(max_epochs=-1).fit(model, make_loader())


@pytest.mark.parametrize("epochs", [4, 8])
def test_a_resumed_schedule_continues_towards_the_end_of_the_new_training(
    epochs: int, tmp_path: Path, make_classifier: MakeClassifier, make_loader: MakeLoader, make_trainer: MakeTrainer
) -> None:
    model = make_classifier(optimizer=SGD_1, lr_scheduler=partial(WarmupCosine, warmup=0.0))
    stop_after_two = make_trainer(max_epochs=4, callbacks=[StopAfter(2)])
    stop_after_two.fit(model, make_loader())
    stop_after_two.save_checkpoint(tmp_path / "two.ckpt", weights_only=False)
    seen = Rates()
    trainer = make_trainer(max_epochs=epochs, callbacks=[seen])
    trainer.fit(model, make_loader(), ckpt_path=tmp_path / "two.ckpt", weights_only=True)
    steps = 2 * epochs
    assert trainer.global_step == steps
    # The rate of the very next step was set before the save, for the length of then.
    assert seen.rates[0] == pytest.approx(formula(4, 8, 0.0, 0.0))
    expected = [formula(step, steps, 0.0, 0.0) for step in range(5, steps)]
    assert list(islice(seen.rates, 1, None)) == pytest.approx(expected)


class StopAfter(Callback):
    """Ends the training early."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch + 1 >= self.epochs


@given(dim=st.integers(1, 1024), warmup=st.integers(1, 50), base=st.floats(0.01, 4.0))
def test_noam_is_the_papers_equation_3(dim: int, warmup: int, base: float) -> None:
    schedule = Noam(optimizer(base, 2 * base), dim=dim, warmup_steps=warmup)
    for step in range(1, 100):  # the paper counts from 1
        expected = base * dim**-0.5 * min(step**-0.5, step * warmup**-1.5)
        rates = [group["lr"] for group in schedule.optimizer.param_groups]
        assert rates == pytest.approx([expected, 2 * expected])
        schedule.optimizer.step()
        schedule.step()


def test_noam_is_highest_when_the_warm_up_ends() -> None:
    schedule = Noam(optimizer(1.0), dim=512, warmup_steps=40)
    rates = []
    for _ in range(160):
        rates += schedule.get_last_lr()
        schedule.optimizer.step()
        schedule.step()
    assert max(rates) == rates[39] == pytest.approx((512 * 40) ** -0.5)
    assert rates[159] == pytest.approx(rates[39] / 2)  # four times as many steps, half the rate


@pytest.mark.parametrize("name", ["dim", "warmup_steps"])
def test_noam_needs_positive_numbers(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} .*got 0"):
        Noam(optimizer(1.0), **{"dim": 4, "warmup_steps": 4, name: 0})


def test_noam_continues_from_its_state() -> None:
    whole, first = Noam(optimizer(1.0), dim=4, warmup_steps=3), Noam(optimizer(1.0), dim=4, warmup_steps=3)
    for schedule in (whole, first):
        for _ in range(4):
            schedule.optimizer.step()
            schedule.step()
    second = Noam(optimizer(1.0), dim=4, warmup_steps=3)
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.load_state_dict(first.state_dict())
    for schedule in (whole, second):
        schedule.optimizer.step()
        schedule.step()
    assert second.get_last_lr() == whole.get_last_lr()
    assert second.optimizer.param_groups[0]["lr"] == whole.optimizer.param_groups[0]["lr"]


def test_noam_steps_once_per_batch(
    make_classifier: MakeClassifier, make_loader: MakeLoader, make_trainer: MakeTrainer
) -> None:
    model = make_classifier(optimizer=SGD_1, lr_scheduler=partial(Noam, dim=16, warmup_steps=2))
    seen = Rates()
    make_trainer(max_epochs=2, callbacks=[seen]).fit(model, make_loader())
    assert seen.rates == pytest.approx([0.25 * min(step**-0.5, step * 2**-1.5) for step in range(1, 5)])
