"""Which parameters decay, and how fast each layer learns."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def parameter_groups(module: nn.Module, layers: Sequence[nn.Module], layer_decay: float) -> list[dict[str, object]]:
    """Splits the trainable parameters by layer and by whether weight decay acts on them.

    Vectors and scalars (biases, norms, scales), tokens, and tables of positions and score biases do not decay.
    Parameters of ``layers[i]`` learn at ``layer_decay ** (len(layers) - i)`` of the rate; those in no layer, which
    are the head's, at the full rate.

    Args:
        module: whose parameters.
        layers: modules from the input up.
        layer_decay: share of the rate from each layer to the one below.

    Returns:
        Groups for an optimiser, each with "params", "lr_scale", and "weight_decay" of 0 where none acts.

    References:
        Clark et al. 2020, "ELECTRA" (layer-wise decay); Bao et al. 2022, "BEiT" (its use in a ViT).

    Example:
        >>> network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
        >>> for group in parameter_groups(network, [network[0]], layer_decay=0.5):
        ...     print(len(group["params"]), group["lr_scale"], group.get("weight_decay"))
        1 0.5 None
        1 0.5 0.0
        1 1.0 None
        1 1.0 0.0
    """
    depth = {id(parameter): index for index, layer in enumerate(layers) for parameter in layer.parameters()}
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and not any(word in name for word in ("bias", "position", "token"))
            groups.setdefault((depth.get(id(parameter), len(layers)), decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr_scale": layer_decay ** (len(layers) - index),
            **({} if decays else {"weight_decay": 0.0}),
        }
        for (index, decays), parameters in sorted(groups.items(), key=lambda item: (item[0][0], not item[0][1]))
    ]
