from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest
import torch
from timm.layers import SEModule
from timm.layers.cbam import CbamModule
from torch import Tensor, nn

from attention_blocks import (
    CBAM,
    CrossAttention,
    DecoderLayer,
    EncoderLayer,
    FeedForward,
    MaskedSelfAttention,
    MultiHeadAttention,
    SelfAttention,
    SimAM,
    SqueezeExcite,
    TransformerDecoder,
    TransformerEncoder,
    causal_mask,
    load_weights,
    padding_mask,
)

KEEP = padding_mask(torch.tensor([6, 2, 4]), 6)  # (B, 1, T_k), True = may attend
PAST = causal_mask(5)  # (T, T)
both_orders = pytest.mark.parametrize("norm_first", [True, False], ids=["pre", "post"])
both_biases = pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
both_activations = pytest.mark.parametrize("activation", ["relu", "gelu"])


@pytest.fixture
def state() -> dict[str, Tensor]:
    return SEModule(128).state_dict()


def test_authors_layout_of_squeeze_excite(state: dict[str, Tensor]) -> None:
    """As in the port of the authors' weights: two linear layers in a sequence with their activations."""
    names = {"fc1": "fc.0", "fc2": "fc.2"}
    ported = {names[key[:3]] + key[3:]: value.flatten(1) if value.ndim == 4 else value for key, value in state.items()}
    one, other, x = SqueezeExcite(128), SqueezeExcite(128), torch.randn(2, 128, 3, 3)
    load_weights(one, state, "timm")
    load_weights(other, ported, "authors")
    assert torch.equal(one(x), other(x))


def test_the_counter_of_batches_may_be_missing() -> None:
    theirs, ours, x = CbamModule(32).eval(), CBAM(32, bias=False).eval(), torch.randn(2, 32, 5, 5)
    state = theirs.state_dict()
    del state["spatial.conv.bn.num_batches_tracked"]
    load_weights(ours, state, "timm")
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.pop("fc1.bias"),
            r"SqueezeExcite needs 'fc1.bias' of the 'timm' weights, which have \['fc1.weight'",
        ),
        (lambda s: s.update(bn=torch.zeros(8)), r"SqueezeExcite has no counterpart of \['bn'\] in the 'timm' weights"),
        (
            lambda s: s.update({"fc2.bias": torch.zeros(64)}),
            r"'fc2.bias' of the 'timm' weights has shape \(64,\), 'up_proj.bias' here \(128,\); build both",
        ),
    ],
)
def test_refuses_weights_that_do_not_fit_and_loads_nothing(state: dict[str, Tensor], change, message: str) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    block = SqueezeExcite(128)
    before = copy.deepcopy(block.state_dict())
    state = dict(state)
    change(state)
    with pytest.raises(ValueError, match=message):
        load_weights(block, state, "timm")
    torch.testing.assert_close(block.state_dict(), before, rtol=0, atol=0)


def test_refuses_a_transposed_matrix(state: dict[str, Tensor]) -> None:
    """It has as many numbers, and would be read without a word."""
    turned = {**state, "fc1.weight": state["fc1.weight"].transpose(0, 1)}
    with pytest.raises(
        ValueError, match=r"'fc1.weight' .* has shape \(128, 8, 1, 1\), 'down_proj.weight' here \(8, 128\)"
    ):
        load_weights(SqueezeExcite(128), turned, "timm")


def test_refuses_a_block_without_a_counterpart() -> None:
    with pytest.raises(ValueError, match=r"SimAM has layouts \[\], got layout='timm'"):
        load_weights(SimAM(3), {}, "timm")


def drawn(module: nn.Module) -> nn.Module:
    """In float64 and evaluation mode, every parameter random, since zeros and ones would hide a swapped part."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.3)
    return module.double().eval()


def rand(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def assert_equal(
    ours: nn.Module,
    theirs: nn.Module,
    inputs: tuple[Tensor, ...],
    run: Callable[..., Tensor],
    run_theirs: Callable[..., Tensor],
) -> None:
    """With torch's weights, ours has its result and its gradients, of the inputs and of every parameter."""
    ours.double().eval()
    load_weights(ours, theirs.state_dict(), "torch")
    result, wanted = run(*inputs), run_theirs(*inputs)
    torch.testing.assert_close(result, wanted)
    weights = torch.randn_like(wanted)
    gradients = torch.autograd.grad((result * weights).sum(), [*inputs, *ours.parameters()])
    expected = torch.autograd.grad((wanted * weights).sum(), [*inputs, *theirs.parameters()])
    torch.testing.assert_close(gradients[: len(inputs)], expected[: len(inputs)])
    # Gradients are converted as the weights are.
    converted = copy.deepcopy(ours)
    names = [name for name, _ in theirs.named_parameters()]
    load_weights(converted, dict(zip(names, expected[len(inputs) :], strict=True)), "torch")
    torch.testing.assert_close(gradients[len(inputs) :], tuple(converted.parameters()))


