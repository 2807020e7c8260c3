"""Attributions of captum: to inputs and to layers, by their defining properties."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from attention_blocks import CBAM, EncoderLayer, TransformerEncoder, insert_attention
from lightning_modules import RNNSizes, RNNTranslator, SmallResNet, VisionTransformer
from tests.ordinary.modules import resnet18_with_cbam

pytest.importorskip("captum", reason="captum is not installed")
from captum.attr import (
    IntegratedGradients,
    LayerActivation,
    LayerGradCam,
    LayerIntegratedGradients,
)

pytestmark = pytest.mark.filterwarnings(
    # Captum notices inputs that need no gradient, and gives them one itself.
    "ignore:Input Tensor \\d+ did not already require gradients:UserWarning",
    "ignore:Setting backward hooks on ReLU activations:UserWarning",
)
STEPS = 96


def randomised(model: nn.Module) -> nn.Module:
    """The model in evaluation mode with random parameters, so that no zero hides an error."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape))
    return model.eval()


def small_resnet(*where: str) -> SmallResNet:
    torch.manual_seed(0)
    network = SmallResNet(4, (16, 16), 3, widths=(8, 16), depth=1)
    insert_attention(network, partial(CBAM, reduction=4), where or SmallResNet.attention_locations)
    return network.eval()


def trained_resnet18() -> nn.Module:
    torch.manual_seed(0)
    network = resnet18_with_cbam()
    network(torch.randn(4, 3, 32, 32))  # for the running statistics
    return network.eval()


def vit() -> nn.Module:
    return randomised(VisionTransformer(4, 16, patches=4, dim=16, depth=2))


IMAGE_MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "VisionTransformer": (
        vit,
        (
            "patches.proj",
            "position",
            "encoder.layers.0.attention_norm",
            "encoder.layers.0.attention.out_proj",
            "encoder.layers.1.feed_forward",
            "encoder.layers.1.feed_forward_residual",
        ),
    ),
    "SmallResNet with CBAM": (
        small_resnet,
        (
            "stem",
            "stages.0",
            "stages.0.0.norm2",
            "stages.0.0.norm2.host",
            "stages.0.0.norm2.attention.channel_attention",
            "stages.1",
        ),
    ),
    "SmallResNet, attention after stages": (partial(small_resnet, "stages.*"), ("stages.1", "stages.1.host")),
    "resnet18 with CBAM": (trained_resnet18, ("layer1.0.bn2", "layer2.1.bn2.attention", "layer3", "layer4")),
}
# Layers through which the whole output goes.
WHOLE = (
    "patches.proj",
    "position",
    "encoder.layers.1.feed_forward_residual",
    "stem",
    "stages.0",
    "stages.1",
    "stages.1.host",
    "layer3",
    "layer4",
)
every_image_model = pytest.mark.parametrize("model", IMAGE_MODELS.values(), ids=list(IMAGE_MODELS))
every_layer = pytest.mark.parametrize(
    ("create", "layer"),
    [(create, layer) for create, layers in IMAGE_MODELS.values() for layer in layers],
    ids=[f"{name}, {layer}" for name, (_, layers) in IMAGE_MODELS.items() for layer in layers],
)


def images() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(3, 3, 32, 32)[..., :16, :16]


