"""Loads weights of the same module in another implementation: torch's own, timm's, or that of a paper's authors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, cast

from torch import Tensor, nn

Layout = Literal["authors", "timm", "timm_efficientnet", "torch"]


def load_weights(module: nn.Module, state: Mapping[str, Tensor], layout: Layout) -> None:
    """Loads weights of the same module in another implementation.

    The module may be a block, a layer or stack of a Transformer, or a network that contains some of them and names its
    other parts as the other network does.

    "torch" loads ``nn.MultiheadAttention`` into :class:`MultiHeadAttention` and its subclasses, and torch's encoders,
    decoders and their layers into ours. A state dict does not show everything: build the module with the same
    ``num_heads``, ``norm_first`` and activation (torch's defaults are post-norm and ReLU). ``add_zero_attn``, which a
    state dict does not show either, has no counterpart here, nor has ``add_bias_kv``, whose ``bias_k`` and ``bias_v``
    are refused. In torch's boolean masks True means "ignore": instead of ``attn_mask`` and ``key_padding_mask`` pass
    ``~attn_mask`` and ``~key_padding_mask[:, None]``, (B, 1, T_k).

    Args:
        module: receives the weights.
        state: state dict of the other module itself, without a network around it.
        layout: "torch"; "timm"; "authors" for the networks released by the paper's authors; or "timm_efficientnet"
            for the squeeze-and-excitation of timm's mobile networks, whose layers have other names.

    Raises:
        TypeError: ``state`` is not a state dict.
        ValueError: the module has no such layout, or the two differ in names or sizes; nothing is loaded then.

    Example:
        >>> from timm.layers import SEModule
        >>> from torch import nn
        >>> from attention_blocks import SelfAttention, SqueezeExcite, load_weights
        >>> load_weights(SqueezeExcite(channels=128), SEModule(128).state_dict(), "timm")
        >>> load_weights(SelfAttention(64, num_heads=4), nn.MultiheadAttention(64, 4).state_dict(), "torch")
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"state must be a state dict, got a {type(state).__name__}; pass its state_dict()")
    name = type(module).__name__
    layouts = {key for part in module.modules() for key in getattr(part, "layouts", {})}
    if layout not in layouts:
        raise ValueError(f"{name} has layouts {sorted(layouts)}, got layout={layout!r}")
    same = "build both with the same arguments"
    found, unused = dict[str, Tensor](), set(state)
    for key, tensor in module.state_dict().items():
        wanted, rearrange = _counterpart(module, key, layout)
        unused.discard(wanted)
        if key.endswith("num_batches_tracked") and wanted not in state:  # weights older than that counter
            found[key] = tensor
            continue
        if wanted not in state:
            raise ValueError(f"{name} needs {wanted!r} of the {layout!r} weights, which have {sorted(state)}; {same}")
        given = moved = state[wanted]
        if rearrange is not None and given.ndim >= min(tensor.ndim, 2):
            moved = rearrange(given)
        # A linear layer there may be a 1 x 1 convolution here, or the other way round.
        if moved.squeeze().shape != tensor.squeeze().shape:
            raise ValueError(
                f"{name}: {wanted!r} of the {layout!r} weights has shape {tuple(given.shape)}, {key!r} here "
                f"{tuple(tensor.shape)}; {same}"
            )
        found[key] = moved.reshape(tensor.shape)
    if unused:
        raise ValueError(f"{name} has no counterpart of {sorted(unused)} in the {layout!r} weights; {same}")
    module.load_state_dict(found)


def _counterpart(module: nn.Module, key: str, layout: Layout) -> tuple[str, Callable[[Tensor], Tensor] | None]:
    """Name of a parameter in another layout, and what rearranges it: the innermost block that has the layout."""
    rearrange, parts = None, []
    while key:
        names = getattr(module, "layouts", {}).get(layout, {})
        if names and hasattr(module, "rearrange"):
            rearrange = partial(cast(Callable[..., Tensor], module.rearrange), key, layout=layout)
        start = key  # the longest part of the path that the block names, or one step
        while start not in names and "." in start:
            start = start.rpartition(".")[0]
        parts.append(names.get(start, start))
        key = key[len(start) + 1 :]
        module = module.get_submodule(start) if key else module
    return ".".join(parts), rearrange
