"""One step of an RNN, by linear functions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from attention_blocks.kernels import dropout, linear


def recurrent_step(rnn: nn.RNNBase, x: Tensor, hidden: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One step of an RNN: the same result as ``rnn`` on a sequence of length 1.

    Args:
        rnn: ``nn.LSTM``, ``nn.GRU`` or ``nn.RNN`` with tanh, in one direction.
        x: input, (B, D).
        hidden: components of the state, h and for an LSTM c, (B, depth, H) each.

    Returns:
        h of the last layer, (B, H), and the components of the state after the step, (B, depth, H) each.

    Example:
        >>> rnn, x, hidden = nn.GRU(3, 4, batch_first=True), torch.randn(2, 3), torch.randn(2, 1, 4)
        >>> found, _ = recurrent_step(rnn, x, (hidden,))
        >>> torch.allclose(found, rnn(x[:, None], hidden.transpose(0, 1))[0][:, 0], atol=1e-6)
        True
    """
    # On CPUs, calling rnn for each step is up to twice as slow in training, and attention_blocks.kernels.unrolled can
    # join the weight gradients of these products.
    cell = _CELLS[type(rnn)]
    after: list[tuple[Tensor, ...]] = []
    for layer, (input_weight, hidden_weight, *biases) in enumerate(rnn.all_weights):
        if layer:
            x = dropout(x, rnn.dropout, rnn.training)
        state = tuple(part[:, layer] for part in hidden)  # (B, H) each
        of_input = linear(x, input_weight, biases[0] if biases else None)  # (B, gates · H)
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