def plain_activation(model: nn.Module, layer: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """A layer's output in a plain forward pass, from which the logits are computed, and the logits."""
    seen: list[Tensor] = []

    def record(_module: nn.Module, _arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        seen.append(output)
        return output.clone()  # torchvision adds the skip connection in place

    handle = model.get_submodule(layer).register_forward_hook(record)
    logits = model(x)
    handle.remove()
    return seen[0], logits


def check_complete(attributions: Tensor, difference: Tensor) -> None:
    """The sum over all features is the difference of the outputs, for each row."""
    assert attributions.any()
    total = attributions.flatten(1).sum(1)
    torch.testing.assert_close(total, difference.to(total.dtype).detach(), rtol=0.02, atol=0.02)


# Networks of images.


@every_image_model
def test_integrated_gradients_are_complete(model: tuple[Callable[[], nn.Module], tuple[str, ...]]) -> None:
    network, x, target = model[0](), images(), torch.tensor([1, 0, 3])
    baseline = 0.1 * torch.randn(1, 3, 16, 16)
    attributions = IntegratedGradients(network).attribute(x, baseline, target, n_steps=STEPS, internal_batch_size=48)
    assert attributions.shape == x.shape
    check_complete(attributions, (network(x) - network(baseline))[range(3), target])


@every_layer
def test_layer_activation(create: Callable[[], nn.Module], layer: str) -> None:
    network, x = create(), images()
    wanted, _ = plain_activation(network, layer, x)
    found = LayerActivation(network, network.get_submodule(layer)).attribute(x)
    assert isinstance(found, Tensor)
    assert len(found) == len(x)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


@every_layer
def test_layer_grad_cam(create: Callable[[], nn.Module], layer: str) -> None:
    """Sum over the channels of activations times mean gradients, as the paper has it, from a plain forward pass."""
    network, x, target = create(), images(), [1, 0, 3]
    activation, logits = plain_activation(network, layer, x)
    [gradient] = torch.autograd.grad(logits[range(3), target].sum(), activation)
    weights = gradient.flatten(2).mean(2).reshape(*gradient.shape[:2], *[1] * (gradient.ndim - 2))
    wanted = (weights * activation).sum(1, keepdim=True)
    found = LayerGradCam(network, network.get_submodule(layer)).attribute(x, target)
    assert isinstance(found, Tensor)
    assert found.any()
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


@every_layer
def test_layer_integrated_gradients(create: Callable[[], nn.Module], layer: str) -> None:
    """Complete where no skip connection goes around the layer, and against a sum over steps anywhere."""
    if ".bn2" in layer:
        pytest.skip("torchvision adds to this layer's output in place, which captum does not support of plain networks")
    network, x, target = create(), images(), torch.tensor([1, 0, 3])
    baseline = 0.1 * torch.randn(1, 3, 16, 16)
    part = network.get_submodule(layer)
    found = LayerIntegratedGradients(network, part).attribute(
        x, baseline, target, n_steps=STEPS, method="riemann_middle"
    )
    assert isinstance(found, Tensor)
    start, _ = plain_activation(network, layer, baseline)
    end, logits = plain_activation(network, layer, x)
    assert found.shape == end.shape
    if layer in WHOLE:
        check_complete(found, (logits - network(baseline))[range(3), target])
    gradients = torch.zeros_like(end)
    for step in range(STEPS):
        between = (start + (step + 0.5) / STEPS * (end - start)).detach().requires_grad_()
        handle = part.register_forward_hook(lambda _m, _x, _y, between=between: between.clone())
        score = network(x)[range(3), target].sum()
        handle.remove()
        gradients += torch.autograd.grad(score, between)[0] / STEPS
    torch.testing.assert_close(found, (gradients * (end - start)).to(found.dtype), rtol=1e-3, atol=1e-5)


# Encoders and translators.


class Score(nn.Module):
    """A number for each class and row from the output of an encoder."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).hidden.tanh().mean(1))


ENCODERS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "EncoderLayer": (lambda: Score(EncoderLayer(16)), "encoder.feed_forward_residual"),
    "EncoderLayer, post-norm": (lambda: Score(EncoderLayer(16, norm_first=False)), "encoder.attention_norm"),
    "TransformerEncoder": (lambda: Score(TransformerEncoder(16, 2)), "encoder.layers.0.feed_forward_residual"),
}


@pytest.mark.parametrize(("build", "layer"), ENCODERS.values(), ids=list(ENCODERS))
def test_encoders(build: Callable[[], nn.Module], layer: str) -> None:
    network, target = randomised(build()), torch.tensor([1, 0, 3])
    x, baseline = torch.randn(3, 5, 16), 0.1 * torch.randn(1, 5, 16)
    difference = (network(x) - network(baseline))[range(3), target]
    check_complete(IntegratedGradients(network).attribute(x, baseline, target, n_steps=STEPS), difference)
    part = network.get_submodule(layer)
    found = LayerIntegratedGradients(network, part).attribute(x, baseline, target, n_steps=STEPS)
    assert isinstance(found, Tensor)
    assert found.shape == (3, 5, 16)
    check_complete(found, difference)
    attention = network.get_submodule(layer.rpartition(".")[0]).get_submodule("attention.value_proj")
    activation = LayerActivation(network, attention).attribute(x)
    torch.testing.assert_close(activation, plain_activation(network, _name(network, attention), x)[0])


def _name(model: nn.Module, part: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is part)


def translator() -> RNNTranslator:
    network = randomised(RNNTranslator(12, 12, sizes=RNNSizes(8, 16)))
    assert isinstance(network, RNNTranslator)
    return network


def sentences() -> tuple[Tensor, Tensor, Tensor]:
    source, target = torch.randint(4, 12, (3, 6)), torch.randint(4, 12, (3, 5))
    return source, torch.tensor([6, 4, 5]), target


@pytest.mark.parametrize("side", ["encoder.embedding", "decoder.embedding"])
def test_tokens_of_a_translator(side: str) -> None:
    """Attribution of the last logits to the tokens of the source, or to those of the target before it."""
    network, (source, lengths, target) = translator(), sentences()

    def last(tokens: Tensor, others: Tensor) -> Tensor:
        arguments = (
            (tokens, lengths_of(tokens), others)
            if side == "encoder.embedding"
            else (others, lengths_of(others), tokens)
        )
        return network(*arguments)[:, -1]

    def lengths_of(tokens: Tensor) -> Tensor:
        return lengths.repeat(-(-len(tokens) // 3))[: len(tokens)]

    tokens, others = (source, target) if side == "encoder.embedding" else (target, source)
    labels, baseline = torch.tensor([5, 0, 7]), torch.zeros_like(tokens)
    method = LayerIntegratedGradients(last, network.get_submodule(side))
    found = method.attribute(tokens, baseline, labels, additional_forward_args=(others,), n_steps=STEPS)
    assert isinstance(found, Tensor)
    assert found.shape == (*tokens.shape, 8)
    with torch.no_grad():
        check_complete(found, (last(tokens, others) - last(baseline, others))[range(3), labels])
    if side == "encoder.embedding":
        padding = torch.arange(6) >= lengths[:, None]
        assert not found[padding].any(), "padding has no effect"
        assert found[~padding].any(-1).all()


@pytest.mark.parametrize(
    "layer", ["encoder.embedding", "decoder.bridge", "decoder.attention.key_proj", "decoder.output"]
)
def test_layers_of_a_translator(layer: str) -> None:
    network, arguments = translator(), sentences()
    wanted: list[Tensor] = []
    handle = network.get_submodule(layer).register_forward_hook(lambda _m, _x, y: wanted.append(y))
    network(*arguments)
    handle.remove()
    found = LayerActivation(network, network.get_submodule(layer)).attribute(arguments)
    assert isinstance(found, Tensor)
    assert len(found) == 3
    torch.testing.assert_close(found, wanted[0], rtol=0, atol=0)
