"""The translating Transformer against torch's own with the same weights, and its tied embeddings."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attention_blocks import DecoderLayer, EncoderLayer, FeedForward, MaskedSelfAttention, MultiHeadAttention
from lightning_modules import TransformerTranslator

D, HEADS, WIDE, V_S, V_T = 16, 2, 24, 13, 11
FEED_FORWARD = partial(FeedForward, hidden_dim=WIDE, activation=nn.ReLU)
MASKED, FREE = partial(MaskedSelfAttention, num_heads=HEADS), partial(MultiHeadAttention, num_heads=HEADS)


def translator(*, norm_first: bool = True, **arguments: object) -> TransformerTranslator:
    settings: dict[str, object] = {
        "dim": D,
        "depth": 2,
        "decoder_depth": 3,
        "encoder_layer": partial(EncoderLayer, attention=FREE, feed_forward=FEED_FORWARD, norm_first=norm_first),
        "decoder_layer": partial(
            DecoderLayer,
            self_attention=MASKED,
            cross_attention=FREE,
            feed_forward=FEED_FORWARD,
            norm_first=norm_first,
        ),
        "dropout": 0.0,
    }
    return TransformerTranslator(V_S, V_T, **{**settings, **arguments})  # type: ignore[arg-type]


def drawn(network: TransformerTranslator) -> TransformerTranslator:
    with torch.no_grad():
        for parameter in network.double().parameters():
            parameter.normal_(std=0.3)
    return network.eval()


def sentences() -> tuple[Tensor, Tensor, Tensor]:
    source, lengths = torch.randint(4, V_S, (3, 6)), torch.tensor([4, 6, 1])
    source[torch.arange(6) >= lengths[:, None]] = 0
    return source, lengths, torch.randint(4, V_T, (3, 5))


def attention_weights(block: MultiHeadAttention) -> dict[str, Tensor]:
    three = (block.query_proj, block.key_proj, block.value_proj)
    return {
        "in_proj_weight": torch.cat([one.weight for one in three]),
        "in_proj_bias": torch.cat([one.bias for one in three]),
        **{f"out_proj.{name}": value for name, value in block.out_proj.state_dict().items()},
    }


def torchs_own(network: TransformerTranslator, *, norm_first: bool) -> nn.Transformer:
    """torch.nn.Transformer with the weights of ours; the paper's post-norm has no further norm at the end."""
    end = (lambda: nn.LayerNorm(D)) if norm_first else (lambda: None)
    arguments: dict[str, Any] = {"dropout": 0.0, "batch_first": True, "norm_first": norm_first}
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(D, HEADS, WIDE, **arguments), 2, end(), enable_nested_tensor=False
    )
    decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(D, HEADS, WIDE, **arguments), 3, end())
    whole = nn.Transformer(D, HEADS, custom_encoder=encoder, custom_decoder=decoder, batch_first=True).double().eval()
    weights: dict[str, Tensor] = {}
    stacks = (("encoder", network.encoder.layers), ("decoder", network.decoder.layers.layers))
    for side, layers in stacks:
        for i, layer in enumerate(layers):
            names = (
                [("attention", "self_attn", "norm1"), ("feed_forward", "", "norm2")]
                if side == "encoder"
                else [
                    ("self_attention", "self_attn", "norm1"),
                    ("cross_attention", "multihead_attn", "norm2"),
                    ("feed_forward", "", "norm3"),
                ]
            )
            start = f"{side}.layers.{i}."
            for ours, theirs, norm in names:
                for name, value in getattr(layer, f"{ours}_norm").state_dict().items():
                    weights[f"{start}{norm}.{name}"] = value
                if ours == "feed_forward":
                    for name, value in layer.get_submodule("feed_forward").state_dict().items():
                        ends = name.replace("up_proj", "linear1").replace("down_proj", "linear2")
                        weights[start + ends] = value
                else:
                    block = attention_weights(getattr(layer, ours))
                    weights.update({f"{start}{theirs}.{name}": value for name, value in block.items()})
    if norm_first:
        weights.update({f"encoder.norm.{name}": value for name, value in network.norm.state_dict().items()})
        weights.update({f"decoder.norm.{name}": value for name, value in network.decoder.norm.state_dict().items()})
    whole.load_state_dict(weights)
    return whole