def feed_forward(dim: int, *, activation: str, bias: bool) -> FeedForward:
    """Of torch's layer; one without biases is not an option of :class:`FeedForward`."""
    block = FeedForward(dim, 40, activation={"relu": nn.ReLU, "gelu": nn.GELU}[activation])
    for linear in () if bias else (block.up_proj, block.down_proj):
        linear.register_parameter("bias", None)
    return block


def parts(norm_first: bool, activation: str, bias: bool) -> dict[str, Any]:
    """Arguments of our layers."""
    return {
        "feed_forward": partial(feed_forward, activation=activation, bias=bias),
        "norm": partial(nn.LayerNorm, bias=bias),
        "norm_first": norm_first,
    }


class TestAttentionOfTorch:
    @both_biases
    @pytest.mark.parametrize("masked", [True, False], ids=["masked", "unmasked"])
    @pytest.mark.parametrize("batch_first", [True, False], ids=["batch-first", "batch-second"])
    @pytest.mark.parametrize("sizes", [(16, 16, 16), (16, 12, 12), (16, 16, 10), (16, 12, 16)], ids=str)
    @pytest.mark.parametrize("block", [MultiHeadAttention, CrossAttention])
    def test_equals_torch(
        self,
        block: type[MultiHeadAttention],
        sizes: tuple[int, int, int],
        batch_first: bool,
        masked: bool,
        bias: bool,
    ) -> None:
        dim, kdim, vdim = sizes
        ours = block(dim, kdim, value_dim=vdim, num_heads=4, bias=bias)
        theirs = drawn(nn.MultiheadAttention(dim, 4, kdim=kdim, vdim=vdim, bias=bias, batch_first=batch_first))

        def run_theirs(*inputs: Tensor) -> Tensor:
            given = inputs if batch_first else [x.transpose(0, 1) for x in inputs]
            context = theirs(*given, key_padding_mask=~KEEP[:, 0] if masked else None)[0]
            return context if batch_first else context.transpose(0, 1)

        inputs = rand(3, 5, dim), rand(3, 6, kdim), rand(3, 6, vdim)
        assert_equal(ours, theirs, inputs, lambda *x: ours(*x, mask=KEEP if masked else None).context, run_theirs)

    @both_biases
    @pytest.mark.parametrize("block", [SelfAttention, MaskedSelfAttention])
    def test_self_attention_equals_torch(self, block: type[SelfAttention], bias: bool) -> None:
        ours = block(16, num_heads=4, bias=bias)
        theirs = drawn(nn.MultiheadAttention(16, 4, bias=bias, batch_first=True))
        mask = ~PAST if block is MaskedSelfAttention else None
        assert_equal(
            ours, theirs, (rand(3, 5, 16),), lambda x: ours(x).context, lambda x: theirs(x, x, x, attn_mask=mask)[0]
        )

    @pytest.mark.parametrize(
        ("theirs", "ours", "message"),
        [
            (
                nn.MultiheadAttention(16, 4, add_bias_kv=True),
                MultiHeadAttention(16),
                r"MultiHeadAttention has no counterpart of \['bias_k', 'bias_v'\] in the 'torch' weights; build both",
            ),
            (
                nn.MultiheadAttention(16, 4, bias=False),
                MultiHeadAttention(16),
                r"needs 'in_proj_bias' of the 'torch' weights, which have \['in_proj_weight', 'out_proj.weight'\]; ",
            ),
            (
                nn.MultiheadAttention(16, 4),
                MultiHeadAttention(16, bias=False),
                r"no counterpart of \['in_proj_bias', 'out_proj.bias'\]",
            ),
            (
                nn.MultiheadAttention(16, 4, kdim=12, vdim=12),
                MultiHeadAttention(16),
                r"needs 'in_proj_weight' .* which have .*'k_proj_weight'",
            ),
            (nn.MultiheadAttention(16, 4), MultiHeadAttention(16, 12), "needs 'q_proj_weight'"),
            (
                nn.MultiheadAttention(16, 4),
                MultiHeadAttention(16, num_heads=4, num_kv_heads=2),
                r"'in_proj_weight' .* has shape \(48, 16\), 'key_proj.weight' here \(8, 16\); build both",
            ),
            (nn.MultiheadAttention(24, 4), MultiHeadAttention(16), r"'in_proj_weight' .* has shape \(72, 24\)"),
            (
                nn.MultiheadAttention(16, 4),
                MultiHeadAttention(16, norm=nn.LayerNorm, num_heads=4),
                "needs 'query_norm.weight'",
            ),
        ],
    )
    def test_refuses_other_arguments_and_loads_nothing(
        self, theirs: nn.MultiheadAttention, ours: MultiHeadAttention, message: str
    ) -> None:
        before = copy.deepcopy(ours.state_dict())
        with pytest.raises(ValueError, match=message):
            load_weights(ours, theirs.state_dict(), "torch")
        torch.testing.assert_close(ours.state_dict(), before, rtol=0, atol=0)

    def test_refuses_a_number_for_a_packed_weight(self) -> None:
        state = {**nn.MultiheadAttention(16, 4).state_dict(), "in_proj_bias": torch.tensor(0.0)}
        with pytest.raises(ValueError, match=r"'in_proj_bias' .* has shape \(\), 'query_proj.bias' here \(16,\)"):
            load_weights(MultiHeadAttention(16), state, "torch")

    def test_refuses_another_layout(self) -> None:
        state = nn.MultiheadAttention(16, 4).state_dict()
        with pytest.raises(ValueError, match=r"SelfAttention has layouts \['torch'\], got layout='timm'"):
            load_weights(SelfAttention(16), state, "timm")

    def test_refuses_a_module_for_a_state(self) -> None:
        theirs = cast(dict[str, Tensor], nn.MultiheadAttention(16, 4))
        with pytest.raises(
            TypeError, match=r"state must be a state dict, got a MultiheadAttention; pass its state_dict"
        ):
            load_weights(SelfAttention(16), theirs, "torch")


