from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from lightning_modules import RecurrentCells


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize(
    ("kind", "cell"), [(nn.LSTM, nn.LSTMCell), (nn.GRU, nn.GRUCell), (nn.RNN, nn.RNNCell)], ids=["lstm", "gru", "rnn"]
)
def test_steps_are_those_of_torch(
    kind: Callable[..., nn.RNNBase], cell: Callable[[int, int], nn.RNNCellBase], depth: int
) -> None:
    rnn, cells = kind(3, 4, depth, batch_first=True).double(), RecurrentCells(cell, 3, 4, depth=depth).double()
    for layer, own in enumerate(cells.layers):
        for name, parameter in own.named_parameters():
            parameter.data.copy_(rnn.get_parameter(f"{name}_l{layer}"))
    x = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    count = 2 if kind is nn.LSTM else 1
    hidden = tuple(torch.randn(2, depth, 4, dtype=torch.float64, requires_grad=True) for _ in range(count))
    steps, state = [], hidden
    for step in x.unbind(dim=1):
        output, state = cells(step, state)
        steps.append(output)
    found = torch.stack(steps, dim=1), *(part.transpose(0, 1) for part in state)
    layers_first = tuple(part.transpose(0, 1) for part in hidden)
    outputs, last = rnn(x, layers_first if count > 1 else layers_first[0])
    wanted = outputs, *(last if count > 1 else (last,))
    torch.testing.assert_close(found, wanted)
    upstream, inputs = [torch.randn_like(part) for part in wanted], [x, *hidden]
    torch.testing.assert_close(
        torch.autograd.grad(found, [*inputs, *cells.parameters()], upstream),
        torch.autograd.grad(wanted, [*inputs, *rnn.parameters()], upstream),
    )


def test_dropout_between_layers_in_training_only() -> None:
    cells = RecurrentCells(nn.GRUCell, 3, 64, depth=2, dropout=0.5)
    x, hidden = torch.randn(2, 3), (torch.randn(2, 2, 64),)
    first, second = (cells(x, hidden)[0] for _ in range(2))
    assert not torch.equal(first, second)
    first, second = (cells.eval()(x, hidden)[0] for _ in range(2))
    assert torch.equal(first, second)
