from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from lightning_modules.text.recurrent_cells import recurrent_step


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_steps_are_those_of_torch(kind: Callable[..., nn.RNNBase], depth: int, bias: bool) -> None:
    rnn = kind(3, 4, depth, batch_first=True, bias=bias).double()
    x = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    count = 2 if kind is nn.LSTM else 1
    hidden = tuple(torch.randn(2, depth, 4, dtype=torch.float64, requires_grad=True) for _ in range(count))
    leaves = [x, *hidden, *rnn.parameters()]
    steps, state = [], hidden
    for step in x.unbind(dim=1):
        output, state = recurrent_step(rnn, step, state)
        steps.append(output)
    found = torch.stack(steps, dim=1), *(part.transpose(0, 1) for part in state)
    layers_first = tuple(part.transpose(0, 1) for part in hidden)
    outputs, last = rnn(x, layers_first if count > 1 else layers_first[0])
    wanted = outputs, *(last if count > 1 else (last,))
    torch.testing.assert_close(found, wanted)
    upstream = [torch.randn_like(part) for part in wanted]
    torch.testing.assert_close(
        torch.autograd.grad(found, leaves, upstream), torch.autograd.grad(wanted, leaves, upstream)
    )


def test_dropout_between_layers_in_training_only() -> None:
    rnn = nn.GRU(3, 64, 2, dropout=0.5, batch_first=True)
    x, hidden = torch.randn(2, 3), (torch.randn(2, 2, 64),)
    first, second = (recurrent_step(rnn, x, hidden)[0] for _ in range(2))
    assert not torch.equal(first, second)
    first, second = (recurrent_step(rnn.eval(), x, hidden)[0] for _ in range(2))
    assert torch.equal(first, second)
