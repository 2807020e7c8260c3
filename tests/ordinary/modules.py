"""Every public module and network, built and called: what the tests of other people's tools walk over."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

import attention_blocks
from attention_blocks import (
    BAM,
    CBAM,
    ALiBi,
    Attention,
    EaseIn,
    EncoderLayer,
    FeatureMapAttention,
    FeedForward,
    GlobalContext,
    LuongAttention,
    MaskedSelfAttention,
    MultiHeadAttention,
    RelativePositionBias,
    RMSNorm,
    RotaryPosition,
    SelectiveKernel,
    SelfAttention,
    SqueezeExcite,
    SwiGLU,
    insert_attention,
)
from lightning_modules import (
    ConvStem,
    DeepConvStem,
    RNNCaptionNetwork,
    RNNSizes,
    RNNTranslator,
    SmallResNet,
    TransformerCaptionNetwork,
    TransformerTranslator,
    VisionTransformer,
)
from lightning_modules.text.rnn_text_decoder import FixedVectorDecoder, LuongDecoder
from tests.attention_blocks.test_every_module import RECIPES


class Case:
    """A module and inputs for it.

    Args:
        build: creates the module.
        inputs: creates its inputs.
    """

    def __init__(self, build: Callable[[], nn.Module], inputs: Callable[[], tuple[Tensor | int, ...]]) -> None:
        self.build = build
        self.inputs = inputs

    def module(self, *, training: bool = False, dtype: torch.dtype = torch.float32) -> nn.Module:
        """The module with random parameters, so that no zero hides an error."""
        module = self.build().to(dtype).train(training)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, dtype=torch.float64))
        return module


def tensors(output: object) -> list[Tensor]:
    """All floating-point tensors in an output."""

    def walk(part: object) -> Iterator[Tensor]:
        if isinstance(part, Tensor) and part.is_floating_point():
            yield part
        elif isinstance(part, (tuple, list)):
            for piece in part:
                yield from walk(piece)

    return list(walk(output))


def requiring_gradients(inputs: tuple[Tensor | int, ...]) -> tuple[Tensor | int, ...]:
    """Inputs whose floating-point tensors require gradients."""
    return tuple(x.requires_grad_() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs)


def cast(inputs: tuple[Tensor | int, ...], dtype: torch.dtype) -> tuple[Tensor | int, ...]:
    """Inputs with the floating-point tensors in another dtype."""
    return tuple(x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs)


def run(module: nn.Module, inputs: tuple[Tensor | int, ...], seed: int = 0) -> list[Tensor]:
    """The output of a module, with the same random numbers each time."""
    torch.manual_seed(seed)
    return tensors(module(*inputs))


def with_attention(block: Callable[[int], nn.Module]) -> nn.Module:
    """A small ResNet with inserted blocks."""
    network = SmallResNet(4, (16, 16), 3, widths=(8, 16), depth=1)
    insert_attention(network, block, network.attention_locations)
    return network


def resnet18_with_cbam() -> nn.Module:
    """Somebody else's network with inserted blocks."""
    network = resnet18(num_classes=4)
    insert_attention(network, CBAM, "layer*.*.bn2")
    return network


def _sequences() -> tuple[Tensor, ...]:
    return torch.randn(3, 4, 16), torch.randn(3, 5, 16)


def _feature_map() -> tuple[Tensor]:
    return (torch.randn(3, 32, 6, 6),)


def _images() -> tuple[Tensor]:
    return (torch.randn(3, 3, 16, 16),)


def _sentences() -> tuple[Tensor, ...]:
    source, target = torch.randint(4, 12, (3, 6)), torch.randint(4, 12, (3, 5))
    return source, torch.tensor([6, 4, 5]), target


def _captions() -> tuple[Tensor, ...]:
    return torch.randn(3, 3, 16, 16), torch.randint(4, 12, (3, 5))


def _blocks() -> dict[str, Case]:
    cases = {
        kind.__name__: Case(recipe.build, partial(recipe.arguments, torch.float32)) for kind, recipe in RECIPES.items()
    }
    own: dict[str, Callable[..., nn.Module]] = {
        "EaseIn": partial(EaseIn, block=partial(CBAM, reduction=4)),
        "BAM": partial(BAM, reduction=4),
        "GlobalContext": partial(GlobalContext, reduction=4),
    }
    for name in attention_blocks.__all__:
        kind = getattr(attention_blocks, name)
        if not inspect.isclass(kind) or kind in (Attention, FeatureMapAttention):
            continue
        if issubclass(kind, Attention):
            cases[name] = Case(partial(kind, 16), _sequences)
        elif issubclass(kind, FeatureMapAttention):
            cases[name] = Case(partial(own.get(name, kind), 32), _feature_map)
    return cases


_SIZES = RNNSizes(8, 16, dropout=0.1)
_DEEP = RNNSizes(8, 16, cell="lstm", depth=2, dropout=0.1)