class TestLayersOfTorch:
    @both_orders
    @both_activations
    @both_biases
    @pytest.mark.parametrize("masking", ["none", "padding", "causal"])
    def test_encoder_layer_equals_torch(self, norm_first: bool, activation: str, bias: bool, masking: str) -> None:
        attention = partial(SelfAttention, num_heads=4, bias=bias)
        ours = EncoderLayer(16, attention=attention, **parts(norm_first, activation, bias))
        theirs = drawn(
            nn.TransformerEncoderLayer(
                16, 4, 40, activation=activation, norm_first=norm_first, bias=bias, batch_first=True
            )
        )
        keep = KEEP[..., :5]
        mask = {"none": None, "padding": keep, "causal": PAST}[masking]
        their_masks = {"none": {}, "padding": {"src_key_padding_mask": ~keep[:, 0]}, "causal": {"src_mask": ~PAST}}

        def run_theirs(x: Tensor) -> Tensor:
            return theirs(x, **their_masks[masking])

        assert_equal(ours, theirs, (rand(3, 5, 16),), lambda x: ours(x, mask).hidden, run_theirs)

    @both_orders
    @both_activations
    @both_biases
    @pytest.mark.parametrize("padded", [True, False], ids=["padded", "unpadded"])
    def test_decoder_layer_equals_torch(self, norm_first: bool, activation: str, bias: bool, padded: bool) -> None:
        ours = DecoderLayer(
            16,
            self_attention=partial(MaskedSelfAttention, num_heads=4, bias=bias),
            cross_attention=partial(CrossAttention, num_heads=4, bias=bias),
            **parts(norm_first, activation, bias),
        )
        theirs = drawn(
            nn.TransformerDecoderLayer(
                16, 4, 40, activation=activation, norm_first=norm_first, bias=bias, batch_first=True
            )
        )
        padding = {"memory_key_padding_mask": ~KEEP[:, 0]} if padded else {}
        assert_equal(
            ours,
            theirs,
            (rand(3, 5, 16), rand(3, 6, 16)),
            lambda x, memory: ours(x, memory, memory_mask=KEEP if padded else None).hidden,
            lambda x, memory: theirs(x, memory, tgt_mask=~PAST, **padding),
        )

    def test_names_what_a_layer_lacks(self) -> None:
        state = nn.TransformerEncoderLayer(16, 4, 64).state_dict()
        with pytest.raises(ValueError, match=r"EncoderLayer needs 'attention_residual.scale.gamma' of the 'torch'"):
            load_weights(EncoderLayer(16, layer_scale=0.1), state, "torch")
        del state["linear1.bias"], state["self_attn.in_proj_bias"]
        with pytest.raises(ValueError, match=r"EncoderLayer needs 'self_attn.in_proj_bias' of the 'torch' weights"):
            load_weights(EncoderLayer(16), state, "torch")

    def test_names_the_size_that_differs(self) -> None:
        with pytest.raises(
            ValueError, match=r"'linear1.weight' .* has shape \(40, 16\), 'feed_forward.up_proj.weight' here \(64, 16\)"
        ):
            load_weights(EncoderLayer(16), nn.TransformerEncoderLayer(16, 4, 40).state_dict(), "torch")


