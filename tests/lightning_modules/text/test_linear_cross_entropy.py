from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_modules.text import linear_cross_entropy as module
from lightning_modules.text.linear_cross_entropy import linear_cross_entropy


def inputs(rows: int, features: int, vocabulary: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    made = (torch.randn(rows, features), torch.randn(vocabulary, features), torch.randn(vocabulary))
    return (*(tensor.to(dtype).requires_grad_() for tensor in made), torch.randint(vocabulary, (rows,)))


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(1, 9),
    features=st.integers(1, 5),
    vocabulary=st.integers(2, 7),
    chunk=st.integers(1, 40),
    smoothing=st.sampled_from([0.0, 0.1, 0.9]),
)
def test_loss_and_gradients_are_torchs(rows: int, features: int, vocabulary: int, chunk: int, smoothing: float) -> None:
    x, weight, bias, labels = inputs(rows, features, vocabulary)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CPU_CHUNK", chunk)
        found = linear_cross_entropy(x, weight, bias, labels, label_smoothing=smoothing)
    wanted = F.cross_entropy(F.linear(x, weight, bias), labels, label_smoothing=smoothing)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        torch.autograd.grad(3.0 * found, (x, weight, bias)), torch.autograd.grad(3.0 * wanted, (x, weight, bias))
    )


def test_without_bias() -> None:
    x, weight, _, labels = inputs(4, 3, 6)
    found, wanted = linear_cross_entropy(x, weight, None, labels), F.cross_entropy(F.linear(x, weight), labels)
    torch.testing.assert_close(torch.autograd.grad(found, (x, weight)), torch.autograd.grad(wanted, (x, weight)))


def test_huge_logits_stay_finite() -> None:
    x, weight, bias, labels = inputs(3, 4, 5, torch.float32)
    loss = linear_cross_entropy(1e4 * x, 1e4 * weight, bias, labels)
    assert loss.isfinite()
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(loss, (x, weight, bias)))


def test_nothing_is_kept_for_a_backward_pass_without_gradients() -> None:
    x, weight, bias, labels = inputs(3, 4, 5)
    with torch.no_grad():
        loss = linear_cross_entropy(x, weight, bias, labels)
    assert loss.grad_fn is None
    torch.testing.assert_close(loss.double(), F.cross_entropy(F.linear(x, weight, bias), labels), rtol=1e-5, atol=0)


def test_a_frozen_output_layer_passes_the_gradient_on() -> None:
    x, weight, bias, labels = inputs(3, 4, 5)
    loss = linear_cross_entropy(x, weight.detach(), bias.detach(), labels)
    [found] = torch.autograd.grad(loss, x)
    [wanted] = torch.autograd.grad(F.cross_entropy(F.linear(x, weight.detach(), bias.detach()), labels), x)
    torch.testing.assert_close(found, wanted)


def test_under_autocast_the_products_are_bf16_and_the_loss_is_not() -> None:
    x, weight, bias, labels = inputs(64, 16, 50, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(x, weight, bias, labels, label_smoothing=0.1)
    assert loss.dtype == torch.float32
    exact = F.cross_entropy(F.linear(x, weight, bias).double(), labels, label_smoothing=0.1)
    assert loss.item() == pytest.approx(exact.item(), rel=2e-2)
    for found, wanted in zip(
        torch.autograd.grad(loss, (x, weight, bias)), torch.autograd.grad(exact, (x, weight, bias)), strict=True
    ):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, wanted.float(), rtol=0.1, atol=2e-3)