BLOCKS = _blocks()
VARIANTS = {
    "MultiHeadAttention, everything": Case(
        partial(
            MultiHeadAttention,
            16,
            num_heads=4,
            num_kv_heads=2,
            dropout=0.1,
            norm=RMSNorm,
            rotary=RotaryPosition,
            score_bias=RelativePositionBias,
        ),
        _sequences,
    ),
    "SelfAttention, ALiBi": Case(partial(SelfAttention, 16, num_heads=3, head_dim=4, score_bias=ALiBi), _sequences),
    "MaskedSelfAttention, window": Case(partial(MaskedSelfAttention, 16, window=2), lambda: (torch.randn(3, 5, 16),)),
    **{
        f"LuongAttention, {score}, {window}": Case(
            partial(LuongAttention, 16, score=score, window=window, radius=1), _sequences
        )
        for score in ("dot", "general", "concat")
        for window in ("global", "local-m", "local-p")
    },
    "EncoderLayer, post-norm, dropout": Case(
        partial(
            EncoderLayer,
            16,
            feed_forward=partial(FeedForward, activation=nn.ReLU, dropout=0.1),
            norm_first=False,
            dropout=0.1,
        ),
        lambda: (torch.randn(3, 5, 16),),
    ),
    "EncoderLayer, SwiGLU, RMSNorm": Case(
        partial(EncoderLayer, 16, feed_forward=SwiGLU, norm=RMSNorm), lambda: (torch.randn(3, 5, 16),)
    ),
    "GlobalContext, multiply": Case(partial(GlobalContext, 32, 4, fuse="multiply"), _feature_map),
    "SelectiveKernel, split": Case(partial(SelectiveKernel, 32, groups=1, split_input=True, stride=2), _feature_map),
}
NETWORKS = {
    "VisionTransformer": Case(partial(VisionTransformer, 4, 16, patches=4, dim=16, depth=2), _images),
    "VisionTransformer, mean, registers, stem": Case(
        partial(
            VisionTransformer,
            4,
            16,
            patches=partial(ConvStem, patch_size=4),
            dim=16,
            depth=2,
            pool="mean",
            num_registers=2,
            drop_path=0.2,
        ),
        _images,
    ),
    "VisionTransformer, deep stem": Case(
        partial(VisionTransformer, 4, 16, patches=partial(DeepConvStem, patch_size=4), dim=16, depth=1), _images
    ),
    "SmallResNet": Case(partial(SmallResNet, 4, (16, 16), 3, widths=(8, 16), depth=1), _images),
    "SmallResNet with CBAM": Case(partial(with_attention, partial(CBAM, reduction=1)), _images),
    "SmallResNet with SqueezeExcite": Case(
        partial(with_attention, partial(EaseIn, block=partial(SqueezeExcite, reduction=1))), _images
    ),
    "RNNTranslator, Bahdanau": Case(partial(RNNTranslator, 12, 12, sizes=_SIZES), _sentences),
    "RNNTranslator, Luong": Case(partial(RNNTranslator, 12, 12, decoder=LuongDecoder, sizes=_DEEP), _sentences),
    "RNNTranslator, fixed vector": Case(
        partial(RNNTranslator, 12, 12, decoder=FixedVectorDecoder, sizes=_SIZES), _sentences
    ),
    "TransformerTranslator": Case(partial(TransformerTranslator, 12, 12, dim=16, depth=2), _sentences),
    "RNNCaptionNetwork": Case(
        partial(RNNCaptionNetwork, 12, (16, 16), 3, attention=SelfAttention, sizes=_SIZES), _captions
    ),
    "TransformerCaptionNetwork": Case(
        partial(TransformerCaptionNetwork, 12, (16, 16), 3, dim=16, depth=1, encoder_depth=1), _captions
    ),
}
CASES = {**BLOCKS, **VARIANTS, **NETWORKS}

# What other people's tools are tried on: layers, networks, and inserted blocks.
MODELS = {
    "EncoderLayer": Case(partial(EncoderLayer, 16, layer_scale=0.5), lambda: (torch.randn(3, 5, 16),)),
    **{
        name: CASES[name]
        for name in (
            "TransformerEncoder",
            "TransformerTranslator",
            "RNNTranslator, Bahdanau",
            "VisionTransformer",
            "SmallResNet with CBAM",
        )
    },
    "resnet18 with CBAM": Case(resnet18_with_cbam, lambda: (torch.randn(2, 3, 32, 32),)),
}
UNTIED_TRANSLATOR = Case(
    partial(TransformerTranslator, 12, 12, dim=16, depth=2, tie_embeddings="none"),
    CASES["TransformerTranslator"].inputs,
)

every_case = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
every_block = pytest.mark.parametrize("case", [*BLOCKS.values(), *VARIANTS.values()], ids=[*BLOCKS, *VARIANTS])
every_network = pytest.mark.parametrize("case", NETWORKS.values(), ids=list(NETWORKS))
in_both_modes = pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