def embedded(tokens: Tensor, table: Tensor) -> Tensor:
    """Embeddings times the root of D plus the sinusoids of section 3.5, from the formula."""
    places = torch.arange(tokens.size(1), dtype=torch.float64)[:, None]
    even = torch.arange(0, D, 2, dtype=torch.float64)
    waves = torch.zeros(tokens.size(1), D, dtype=torch.float64)
    waves[:, 0::2] = torch.sin(places / 10000 ** (even / D))
    waves[:, 1::2] = torch.cos(places / 10000 ** (even / D))
    return table[tokens] * D**0.5 + waves


@pytest.mark.parametrize("norm_first", [True, False], ids=["pre-norm", "post-norm"])
@pytest.mark.parametrize("output_bias", [False, True])
def test_the_logits_are_those_of_torchs_transformer(norm_first: bool, output_bias: bool) -> None:
    network = drawn(translator(norm_first=norm_first, output_bias=output_bias))
    whole = torchs_own(network, norm_first=norm_first)
    source, lengths, target = sentences()
    padding = torch.arange(source.size(1)) >= lengths[:, None]
    causal = torch.triu(torch.ones(5, 5, dtype=torch.bool), diagonal=1)
    hidden = whole(
        embedded(source, network.embedding.weight),
        embedded(target, network.decoder.embedding.weight),
        tgt_mask=causal,
        src_key_padding_mask=padding,
        memory_key_padding_mask=padding,
    )
    wanted = hidden @ network.decoder.embedding.weight.T
    if output_bias:
        wanted = wanted + network.decoder.output.bias
    else:
        assert network.decoder.output.bias is None
    torch.testing.assert_close(network(source, lengths, target), wanted)


def test_a_padded_batch_equals_each_sentence_alone() -> None:
    network = drawn(translator())
    source, lengths, target = sentences()
    together = network(source, lengths, target)
    for i, length in enumerate(lengths.tolist()):
        alone = network(source[i : i + 1, :length], lengths[i : i + 1], target[i : i + 1])
        torch.testing.assert_close(alone, together[i : i + 1])


@pytest.mark.parametrize(("tied", "tables"), [("none", 3), ("target", 2), ("all", 1)])
def test_tied_embeddings_share_their_storage(tied: str, tables: int) -> None:
    network = TransformerTranslator(V_T, V_T, dim=D, depth=1, tie_embeddings=tied)  # type: ignore[arg-type]
    weights = (network.embedding.weight, network.decoder.embedding.weight, network.decoder.output.weight)
    assert len({weight.data_ptr() for weight in weights}) == tables
    names = [name for name, parameter in network.named_parameters() if any(parameter is one for one in weights)]
    assert len(names) == tables
    with torch.no_grad():
        weights[1].zero_()
    assert [bool(weight.any()) for weight in weights] == [tied != "all", False, tied == "none"]


def test_one_table_needs_one_vocabulary() -> None:
    with pytest.raises(ValueError, match=r"tie_embeddings='all' .*got 13 and 11"):
        translator(tie_embeddings="all")
    with pytest.raises(ValueError, match=r"tie_embeddings .*got 'both'"):
        translator(tie_embeddings="both")


def test_depths_and_norms() -> None:
    network = translator(norm_first=True)
    assert (len(network.encoder.layers), len(network.decoder.layers.layers)) == (2, 3)
    assert isinstance(network.norm, nn.LayerNorm)
    same = translator(decoder_depth=None, norm_first=False)
    assert (len(same.encoder.layers), len(same.decoder.layers.layers)) == (2, 2)
    assert isinstance(same.norm, nn.Identity)


def test_linear_layers_start_from_xaviers_uniform_distribution() -> None:
    network = translator()
    for stack in (network.encoder, network.decoder.layers):
        for module in stack.modules():
            if isinstance(module, nn.Linear):
                bound = (6 / (module.in_features + module.out_features)) ** 0.5
                assert 0.8 * bound < module.weight.abs().max() <= bound
                assert not module.bias.any()
