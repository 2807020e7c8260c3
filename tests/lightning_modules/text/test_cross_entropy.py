from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_modules.text import cross_entropy as module
from lightning_modules.text.cross_entropy import cross_entropy


def inputs(rows: int, vocabulary: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, vocabulary, dtype=dtype).requires_grad_(), torch.randint(vocabulary, (rows,))


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(1, 9),
    vocabulary=st.integers(2, 7),
    chunk=st.integers(1, 40),
    smoothing=st.sampled_from([0.0, 0.1, 0.9]),
)
def test_loss_and_gradient_are_torchs(rows: int, vocabulary: int, chunk: int, smoothing: float) -> None:
    logits, labels = inputs(rows, vocabulary)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CPU_CHUNK", chunk)
        found = cross_entropy(logits, labels, label_smoothing=smoothing)
    wanted = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(torch.autograd.grad(3.0 * found, logits), torch.autograd.grad(3.0 * wanted, logits))


def test_a_second_backward_pass_gives_the_same_gradient() -> None:
    logits, labels = inputs(4, 6)
    loss = 3.0 * cross_entropy(logits, labels)
    first, second = (torch.autograd.grad(loss, logits, retain_graph=True) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_the_logits_are_not_overwritten() -> None:
    logits, labels = inputs(4, 6)
    before = logits.detach().clone()
    torch.autograd.backward(cross_entropy(logits, labels, label_smoothing=0.1))
    assert torch.equal(logits, before)


def test_huge_logits_stay_finite() -> None:
    logits, labels = inputs(3, 5, torch.float32)
    loss = cross_entropy(1e8 * logits, labels)
    assert loss.isfinite()
    assert torch.autograd.grad(loss, logits)[0].isfinite().all()


def test_nothing_is_kept_for_a_backward_pass_without_gradients() -> None:
    logits, labels = inputs(3, 5)
    with torch.no_grad():
        loss = cross_entropy(logits, labels)
    assert loss.grad_fn is None
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_loss_of_logits_in_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    logits, labels = inputs(64, 50, dtype)
    loss = cross_entropy(logits, labels, label_smoothing=0.1)
    exact = F.cross_entropy(logits.double(), labels, label_smoothing=0.1)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=0)
    [found], [wanted] = torch.autograd.grad(loss, logits), torch.autograd.grad(exact, logits)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), wanted.float(), rtol=2e-2, atol=1e-5)
