"""Captioners: loss, captions, plots, and the images that they accept."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from attention_blocks import AdditiveAttention, AttentionOutput, Memory
from datamodules import CaptionBatch
from tests.lightning_modules.conftest import CAPTION_RNN

if TYPE_CHECKING:
    from tests.lightning_modules.conftest import MakeCaptioner

pytestmark = pytest.mark.filterwarnings("ignore:You are trying to .self.log")


# The loss.


def test_the_loss_is_the_mean_over_real_words_of_each_image_by_itself(
    every_captioner: str, make_captioner: MakeCaptioner, caption_batch: CaptionBatch
) -> None:
    system, some = make_captioner(every_captioner).double().eval(), caption_batch
    images = cast(Tensor, some.images).double()
    found = []
    for image, caption, length in zip(images, some.captions, some.caption_lengths.tolist(), strict=True):
        logits = system(image[None], caption[None, : length - 1])[0]
        found += [-logits[position].log_softmax(-1)[word] for position, word in enumerate(caption[1:length].tolist())]
    loss = system.training_step(some._replace(images=images), 0)
    torch.testing.assert_close(loss, torch.stack(found).mean(), check_dtype=False)


def test_precomputed_features_replace_the_images(
    every_captioner: str, make_captioner: MakeCaptioner, caption_batch: CaptionBatch
) -> None:
    system, some = make_captioner(every_captioner).eval(), caption_batch
    known = some._replace(images=None, features=system.network.backbone(some.images).detach())
    torch.testing.assert_close(system.training_step(known, 0), system.training_step(some, 0))
    assert system.predict_step(known, 0) == system.predict_step(some, 0)


# Captions.


def test_steps_equal_the_whole(
    every_captioner: str, make_captioner: MakeCaptioner, caption_batch: CaptionBatch
) -> None:
    system, some = make_captioner(every_captioner).eval(), caption_batch
    memory = system.encode(some)
    whole = system.decoder.output(system.decoder(some.captions, memory))
    state, found = system.decoder.start(memory), []
    for word in torch.split(some.captions, 1, dim=1):
        logits, state, _ = system.decoder.step(word, state)
        found.append(logits)
    torch.testing.assert_close(torch.cat(found, dim=1), whole)


def test_captions_do_not_depend_on_the_batch_and_the_mode_is_kept(
    every_captioner: str, make_captioner: MakeCaptioner
) -> None:
    system = make_captioner(every_captioner)
    images = [torch.rand(3, 20, 30) for _ in range(5)]
    together = system.caption(images)
    assert together == [system.caption([image])[0] for image in images]
    assert together == system.caption(images, batch_size=2)
    assert together == system.caption(system.transform.batch(images))
    assert system.training
    assert system.network.backbone.training


def test_a_caption_is_at_most_max_length_long(make_captioner: MakeCaptioner) -> None:
    system = make_captioner("show-and-tell", max_length=3)
    with torch.no_grad():
        system.decoder.output.bias[system.target_tokenizer.eos_id] = -100.0
    assert [len(text.split()) for text in system.caption([torch.rand(3, 9, 9)])] == [3]


def _files(folder: Path) -> dict[str, Path]:
    """One image in every file format and mode."""
    values = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    plain = Image.fromarray(values)
    turned = Image.Exif()
    turned[0x0112] = 6
    forms: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "plain.png": (plain, {}),
        "grey.png": (plain.convert("L"), {}),
        "rgba.png": (plain.convert("RGBA"), {}),
        "palette.gif": (plain.convert("P"), {}),
        "cmyk.jpg": (plain.convert("CMYK"), {}),
        "deep.png": (Image.fromarray(values[:, :, 0].astype(np.uint16) * 257), {}),
        "pixel.png": (plain.crop((0, 0, 1, 1)), {}),
        "turned.jpg": (plain, {"exif": turned}),
    }
    for name, (image, options) in forms.items():
        image.save(folder / name, **options)
    return {name: folder / name for name in forms}


def test_any_kind_of_image_file_is_described(tmp_path: Path, make_captioner: MakeCaptioner) -> None:
    files = _files(tmp_path)
    assert len(make_captioner("transformer").caption(list(files.values()))) == len(files)


def test_other_inputs_are_refused_by_name(tmp_path: Path, make_captioner: MakeCaptioner) -> None:
    system, cut = make_captioner("show-and-tell"), tmp_path / "cut.jpg"
    Image.fromarray(np.zeros((50, 50, 3), dtype=np.uint8)).save(cut)
    cut.write_bytes(cut.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"cut\.jpg"):
        system.caption([cut])
    with pytest.raises(FileNotFoundError, match=r"none\.jpg"):
        system.caption([tmp_path / "none.jpg"])
    with pytest.raises(TypeError, match=r"images .*got one Image"):
        system.caption(Image.new("RGB", (9, 9)))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="got one generator"):
        system.caption(name for name in ("cat.jpg",))  # type: ignore[arg-type]
    for tensor in (torch.rand(3, 16, 24), torch.rand(2, 1, 16, 24), torch.zeros(2, 3, 16, 24, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"\(B, 3, H, W\).*, got"):
            system.caption(tensor)
    with pytest.raises(ValueError, match="images is empty"):
        system.caption(torch.zeros(0, 3, 16, 24))
    with pytest.raises(ValueError, match="images is empty"):
        system.caption([])
    with pytest.raises(TypeError, match=r"images .*got one str"):
        system.caption("cat.jpg")
    with pytest.raises(ValueError, match=r"batch_size .*got 0"):
        system.caption([torch.rand(3, 9, 9)], batch_size=0)


# Plots.


@pytest.mark.parametrize("kind", ["show-attend-and-tell", "transformer", "patches"])
def test_the_plot_has_a_panel_per_word(kind: str, make_captioner: MakeCaptioner) -> None:
    system = make_captioner(kind)
    images = torch.randn(2, 3, 16, 24)
    words = [text.split() for text in system.caption(images)]
    titles = [axis.get_title() for axis in system.plot(images).axes if axis.images]
    assert titles == [title for caption in words for title in ["", *caption]]


class OneLocation(AdditiveAttention):
    """Attends to one location only: of 8 rows and 12 columns, row 0, column 7."""

    def attend(
        self,
        query: Tensor,
        memory: Memory,
        mask: Tensor | None = None,
        *,
        need_weights: bool = False,
        offset: int = 0,
    ) -> AttentionOutput:
        weights = torch.zeros(len(query), query.size(1), memory.key.size(1))
        weights[..., 7] = 1.0
        return AttentionOutput(weights @ memory.value, weights)


def test_attention_maps_lie_over_the_locations_that_were_attended_to(make_captioner: MakeCaptioner) -> None:
    system = make_captioner(network=partial(CAPTION_RNN, attention=OneLocation))
    heat = next(axis.images[1] for axis in system.plot(torch.randn(1, 3, 16, 24)).axes if len(axis.images) > 1)
    values = np.asarray(heat.get_array())
    assert values.shape == (8, 12)
    assert np.argwhere(values == values.max()).tolist() == [[0, 7]]


def test_a_captioner_without_attention_cannot_be_plotted(make_captioner: MakeCaptioner) -> None:
    with pytest.raises(ValueError, match="FixedVectorDecoder"):
        make_captioner("show-and-tell").plot([torch.rand(3, 9, 9)])


# Parts.


def test_the_backbone_has_its_own_learning_rate(every_captioner: str, make_captioner: MakeCaptioner) -> None:
    system = make_captioner(every_captioner, layer_decay=0.5)
    system.optimizers = lambda: None  # type: ignore[method-assign, assignment]
    optimizer = cast(torch.optim.Optimizer, system.configure_optimizers())
    backbone = {id(parameter) for parameter in system.network.backbone.parameters()}
    rates = {
        (id(parameter) in backbone): group["lr"] for group in optimizer.param_groups for parameter in group["params"]
    }
    assert rates[True] == 0.5 * rates[False]


def test_a_length_below_one_is_named(make_captioner: MakeCaptioner) -> None:
    with pytest.raises(ValueError, match=r"max_length .*got 0"):
        make_captioner("show-and-tell", max_length=0)
