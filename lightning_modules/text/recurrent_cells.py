"""One step of a recurrent network, by plain linear maps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from attention_blocks.kernels import dropout, linear


def recurrent_step(rnn: nn.RNNBase, x: Tensor, hidden: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """What ``rnn`` makes of one place, with its own weights.

    On CPUs torch's call for whole sequences takes up to twice as long to train step by step; and these maps are among
    those that :func:`attention_blocks.kernels.unrolled` is about.

    Args:
        rnn: ``nn.LSTM``, ``nn.GRU`` or ``nn.RNN`` with tanh, of one direction.
        x: (B, D).
        hidden: the state's components, h and for an LSTM c, (B, depth, H) each.

    Returns:
        The last layer's h, (B, H), and the state's components after the step.

    Example:
        >>> rnn, x, hidden = nn.GRU(3, 4, batch_first=True), torch.randn(2, 3), torch.randn(2, 1, 4)
        >>> found, _ = recurrent_step(rnn, x, (hidden,))
        >>> torch.allclose(found, rnn(x[:, None], hidden.transpose(0, 1))[0][:, 0], atol=1e-6)
        True
    """
    cell = _CELLS[type(rnn)]
    after: list[tuple[Tensor, ...]] = []
    for layer, (input_weight, hidden_weight, *biases) in enumerate(rnn.all_weights):
        if layer:
            x = dropout(x, rnn.dropout, rnn.training)
        state = tuple(part[:, layer] for part in hidden)
        of_input = linear(x, input_weight, biases[0] if biases else None)
        of_hidden = linear(state[0], hidden_weight, biases[1] if biases else None)
        after.append(cell(of_input, of_hidden, *state))
        x = after[-1][0]
    return x, tuple(torch.stack(parts, dim=1) for parts in zip(*after, strict=True))


def _lstm(of_input: Tensor, of_hidden: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
    gate, forget, new, out = (of_input + of_hidden).chunk(4, dim=1)
    c = torch.sigmoid(forget) * c + torch.sigmoid(gate) * torch.tanh(new)
    return torch.sigmoid(out) * torch.tanh(c), c


def _gru(of_input: Tensor, of_hidden: Tensor, h: Tensor) -> tuple[Tensor, ...]:
    reset_x, update_x, new_x = of_input.chunk(3, dim=1)
    reset_h, update_h, new_h = of_hidden.chunk(3, dim=1)
    new = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
    return (new + torch.sigmoid(update_x + update_h) * (h - new),)


def _rnn(of_input: Tensor, of_hidden: Tensor, h: Tensor) -> tuple[Tensor, ...]:
    return (torch.tanh(of_input + of_hidden),)


_CELLS: dict[type[nn.RNNBase], Callable[..., tuple[Tensor, ...]]] = {nn.LSTM: _lstm, nn.GRU: _gru, nn.RNN: _rnn}
