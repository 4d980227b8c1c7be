r"""Perceptual premetrics: how far two pictures are apart for a network that looks at them.

`LPIPS` where the package `lpips` is installed; else the mean squared distance of features, of a net of your own or of
one of the three that ship with rheos. All of them are premetrics on data estimates, so they join any objective.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.resources import as_file, files
from typing import Literal, cast, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from rheos.core.base import Context, Premetric
from rheos.core.errors import DataError, MissingExtraError, OptionError, ShapeError, check_choice
from rheos.core.premetrics import Perceptual
from rheos.core.state import State
from rheos.metrics.features import NAMES, FeatureExtractor, load_feature_net
from rheos.nets import FeatureNet

__all__ = ["LPIPS", "FeatureMap", "perceptual", "usual_features"]

REMAIN = (
    f"What remains: a feature net, features={', '.join(map(repr, NAMES))}, or any function of pictures; or a loss "
    "without one, 'huber', 'l2' or 'l2_squared'."
)
SMALLEST = 32
"""Pixels of a side below which LPIPS was never meant."""


@final
@dataclass(frozen=True)
class FeatureMap:
    """The features of a shipped net as a function that can be differentiated; `core.Perceptual` takes it.

    Args:
        name: "digits" (8 px), "mnist5k" or "emoji" (32 px, colour); other sizes are resized to the net's.

    Raises:
        UnknownOptionError: For another name.

    Example:
        >>> FeatureMap("digits")(torch.zeros(2, 1, 8, 8)).shape[0]
        2
    """

    name: str

    def __post_init__(self) -> None:
        check_choice("feature net", self.name, NAMES)

    def __call__(self, x: Tensor) -> Tensor:
        """Features (B, D) in float32 of pictures in [-1, 1].

        Raises:
            ShapeError: If these are no pictures with the net's channels.
        """
        return _shipped(self.name, str(x.device)).features(x.to(torch.float32))


@lru_cache(maxsize=8)
def _shipped(name: str, device: str) -> FeatureNet:
    with as_file(files("rheos.metrics") / "weights" / f"{name}.safetensors") as path:
        return load_feature_net(path)[0].to(device)


@final
@dataclass(frozen=True)
class LPIPS(Premetric):
    """Learned perceptual distance of colour pictures, resized to `size` first; needs the package `lpips`.

    Args:
        net: "vgg", "alex" or "squeeze".
        size: Side in pixels that the net sees.
        value_range: Lowest and highest value of the pictures.

    Raises:
        UnknownOptionError: For another net.
        OptionError: For a size below 32, or an empty range.

    Reference: The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, Zhang et al. (2018),
    https://arxiv.org/abs/1801.03924
    """

    net: Literal["vgg", "alex", "squeeze"] = "vgg"
    size: int = 224
    value_range: tuple[float, float] = (-1.0, 1.0)
    on = "data"

    def __post_init__(self) -> None:
        check_choice("LPIPS net", self.net, ("vgg", "alex", "squeeze"))
        if self.size < SMALLEST or not self.value_range[0] < self.value_range[1]:
            raise OptionError(
                f"LPIPS needs a size of at least {SMALLEST} and a range (low, high), got {self.size} and "
                f"{self.value_range}."
            )

    def __call__(self, prediction: State, target: State, context: Context) -> Tensor:
        """(B,) distances; no gradient flows into the target.

        Raises:
            ShapeError: For grey pictures, latents, pictures below 32 pixels, or what is no picture.
            MissingExtraError: If `lpips` or torchvision cannot be imported.
            DataError: If the weights of the net are not on this machine and cannot be loaded.
        """
        check_pictures(tuple(prediction.shape) if isinstance(prediction, Tensor) else ())
        model = _lpips(self.net, str(cast(Tensor, prediction).device))
        with torch.no_grad():
            want = self._seen(cast(Tensor, target))
        return model(self._seen(cast(Tensor, prediction)), want).reshape(len(want))

    def _seen(self, x: Tensor) -> Tensor:
        low, high = self.value_range
        x = (x.float() - (low + high) / 2) * (2 / (high - low))
        return functional.interpolate(x, size=(self.size, self.size), mode="bilinear", align_corners=False)


def check_pictures(shape: tuple[int, ...]) -> None:
    """Raise `ShapeError` unless LPIPS was made for such a batch."""
    if len(shape) != 4 or shape[1] != 3 or min(shape[2:]) < SMALLEST:
        raise ShapeError(
            f"LPIPS looks at colour pictures (B, 3, H, W) of at least {SMALLEST} pixels a side, got {shape}. {REMAIN}"
        )


@lru_cache(maxsize=8)
def _lpips(net: str, device: str) -> Callable[[Tensor, Tensor], Tensor]:
    try:
        lpips = import_module("lpips")
    except (ImportError, RuntimeError, OSError) as error:  # a torchvision of another build fails in its own way
        raise MissingExtraError(
            f"LPIPS needs the packages lpips and torchvision, built for this torch, which cannot be imported "
            f"({error}). {REMAIN}",
            package="lpips",
        ) from error
    try:
        model: nn.Module = lpips.LPIPS(net=net, verbose=False)
    except (OSError, RuntimeError) as error:
        raise DataError(f"The weights of LPIPS with {net!r} cannot be loaded: {error}. {REMAIN}") from error
    return model.eval().requires_grad_(False).to(device)


def usual_features(shape: tuple[int, ...]) -> str:
    """What looks at pictures of a shape (C, H, W) unless told: "lpips" where it fits, else one of our nets.

    Raises:
        ShapeError: If that is no picture with one or three channels.

    Example:
        >>> usual_features((1, 8, 8)), usual_features((1, 28, 28)), usual_features((3, 16, 16))
        ('digits', 'mnist5k', 'emoji')
    """
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ShapeError(f"No feature net is known for samples of shape {shape}; pictures are (1 or 3, H, W). {REMAIN}")
    if shape[0] == 1:
        return "digits" if max(shape[1:]) < 16 else "mnist5k"
    return "lpips" if min(shape[1:]) >= SMALLEST and _installed() else "emoji"


@lru_cache(maxsize=1)
def _installed() -> bool:
    try:
        import_module("lpips")
    except (ImportError, RuntimeError, OSError):
        return False
    return True


def perceptual(
    features: str | Callable[[Tensor], Tensor | Sequence[Tensor]] | FeatureExtractor,
    value_range: tuple[float, float] = (-1.0, 1.0),
) -> Premetric:
    """A perceptual premetric.

    Args:
        features: "lpips"; a shipped net, "digits", "mnist5k" or "emoji"; or your own function of pictures that gives a
            tensor or a sequence of tensors, rows first (a module is taken as it is: freeze it).
        value_range: Of the pictures.

    Raises:
        UnknownOptionError: For an unknown name.
        OptionError: For a shipped net where pictures are not in [-1, 1].

    Example:
        >>> perceptual("digits")
        Perceptual(features=FeatureMap(name='digits'), part=None)
    """
    if isinstance(features, str):
        check_choice("features", features, ("lpips", *NAMES))
        if features == "lpips":
            return LPIPS(value_range=value_range)
        if value_range != (-1.0, 1.0):
            raise OptionError(f"The net {features!r} sees pictures in (-1, 1), these are in {value_range}. {REMAIN}")
        return Perceptual(FeatureMap(features))
    if isinstance(features, FeatureExtractor):
        features = features.net  # the extractor itself keeps no gradients
    return Perceptual(features.features if isinstance(features, FeatureNet) else features)
