"""Loads weights of the same block from timm or from the networks of the paper's authors."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from attention_blocks.feature_maps.feature_map_attention import FeatureMapAttention, Layout


def load_weights(block: FeatureMapAttention, state: Mapping[str, Tensor], layout: Layout) -> None:
    """Loads weights of the same block in another implementation.

    Args:
        block: receives the weights.
        state: state dict of the other block alone, without the network around it.
        layout: "timm", "authors" for the networks released by the paper's authors, or "timm_efficientnet" for the
            squeeze-and-excitation of timm's mobile networks, whose layers have other names.

    Raises:
        ValueError: the block has no such layout, or the two differ in names or sizes; nothing is loaded then.

    Example:
        >>> from timm.layers import SEModule
        >>> from attention_blocks import SqueezeExcite, load_weights
        >>> load_weights(SqueezeExcite(channels=128), SEModule(128).state_dict(), "timm")
    """
    name = type(block).__name__
    if layout not in block.layouts:
        raise ValueError(f"{name} has layouts {sorted(block.layouts)}, got {layout!r}")
    own, found, unused = block.state_dict(), dict[str, Tensor](), set(state)
    for key, tensor in own.items():
        module, _, leaf = key.rpartition(".")
        wanted = f"{block.layouts[layout].get(module, module)}.{leaf}"
        unused.discard(wanted)
        if leaf == "num_batches_tracked" and wanted not in state:  # weights older than that counter
            found[key] = tensor
            continue
        if wanted not in state:
            raise ValueError(f"{name} needs {wanted!r} of the {layout!r} weights, which have {sorted(state)}")
        given = state[wanted]
        moved = block.rearrange(key, given, layout) if given.numel() == tensor.numel() else given
        # A linear layer there may be a 1 x 1 convolution here, or the other way round.
        if moved.squeeze().shape != tensor.squeeze().shape:
            raise ValueError(
                f"{name}: {wanted!r} of the {layout!r} weights has shape {tuple(given.shape)}, {key!r} here "
                f"{tuple(tensor.shape)}; build both with the same arguments"
            )
        found[key] = moved.reshape(tensor.shape)
    if unused:
        raise ValueError(f"{name} has no counterpart of {sorted(unused)} in the {layout!r} weights")
    block.load_state_dict(found)
