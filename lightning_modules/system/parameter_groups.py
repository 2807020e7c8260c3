"""Parameter groups for weight decay and layer-wise learning rates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn


def parameter_groups(module: nn.Module, layers: Sequence[nn.Module], layer_decay: float) -> list[dict[str, object]]:
    """Splits the trainable parameters by layer and by whether weight decay applies.

    Vectors and scalars (biases, norms, scales) do not decay, nor do the parameters that a module names in its method
    ``no_weight_decay() -> set[str]``, the convention of timm: tables of positions, class tokens and the like. The
    learning rate of the parameters of ``layers[i]`` is scaled by ``layer_decay ** (len(layers) - i)``, that of
    parameters in no layer, the head's, by 1.

    Args:
        module: owner of the parameters.
        layers: modules from the input up.
        layer_decay: factor of the learning rate from each layer to the one below.

    Returns:
        Groups for an optimiser, each with "params", "lr_scale", and a "weight_decay" of 0 where none applies.

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
    excluded = set(_excluded(module))
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and name not in excluded
            groups.setdefault((depth.get(id(parameter), len(layers)), decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr_scale": layer_decay ** (len(layers) - index),
            **({} if decays else {"weight_decay": 0.0}),
        }
        for (index, decays), parameters in sorted(groups.items(), key=lambda item: (item[0][0], not item[0][1]))
    ]


def _excluded(module: nn.Module) -> Iterator[str]:
    """Names of the parameters that some submodule excludes from weight decay."""
    for prefix, part in module.named_modules():
        declared = getattr(part, "no_weight_decay", None)
        if callable(declared):
            for name in declared():
                yield f"{prefix}.{name}" if prefix else name
