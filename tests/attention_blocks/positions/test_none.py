from __future__ import annotations

import torch

from attention_blocks import NoPosition


def test_is_the_identity_at_any_offset() -> None:
    x = torch.randn(2, 3, 7, requires_grad=True)
    for offset in (0, 5):
        assert torch.equal(NoPosition(7)(x, offset=offset), x)
    NoPosition(7)(x).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.ones_like(x))


def test_has_no_state() -> None:
    assert not NoPosition(7).state_dict()
