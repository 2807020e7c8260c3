from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attention_blocks import AdditiveAttention, GlobalContext, SelfAttention, dot_product_attention
from attention_blocks.kernels import additive_scores, attention_pool, dropout, fast_paths, uses_fast_paths


def test_they_are_on_until_switched_off() -> None:
    assert uses_fast_paths()
    with fast_paths(False):
        assert not uses_fast_paths()
        with fast_paths(True):
            assert uses_fast_paths()
        assert not uses_fast_paths()
    assert uses_fast_paths()


def test_an_error_switches_them_on_again() -> None:
    with pytest.raises(RuntimeError, match="inside"), fast_paths(False):
        raise RuntimeError("inside")
    assert uses_fast_paths()


def test_other_threads_keep_their_own_setting() -> None:
    with fast_paths(False), ThreadPoolExecutor(1) as pool:
        assert pool.submit(uses_fast_paths).result()
        assert not pool.submit(copy_context().run, uses_fast_paths).result()
        assert not uses_fast_paths()


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the fast paths, as they are used."""
    names: list[str] = []

    def record(owner: object, attribute: str, name: str) -> None:
        function: Callable[..., object] = getattr(owner, attribute)

        def recorder(*arguments: object, **options: object) -> object:
            names.append(name)
            return function(*arguments, **options)

        monkeypatch.setattr(owner, attribute, recorder)

    record(F, "scaled_dot_product_attention", "attention")
    record(sys.modules["attention_blocks.kernels.additive_scores"]._AdditiveScores, "apply", "scores")
    record(sys.modules["attention_blocks.kernels.attention_pool"]._AttentionPool, "apply", "pool")
    record(torch, "randint", "dropout")
    return names


def _attention(x: Tensor) -> Tensor:
    return dot_product_attention(x, x, x).context


def _causal(x: Tensor) -> Tensor:
    return dot_product_attention(x, x, x, causal=True).context


def _scores(x: Tensor) -> Tensor:
    return additive_scores(x[0], x[0] + 1, torch.arange(5.0))


def _pool(x: Tensor) -> Tensor:
    return attention_pool(x, torch.arange(3.0), torch.ones(1))[0]


def _dropout(x: Tensor) -> Tensor:
    return dropout(x, 0.5)


@pytest.mark.parametrize(
    ("function", "name"),
    [(_attention, "attention"), (_causal, "attention"), (_scores, "scores"), (_pool, "pool"), (_dropout, "dropout")],
    ids=["attention", "causal", "scores", "pool", "dropout"],
)
def test_the_switch_is_for_all_of_them(function: Callable[[Tensor], Tensor], name: str, used: list[str]) -> None:
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    found = function(x)
    assert used == [name]
    with fast_paths(False):
        wanted = function(x)
    assert used == [name]
    if name == "dropout":
        assert set((wanted / x).detach().round(decimals=3).flatten().tolist()) == {0.0, 2.0}
        return
    torch.testing.assert_close(found, wanted)
    upstream = torch.randn_like(found)
    torch.testing.assert_close(torch.autograd.grad(found, x, upstream), torch.autograd.grad(wanted, x, upstream))


@pytest.mark.parametrize("name", ["self", "additive", "pool"])
def test_all_blocks_have_second_derivatives_without_them(name: str) -> None:
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    blocks: dict[str, Callable[[Tensor], Tensor]] = {
        "self": lambda y: SelfAttention(3, num_heads=1).double()(y).context,
        "additive": lambda y: AdditiveAttention(3).double()(y, y).context,
        "pool": lambda y: GlobalContext(4, hidden_channels=2).double()(y.unsqueeze(3)),
    }

    def run(y: Tensor) -> Tensor:
        torch.manual_seed(1)
        with fast_paths(False):
            return blocks[name](y)

    assert torch.autograd.gradgradcheck(run, x)


def test_compiled_code_does_not_read_the_switch() -> None:
    torch._dynamo.reset()
    x = torch.randn(2, 3, 4, 5)
    compiled = torch.compile(_attention, fullgraph=True, backend="eager")
    with fast_paths(False):
        torch.testing.assert_close(compiled(x), _attention(x))
