from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn


def _draw(module: nn.Module) -> nn.Module:
    """In eval mode and float64, every parameter and running statistic random, so that no zero hides an error."""
    module = module.double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.3)
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.3)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
    return module


@pytest.fixture
def draw() -> Callable[[nn.Module], nn.Module]:
    return _draw
