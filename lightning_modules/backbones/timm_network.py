"""Models of timm as networks of classifiers."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lightning_modules.backbones.pretrained import are_weights_to_come


def timm_model(name: str, pretrained: bool | str, **arguments: Any) -> Any:  # noqa: ANN401 # timm is untyped
    """Creates a model of timm, with trained weights on request, unless a checkpoint's will replace them.

    Args:
        name: such as "resnet18" or "tf_efficientnet_lite0.in1k".
        pretrained: ``True`` for trained weights, which timm downloads, or the path of a weights file.
        **arguments: those of ``timm.create_model``.

    Raises:
        ValueError: timm has no such model, the file's weights do not fit it, or timm cannot obtain any.
        FileNotFoundError: there is no weights file at that path.
    """
    import timm  # slow to import

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(include_tags="." in name))
        raise ValueError(f"name: timm has no model {name!r}; did you mean {', '.join(near) or 'one that it lists'}?")
    wanted: dict[str, object] = {"pretrained": bool(pretrained) and not are_weights_to_come()}
    if isinstance(pretrained, str):
        if not Path(pretrained).is_file() and not are_weights_to_come():
            raise FileNotFoundError(f"pretrained: there is no file {pretrained!r}")
        wanted["pretrained_cfg_overlay"] = {"file": pretrained}
    try:
        return timm.create_model(name, **wanted, **arguments)
    except (AssertionError, IndexError):  # caused by the arguments; the caller handles it
        raise
    except Exception as error:  # readers of a broken file raise all kinds of errors
        if not wanted["pretrained"]:
            raise
        why = str(error)[:200]  # which may list every missing name
        if isinstance(pretrained, str):
            raise ValueError(f"pretrained={pretrained!r} holds no weights of {name}: {why}") from error
        if isinstance(error, (OSError, RuntimeError)):  # no connection, or no such weights
            raise ValueError(
                f"pretrained: timm cannot obtain weights of {name}; give the path of a weights file, or False ({why})"
            ) from error
        raise


class TimmNetwork(nn.Module):
    """A backbone of timm and a linear head.

    Args:
        num_classes: size of the logits.
        image_size: height and width of the images; most CNNs take any.
        in_channels: C of the images; timm adapts trained weights for 3 channels to other numbers.
        name: such as "resnet18" or "tf_efficientnet_lite0.in1k".
        pretrained: ``True`` for trained weights, which timm downloads, or the path of a weights file; ignored when a
            checkpoint is loaded. Images must be normalised as in the original training, see ``ImageTransform``.

    Attributes:
        model: the backbone.
        attention_locations: names of its stages, after which attention can be inserted.
        head: the linear head.

    Raises:
        ValueError: timm has no such model.
        FileNotFoundError: there is no weights file at that path.

    Example:
        >>> import torch
        >>> TimmNetwork(10, (64, 64), 3, name="resnet18")(torch.randn(2, 3, 64, 64)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        num_classes: int,
        image_size: tuple[int, int] = (224, 224),
        in_channels: int = 3,
        *,
        name: str,
        pretrained: bool | str = False,
    ) -> None:
        super().__init__()
        self.model = timm_model(name, pretrained, num_classes=0, in_chans=in_channels)
        self.attention_locations = tuple(f"model.{stage['module']}" for stage in self.model.feature_info)
        # Some models have layers between the pooled features and the head.
        self.head = nn.Linear(getattr(self.model, "head_hidden_size", self.model.num_features), num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (B, num_classes), of images, (B, C, H, W)."""
        return self.head(self.model(images))
