from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from attention_blocks import (
    AdditiveAttention,
    ALiBi,
    Attention,
    DotProductAttention,
    EncoderLayer,
    FeedForward,
    LuongAttention,
    MaskedSelfAttention,
    MultiHeadAttention,
    RMSNorm,
    RotaryPosition,
    SelfAttention,
    SequenceBatchNorm,
    SwiGLU,
    TransformerEncoder,
    causal_mask,
    padding_mask,
)

CopyAttention = Callable[[nn.MultiheadAttention, MultiHeadAttention], None]
HEADS = partial(MultiHeadAttention, num_heads=4)
ATTENTIONS = [
    HEADS,
    SelfAttention,
    MaskedSelfAttention,
    AdditiveAttention,
    DotProductAttention,
    LuongAttention,
    partial(MultiHeadAttention, num_heads=4, rotary=RotaryPosition, norm=RMSNorm, score_bias=ALiBi),
]
PARTS = ("attention", "feed_forward", "attention_norm", "feed_forward_norm")


def copy_layer(theirs: nn.TransformerEncoderLayer, ours: EncoderLayer, copy_attention: CopyAttention) -> None:
    assert isinstance(ours.attention, MultiHeadAttention)
    assert isinstance(ours.feed_forward, FeedForward)
    copy_attention(theirs.self_attn, ours.attention)
    ours.attention_norm.load_state_dict(theirs.norm1.state_dict())
    ours.feed_forward_norm.load_state_dict(theirs.norm2.state_dict())
    ours.feed_forward.up_proj.load_state_dict(theirs.linear1.state_dict())
    ours.feed_forward.down_proj.load_state_dict(theirs.linear2.state_dict())


