from __future__ import annotations

import dataclasses
import enum
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from torch import nn

from attention_blocks import Attention, EncoderLayer, FeedForward, MultiHeadAttention
from datamodules import Character, ImageTransform, SubwordTokenizer, Tokenizer
from lightning_modules.backbones.vit import vit_layer
from lightning_modules.generation.beam_search import BeamSearch, LengthPenalty
from lightning_modules.generation.decoding_strategy import DecodingStrategy
from lightning_modules.system.plain import import_path, to_plain

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)


class Colour(enum.Enum):
    RED = 1


class Shade(str, enum.Enum):
    DARK = "very dark"


@dataclasses.dataclass
class Setting:
    size: tuple[int, int]
    makes: object = nn.Linear
    seen: int = dataclasses.field(default=0, init=False)


class Holder:
    class Inner:
        pass

    def method(self) -> None:
        pass


def without_tuples(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return [without_tuples(item) for item in value]
    if isinstance(value, dict):
        return {key: without_tuples(item) for key, item in value.items()}
    return value


def types_in(value: object) -> set[type]:
    if isinstance(value, list):
        return {list}.union(*(types_in(item) for item in value))
    if isinstance(value, dict):
        return {dict}.union(*(types_in(item) for pair in value.items() for item in pair))
    return {type(value)}


@given(VALUES)
def test_plain_values_are_unchanged_and_a_safe_loader_reads_them(value: object) -> None:
    plain = to_plain(value, "value")
    assert plain == without_tuples(value)
    assert types_in(plain) <= {type(None), bool, int, float, str, list, dict}
    file = io.BytesIO()
    torch.save(plain, file)
    file.seek(0)
    assert torch.load(file, weights_only=True) == plain


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float64(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.str_("word"), "word"),
        (Path("a") / "b", str(Path("a/b"))),
        (Colour.RED, "RED"),
        (Shade.DARK, "DARK"),
        ({np.int64(2): np.float64(1.0)}, None),
        ([np.float64(1.5)], [1.5]),
    ],
)
def test_values_unknown_to_a_safe_loader_become_built_in_types(value: object, expected: object) -> None:
    if expected is None:  # keys of another type have no plain form
        with pytest.raises(ValueError, match="value="):
            to_plain(value, "value")
        return
    plain = to_plain(value, "value")
    assert plain == expected
    assert types_in(plain) <= {bool, int, float, str, list, dict}


def test_classes_and_functions_become_their_import_path() -> None:
    assert to_plain(nn.Linear, "layer") == {"class_path": "torch.nn.modules.linear.Linear"}
    assert to_plain(vit_layer, "layer") == "lightning_modules.vit_layer"


def test_nested_partials_are_built_again_by_jsonargparse() -> None:
    attention = partial(partial(MultiHeadAttention, num_heads=2, bias=True), bias=False)
    layer = partial(EncoderLayer, attention=attention, feed_forward=partial(FeedForward, hidden_dim=5), drop_path=0.25)
    plain = to_plain(layer, "layer")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--layer", type=Callable[[int], EncoderLayer])
    built = parser.instantiate(parser.parse_object({"layer": plain})).layer(8)
    expected = layer(8)
    assert repr(built) == repr(expected)
    assert built.state_dict().keys() == expected.state_dict().keys()
    assert "attention.query_proj.bias" not in built.state_dict()
    assert types_in(plain) == {dict, str, int, float, bool}


def test_the_outer_partial_has_the_last_word() -> None:
    plain = to_plain(partial(partial(nn.Linear, bias=True, in_features=3), bias=False), "layer")
    assert plain == {"class_path": "torch.nn.modules.linear.Linear", "init_args": {"bias": False, "in_features": 3}}


def test_a_dataclass_becomes_what_its_constructor_takes() -> None:
    plain = to_plain(Setting((1, 2)), "setting")
    assert plain == {"size": [1, 2], "makes": {"class_path": "torch.nn.modules.linear.Linear"}}
    transform = ImageTransform((4, 6), mean=(0.1, 0.2, 0.3))
    fields = to_plain(transform, "transform")
    assert isinstance(fields, dict)
    assert ImageTransform(**fields) == transform


def local_function() -> Callable[[], None]:
    def inside() -> None: ...

    return inside


@pytest.mark.parametrize(
    "value",
    [
        lambda: None,
        local_function(),
        nn.Linear(1, 1),
        torch.zeros(1),
        partial(nn.Linear, 3),
        partial(vit_layer, drop_path=0.5),
        Holder().method,
        object(),
        {1, 2},
        {(1, 2): 3},
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_without_a_plain_form_are_refused_by_name(value: object) -> None:
    with pytest.raises(ValueError, match=r"^network=.*give a class, a functools.partial"):
        to_plain(value, "network")


def test_an_error_names_the_part_of_the_argument() -> None:
    with pytest.raises(ValueError, match=r"^network\['layer'\]\[1\]="):
        to_plain({"layer": [1, object()]}, "network")
    with pytest.raises(ValueError, match=r"^setting.makes="):
        to_plain(Setting((1, 2), makes=lambda: None), "setting")


def test_import_paths_are_those_of_public_names() -> None:
    assert import_path(Holder.Inner) == f"{__name__}.Holder.Inner"
    assert import_path(Attention) == "attention_blocks.Attention"
    assert import_path(local_function()) is None
    assert import_path(3) is None


def test_a_name_that_now_means_something_else_has_no_import_path() -> None:
    impostor = type("Holder", (), {"__module__": __name__})
    assert import_path(impostor) is None


def test_a_tokenizer_becomes_its_definition_and_is_built_again() -> None:
    tokenizer = Character().train(["größer"])
    plain = to_plain(tokenizer, "tokenizer")
    assert types_in(plain) == {dict, str}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--tokenizer", type=Tokenizer)
    built = parser.instantiate(parser.parse_object({"tokenizer": plain})).tokenizer
    assert type(built) is SubwordTokenizer
    assert built == tokenizer
    assert built.encode(["grö"]) == tokenizer.encode(["grö"])


def test_a_dataclass_of_several_kinds_names_its_class() -> None:
    strategy = BeamSearch(size=3, length_penalty=LengthPenalty(alpha=0.5, offset=5.0), no_repeat_ngram=2)
    plain = to_plain(strategy, "strategy")
    assert types_in(plain) <= {dict, str, int, float}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--strategy", type=DecodingStrategy)
    assert parser.instantiate(parser.parse_object({"strategy": plain})).strategy == strategy