class TestStacksOfTorch:
    @staticmethod
    def encoder(norm_first: bool) -> TransformerEncoder:
        layer = partial(EncoderLayer, attention=partial(SelfAttention, num_heads=4), **parts(norm_first, "relu", True))
        return TransformerEncoder(16, 2, layer=layer, norm=nn.LayerNorm if norm_first else None)

    @staticmethod
    def decoder(norm_first: bool) -> TransformerDecoder:
        heads: dict[str, Any] = {
            "self_attention": partial(MaskedSelfAttention, num_heads=4),
            "cross_attention": partial(CrossAttention, num_heads=4),
        }
        layer = partial(DecoderLayer, **heads, **parts(norm_first, "relu", True))
        return TransformerDecoder(16, 2, layer=layer, norm=nn.LayerNorm if norm_first else None)

    @staticmethod
    def torchs(norm_first: bool) -> nn.Transformer:
        """torch's own, with a norm after pre-norm layers only."""
        arguments: dict[str, Any] = {"dim_feedforward": 40, "norm_first": norm_first, "batch_first": True}
        last = nn.LayerNorm(16) if norm_first else None
        encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(16, 4, **arguments), 2, copy.deepcopy(last), enable_nested_tensor=False
        )
        decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 4, **arguments), 2, last)
        whole = nn.Transformer(16, 4, custom_encoder=encoder, custom_decoder=decoder, batch_first=True)
        return cast(nn.Transformer, drawn(whole))

    @both_orders
    def test_encoder_equals_torch(self, norm_first: bool) -> None:
        ours, theirs, keep = self.encoder(norm_first), self.torchs(norm_first).encoder, KEEP[..., :5]
        assert_equal(
            ours,
            theirs,
            (rand(3, 5, 16),),
            lambda x: ours(x, keep).hidden,
            lambda x: theirs(x, src_key_padding_mask=~keep[:, 0]),
        )

    @both_orders
    def test_decoder_equals_torch(self, norm_first: bool) -> None:
        ours, theirs = self.decoder(norm_first), self.torchs(norm_first).decoder
        assert_equal(
            ours,
            theirs,
            (rand(3, 5, 16), rand(3, 6, 16)),
            lambda x, memory: ours(x, memory, memory_mask=KEEP).hidden,
            lambda x, memory: theirs(x, memory, tgt_mask=~PAST, memory_key_padding_mask=~KEEP[:, 0]),
        )

    def test_a_network_around_them_equals_torch(self) -> None:
        theirs, encoder, decoder = self.torchs(True), self.encoder(True), self.decoder(True)
        ours = nn.ModuleDict({"encoder": encoder, "decoder": decoder})
        assert_equal(
            ours,
            theirs,
            (rand(3, 6, 16), rand(3, 5, 16)),
            lambda source, x: decoder(x, encoder(source, KEEP).hidden, memory_mask=KEEP).hidden,
            lambda source, x: theirs(
                source,
                x,
                tgt_mask=~PAST,
                src_key_padding_mask=~KEEP[:, 0],
                memory_key_padding_mask=~KEEP[:, 0],
            ),
        )

    def test_started_on_the_meta_device(self) -> None:
        theirs = self.torchs(True).encoder
        with torch.device("meta"):
            ours = self.encoder(True)
        ours.to_empty(device="cpu").double().eval()
        load_weights(ours, theirs.state_dict(), "torch")
        x = rand(3, 5, 16)
        torch.testing.assert_close(ours(x).hidden, theirs(x))

    def test_refuses_another_depth_and_a_missing_norm(self) -> None:
        state = self.torchs(False).encoder.state_dict()
        with pytest.raises(ValueError, match=r"TransformerEncoder needs 'norm.weight' of the 'torch' weights"):
            load_weights(self.encoder(True), state, "torch")
        deeper = {**state, **{name.replace("layers.1", "layers.2"): value for name, value in state.items()}}
        with pytest.raises(ValueError, match=r"no counterpart of \['layers.2.linear1.bias', "):
            load_weights(self.encoder(False), deeper, "torch")