def shake(module: nn.Module) -> None:
    """Perturbs all parameters, since ones and zeros would hide a missing or swapped part."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)


@pytest.mark.parametrize("masking", ["none", "padding", "causal", "both"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm_first", [True, False], ids=["pre", "post"])
def test_layer_equals_torch(copy_attention: CopyAttention, norm_first: bool, activation: str, masking: str) -> None:
    theirs = nn.TransformerEncoderLayer(
        16, 4, 40, dropout=0.0, activation=activation, batch_first=True, norm_first=norm_first, dtype=torch.float64
    )
    shake(theirs)
    feed_forward = partial(FeedForward, hidden_dim=40, activation=nn.ReLU if activation == "relu" else nn.GELU)
    ours = EncoderLayer(16, attention=HEADS, feed_forward=feed_forward, norm_first=norm_first).double()
    copy_layer(theirs, ours, copy_attention)
    x = torch.randn(3, 5, 16, dtype=torch.float64)
    padding = padding_mask(torch.tensor([5, 2, 4])) if masking in ("padding", "both") else None
    causal = causal_mask(5) if masking in ("causal", "both") else None
    mask = padding if causal is None else causal if padding is None else padding & causal
    wanted = theirs(
        x,
        src_mask=None if causal is None else ~causal,
        src_key_padding_mask=None if padding is None else ~padding[:, 0],
    )
    torch.testing.assert_close(ours(x, mask).hidden, wanted)
    with_maps = ours(x, mask, need_weights=True)
    torch.testing.assert_close(with_maps.hidden, wanted)
    torch.testing.assert_close(with_maps.weights.sum(-1), torch.ones(3, 4, 5, dtype=torch.float64))


@pytest.mark.parametrize("layer_scale", [None, 0.3])
def test_layer_equals_timm(layer_scale: float | None) -> None:
    theirs = Block(16, 4, qkv_bias=True, init_values=layer_scale).double()
    shake(theirs)
    norm = partial(nn.LayerNorm, eps=1e-6)
    ours = EncoderLayer(16, attention=HEADS, norm=norm, layer_scale=layer_scale).double()
    state = {name: value for name, value in theirs.state_dict().items() if "qkv" not in name}
    renamed = {
        "norm1": "attention_norm",
        "norm2": "feed_forward_norm",
        "attn.proj": "attention.out_proj",
        "mlp.fc1": "feed_forward.up_proj",
        "mlp.fc2": "feed_forward.down_proj",
        "ls1": "attention_residual.scale",
        "ls2": "feed_forward_residual.scale",
    }
    weights = {f"{renamed[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": state[key] for key in state}
    for part in ("weight", "bias"):
        maps = theirs.state_dict()[f"attn.qkv.{part}"].chunk(3)
        for name, value in zip(("query", "key", "value"), maps, strict=True):
            weights[f"attention.{name}_proj.{part}"] = value
    ours.load_state_dict(weights)
    x = torch.randn(2, 7, 16, dtype=torch.float64)
    torch.testing.assert_close(ours(x).hidden, theirs(x))


@pytest.mark.parametrize("norm_first", [True, False], ids=["pre", "post"])
@pytest.mark.parametrize("depth", [1, 3])
def test_stack_equals_torch(copy_attention: CopyAttention, norm_first: bool, depth: int) -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 64, dropout=0.0, batch_first=True, norm_first=norm_first)
    last = nn.LayerNorm(16) if norm_first else None
    theirs = nn.TransformerEncoder(layer, depth, norm=last, enable_nested_tensor=False).double()
    shake(theirs)
    our_layer = partial(
        EncoderLayer, attention=HEADS, feed_forward=partial(FeedForward, activation=nn.ReLU), norm_first=norm_first
    )
    ours = TransformerEncoder(16, depth, layer=our_layer, norm=nn.LayerNorm if norm_first else None).double()
    for their_layer, own in zip(theirs.layers, ours.layers, strict=True):
        assert isinstance(their_layer, nn.TransformerEncoderLayer)
        assert isinstance(own, EncoderLayer)
        copy_layer(their_layer, own, copy_attention)
    if theirs.norm is not None and ours.norm is not None:
        ours.norm.load_state_dict(theirs.norm.state_dict())
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    mask = padding_mask(torch.tensor([5, 3]))
    wanted = theirs(x, src_key_padding_mask=~mask[:, 0])
    hidden, maps = ours(x, mask, need_weights=True)
    torch.testing.assert_close(hidden, wanted)
    torch.testing.assert_close(ours(x, mask).hidden, wanted)
    assert ours(x, mask).weights is None
    assert [tuple(weights.shape) for weights in maps] == [(2, 4, 5, 5)] * depth


def test_custom_parts_are_used() -> None:
    layer = EncoderLayer(16, attention=HEADS, feed_forward=SwiGLU, norm=RMSNorm).double()
    shake(layer)
    x = torch.randn(2, 5, 16, dtype=torch.float64)

    def norm(y: Tensor, weight: Tensor) -> Tensor:
        return y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight

    weights = layer.state_dict()
    normed = norm(x, weights["attention_norm.weight"])
    found = x + layer.attention(normed, normed).context
    normed = norm(found, weights["feed_forward_norm.weight"])
    gate, up, down = (weights[f"feed_forward.{name}_proj.weight"] for name in ("gate", "up", "down"))
    wanted = found + (F.silu(normed @ gate.T) * (normed @ up.T)) @ down.T
    torch.testing.assert_close(layer(x).hidden, wanted)


@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), norm_first=st.booleans(), seed=st.integers(0, 99))
def test_a_padded_batch_equals_each_sentence_alone(lengths: list[int], norm_first: bool, seed: int) -> None:
    torch.manual_seed(seed)
    layer = partial(EncoderLayer, attention=HEADS, norm_first=norm_first)
    encoder = TransformerEncoder(8, 2, layer=layer).double()
    x = torch.randn(len(lengths), max(lengths), 8, dtype=torch.float64)
    together = encoder(x, padding_mask(torch.tensor(lengths))).hidden
    for row, length in enumerate(lengths):
        alone = encoder(x[row : row + 1, :length]).hidden
        torch.testing.assert_close(together[row : row + 1, :length], alone)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("norm_first", [True, False], ids=["pre", "post"])
@pytest.mark.parametrize("norm", [nn.LayerNorm, SequenceBatchNorm])
def test_all_children_are_called_with_the_whole_batch(
    attention: Callable[[int, int], Attention], norm: Callable[[int], nn.Module], norm_first: bool
) -> None:
    """All layers compute all positions, the last one too."""
    layer = partial(EncoderLayer, attention=attention, norm=norm, norm_first=norm_first)
    encoder = TransformerEncoder(16, 3, layer=layer)
    seen: dict[str, list[tuple[int, ...]]] = {}
    for name, part in encoder.named_modules():
        if name.rpartition(".")[2] in ("attention", "feed_forward", "attention_norm", "feed_forward_norm", "norm"):
            part.register_forward_pre_hook(
                lambda module, inputs, name=name: seen.setdefault(name, []).append(tuple(inputs[0].shape))
            )
    for training in (True, False):
        seen.clear()
        encoder.train(training)(torch.randn(2, 5, 16), padding_mask(torch.tensor([5, 3])))
        names = [f"layers.{index}.{part}" for index in range(3) for part in PARTS]
        assert {name for name in seen if seen[name] == [(2, 5, 16)]} >= {*names, "norm"}


def test_a_mask_for_each_head() -> None:
    encoder = TransformerEncoder(16, 2, layer=partial(EncoderLayer, attention=HEADS))
    x, mask = torch.randn(2, 5, 16), torch.rand(2, 4, 5, 5) > 0.3
    hidden, maps = encoder(x, mask, need_weights=True)
    torch.testing.assert_close(encoder(x, mask).hidden, hidden)
    assert all(not weights.masked_select(~mask).any() for weights in maps)
    with pytest.raises(ValueError, match=r"does not broadcast to \(B, T_q, T_k\)"):
        EncoderLayer(16, attention=AdditiveAttention)(x, mask)


def test_order_of_the_positions_does_not_matter_without_positions() -> None:
    encoder = TransformerEncoder(16, 2).double()
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(encoder(x[:, order]).hidden, encoder(x).hidden[:, order])


def test_drop_path_rises_linearly_and_reaches_both_branches() -> None:
    def rates(depth: int) -> list[list[float]]:
        found = []
        for layer in TransformerEncoder(16, depth, drop_path=0.4).layers:
            assert isinstance(layer, EncoderLayer)
            drops = (layer.attention_residual.drop_path, layer.feed_forward_residual.drop_path)
            found.append([0.0 if drop is None else drop.rate for drop in drops])
        return found

    assert rates(5) == [pytest.approx([rate, rate]) for rate in (0.0, 0.1, 0.2, 0.3, 0.4)]
    assert rates(1) == [[0.0, 0.0]]


def test_dropout_and_drop_path_work_in_training_only() -> None:
    x = torch.randn(4, 5, 16)
    torch.manual_seed(0)
    for layer in (EncoderLayer(16, dropout=0.5), EncoderLayer(16, drop_path=0.5)):
        assert not torch.equal(layer(x).hidden, layer(x).hidden)
        layer.eval()
        assert torch.equal(layer(x).hidden, layer(x).hidden)


@pytest.mark.parametrize("norm_first", [True, False], ids=["pre", "post"])
def test_gradcheck(norm_first: bool) -> None:
    attention = partial(MultiHeadAttention, num_heads=2)
    layer = EncoderLayer(4, attention=attention, norm_first=norm_first, layer_scale=0.5).double()
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    mask = padding_mask(torch.tensor([3, 2]))
    assert torch.autograd.gradcheck(lambda y: layer(y, mask).hidden, x)


def test_compiles() -> None:
    encoder = TransformerEncoder(16, 2, drop_path=0.2).eval()
    x, mask = torch.randn(2, 5, 16), padding_mask(torch.tensor([5, 3]))
    compiled = torch.compile(encoder, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, mask).hidden, encoder(x, mask).hidden)


def test_exports_with_any_batch_and_length() -> None:
    encoder = TransformerEncoder(16, 2, layer=partial(EncoderLayer, attention=HEADS))
    batch, length = torch.export.Dim("batch", min=2, max=64), torch.export.Dim("length", min=2, max=64)
    program = torch.export.export(
        encoder,
        (torch.randn(3, 5, 16), torch.ones(3, 1, 5, dtype=torch.bool)),
        dynamic_shapes={"x": {0: batch, 1: length}, "mask": {0: batch, 2: length}},
    )
    x, mask = torch.randn(4, 7, 16), padding_mask(torch.tensor([7, 3, 1, 5]))
    torch.testing.assert_close(program.module()(x, mask).hidden, encoder(x, mask).hidden)


def test_refuses_an_attention_of_another_width() -> None:
    with pytest.raises(ValueError, match=r"attention is a MultiHeadAttention whose context has 8 features.*dim=16"):
        EncoderLayer(16, attention=lambda query_dim, key_dim: MultiHeadAttention(8, key_dim))


def test_refuses_unfit_arguments() -> None:
    with pytest.raises(ValueError, match="depth must be 1 or more, got 0"):
        TransformerEncoder(16, 0)
    with pytest.raises(ValueError, match=r"drop_path must lie in \[0, 1\), got 1.5"):
        TransformerEncoder(16, 2, drop_path=1.5)
    with pytest.raises(TypeError, match="mask must be boolean"):
        EncoderLayer(16)(torch.zeros(1, 5, 16), torch.zeros(5, 5))
    with pytest.warns(UserWarning, match="looks inverted"):
        EncoderLayer(16)(torch.zeros(1, 5, 16), ~causal_mask(5))
    with pytest.raises(ValueError, match=r"x must have shape \(B, T, 16\), got \(1, 5, 8\)"):
        EncoderLayer(16)(torch.zeros(1, 5, 8))
