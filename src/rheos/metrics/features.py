r"""Feature nets: what Fréchet, kernel and neighbour figures look at.

Three small classifiers ship with the package, so figures need no download: `digits`, `mnist5k` and `emoji`. Each
knows its name, its accuracy on rows it never saw, and which rows those are; a figure without that is no figure.
Any callable x → (N, D) may take their place.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from rheos.core.errors import (
    CheckpointError,
    ConditionError,
    DataError,
    NonFiniteError,
    OptionError,
    ShapeError,
    check_choice,
)
from rheos.nets import FeatureNet

__all__ = [
    "NAMES", "FeatureExtractor", "FeatureNetInfo", "features", "held_out_split", "load_feature_net", "save_feature_net",
]  # fmt: skip

NAMES = ("digits", "emoji", "mnist5k")
_FORMAT = "rheos feature net 1"


def held_out_split(source: object) -> list[Any]:
    """Which rows to learn: all but a tenth, or all but those that the set's feature net never saw; for `data.load`.

    Example:
        >>> held_out_split("digits"), held_out_split("my_pictures")
        (['train', 0.2, 0], ['train', 0.1, 0])
    """
    return ["train", 0.2 if source in NAMES else 0.1, 0]


@final
@dataclass(frozen=True)
class FeatureNetInfo:
    """What a shipped feature net is and how good: the lines to print beside its figures.

    Args:
        name: Of the net, and of the data set of `rheos.data.load` that it was trained on.
        classes: One name a class.
        channels: Of its pictures, whose values are in [-1, 1].
        sizes: Smallest and largest side of the pictures it was trained on, in pixels.
        features: D, numbers a row.
        parameters: Numbers in the net.
        accuracy: Fraction of held-out rows put into the right class, by side in pixels.
        balanced_accuracy: The mean of that fraction over the classes; lower where a large class is easy.
        trained: Rows that it was trained on.
        held_out: Rows that it never saw, on which the accuracy is measured.
        split: (fraction, seed): the rows are those of `load(name).split(fraction, seed)`.
        fingerprint: Of these held-out rows (`Data.fingerprint`), so that it shows if a split has changed since.
        seed: Of initial weights, order and augmentation.
    """

    name: str
    classes: tuple[str, ...]
    channels: int
    sizes: tuple[int, int]
    features: int
    parameters: int
    accuracy: Mapping[int, float]
    balanced_accuracy: Mapping[int, float]
    trained: int
    held_out: int
    split: tuple[float, int]
    fingerprint: str
    seed: int

    def __str__(self) -> str:
        figures = ", ".join(f"{100 * v:.1f} % at {side}×{side}" for side, v in self.accuracy.items())
        return f"{self.name} ({self.features} features, {figures} on {self.held_out} held-out rows)"


@final
class FeatureExtractor:
    """A feature net in evaluation mode, without gradients, in chunks. `features` makes one.

    Args:
        net: A `rheos.nets.FeatureNet`, or any callable x → (N, ...).
        name: What figures call it.
        info: What is known of a net that was loaded.
        chunk: Rows a call.
    """

    def __init__(
        self, net: Callable[..., Any], name: str, info: FeatureNetInfo | None = None, chunk: int = 512
    ) -> None:
        if chunk < 1:
            raise OptionError(f"chunk must be at least 1, got {chunk}.")
        self.net, self.name, self.info, self.chunk = net, name, info, chunk

    def __repr__(self) -> str:
        return f"FeatureExtractor({self.info or self.name})"

    def features(self, x: Shaped[Tensor, "_n *_d"]) -> Float[Tensor, "_n2 _f"]:
        """Features (N, D), flattened, on the net's device.

        Args:
            x: Pictures (N, C, H, W). For a loaded net in [-1, 1]: what lies outside is clamped, as when shown.
                A callable of your own gets x as it is.

        Raises:
            ShapeError: Wrong channels, a size outside the trained ones, or a callable that loses rows.
            DataError: Integers or 0..255 for a loaded net.
            NonFiniteError: NaN or infinite numbers for a loaded net.
        """
        out = self._run(self.net.features if isinstance(self.net, FeatureNet) else self.net, x)
        return out.reshape(len(out), -1)

    def logits(self, x: Shaped[Tensor, "_n *_d"]) -> Float[Tensor, "_n2 _k"]:
        """Class logits (N, K).

        Raises:
            OptionError: For a callable of your own, which has features only.
        """
        if not isinstance(self.net, FeatureNet):
            raise OptionError(
                f"The feature net {self.name!r} has no classes, so nothing can be recognised by it. "
                f"Leave the labels out, or use one of the shipped nets: {', '.join(NAMES)}."
            )
        return self._run(self.net, x)

    def accuracy(self, x: Shaped[Tensor, "_n *_d"], label: Shaped[Tensor, " _n2"]) -> float:
        """Fraction of rows recognised as their label, in [0, 1]. Larger is better.

        It flatters blurred averages of a class, so report recall or coverage beside it.

        Raises:
            ConditionError: Labels that are not one a row, or not in 0..classes - 1.
            OptionError: For a callable of your own, which has no classes.
        """
        if label.shape != (len(x),) or label.is_floating_point():
            raise ConditionError(
                f"{len(x)} pictures need integer labels ({len(x)},), got {label.dtype} {tuple(label.shape)}."
            )
        logits = self.logits(x)
        if len(label) and not 0 <= int(label.min()) <= int(label.max()) < logits.shape[1]:
            raise ConditionError(
                f"Labels run from {int(label.min())} to {int(label.max())}, but the feature net {self.name!r} knows "
                f"classes 0 to {logits.shape[1] - 1}."
            )
        return float((logits.argmax(1) == label.to(logits.device)).double().mean())

    def _run(self, f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        if x.ndim == 0 or len(x) == 0:
            raise ShapeError(f"A feature net needs at least one row, got shape {tuple(x.shape)}.")
        if self.info is not None:
            _check_pictures(x, self.info)
        parts = []
        with torch.no_grad(), _evaluating(self.net) as device:
            for start in range(0, len(x), self.chunk):
                part = x[start : start + self.chunk].to(device)
                out = f(part if self.info is None else part.to(torch.float32).clamp(-1.0, 1.0))
                if not isinstance(out, Tensor) or out.ndim < 2 or len(out) != len(part):
                    came = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
                    raise ShapeError(f"The feature net {self.name!r} must map {len(part)} rows to (N, D), got {came}.")
                parts.append(out)
        return torch.cat(parts)


def features(
    source: str | Path | Callable[..., Any] | FeatureExtractor,
    name: str | None = None,
    chunk: int = 512,
    device: torch.device | str = "cpu",
) -> FeatureExtractor:
    """The feature net of that name, of that file, or of your own.

    Args:
        source: "digits" (8 px), "mnist5k" (16 to 32 px), "emoji" (16 to 32 px, colour); the path of a file that
            `save_feature_net` wrote; or any callable x → (N, D), say a network you trust for your pictures.
        name: What figures call it; by default the source's own name.
        chunk: Rows a call.
        device: Where a loaded net runs; a callable of your own stays where it is.

    Raises:
        UnknownOptionError: A name that is not among the shipped ones.
        CheckpointError: A file that is truncated, or no feature net.

    Example:
        >>> net = features("mnist5k")
        >>> net.features(torch.zeros(3, 1, 16, 16)).shape[0]
        3
        >>> features(lambda x: x.flatten(1), name="pixels").features(torch.zeros(3, 1, 2, 2)).shape
        torch.Size([3, 4])
    """
    if isinstance(source, FeatureExtractor):
        return source
    if isinstance(source, str | Path):
        if isinstance(source, Path) or source.endswith(".safetensors"):
            net, info = load_feature_net(Path(source))
        else:
            check_choice("feature net", source, NAMES)
            with as_file(files("rheos.metrics") / "weights" / f"{source}.safetensors") as path:
                net, info = load_feature_net(path)
        return FeatureExtractor(net.to(device), name or info.name, info, chunk)
    own: str = getattr(source, "__name__", type(source).__name__)
    return FeatureExtractor(source, name or own, None, chunk)


def load_feature_net(path: Path) -> tuple[FeatureNet, FeatureNetInfo]:
    """The net in evaluation mode, and what is known of it; no pickle is read.

    Raises:
        CheckpointError: A file that is missing, truncated, or no feature net.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if header.get("format") != _FORMAT:
            raise CheckpointError(f"{path} is no feature net of rheos: its header lacks {_FORMAT!r}.", path=path)
        net = FeatureNet(**json.loads(header["config"]))
        net.load_state_dict(weights)
        info = _info(json.loads(header["info"]))
    except FileNotFoundError:
        raise CheckpointError(
            f"There is no feature net at {path}. Known names: {', '.join(NAMES)}.", path=path
        ) from None
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, CheckpointError):
            raise
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path} cannot be read as a feature net: {reason}", path=path) from error
    return net.eval().requires_grad_(False), info


def save_feature_net(path: Path, net: FeatureNet, info: FeatureNetInfo) -> None:
    """Write weights, configuration and info as one safetensors file, under a temporary name first.

    Args:
        path: The file to write; an old one is replaced at once.
        net: A `rheos.nets.FeatureNet`.
        info: What to say beside its figures.
    """
    from safetensors.torch import save

    header = {"format": _FORMAT, "config": json.dumps(net.config), "info": json.dumps(asdict(info))}
    weights = {key: value.detach().cpu().contiguous() for key, value in net.state_dict().items()}
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(save(weights, header))
    temporary.replace(path)


def _info(plain: dict[str, Any]) -> FeatureNetInfo:
    for key in ("accuracy", "balanced_accuracy"):
        plain[key] = {int(side): value for side, value in plain[key].items()}
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}
    return FeatureNetInfo(**fields)


def _check_pictures(x: Tensor, info: FeatureNetInfo) -> None:
    low, high = info.sizes
    if x.ndim != 4 or x.shape[1] != info.channels or x.shape[2] != x.shape[3] or not low <= x.shape[2] <= high:
        sides = f"a side of {low}" if low == high else f"sides from {low} to {high}"
        raise ShapeError(
            f"The feature net {info.name!r} sees square pictures (N, {info.channels}, S, S) with {sides} pixels, got "
            f"{tuple(x.shape)}. Resize or recolour them, or pass a callable of your own as the feature net."
        )
    if not x.is_floating_point() or (float(x.min()) >= 0 and float(x.max()) > 3):
        raise DataError(
            f"The feature net {info.name!r} sees values in [-1, 1], got {x.dtype} up to {float(x.max()):g}. "
            "Rescale bytes with x / 127.5 - 1."
        )
    if not x.isfinite().all():
        raise NonFiniteError(
            f"{int((~x.flatten(1).isfinite().all(1)).sum())} of {len(x)} pictures hold NaN or infinite numbers."
        )


@contextmanager
def _evaluating(net: Callable[..., Any]) -> Iterator[torch.device | None]:
    """A module in evaluation mode, put back afterwards; gives the device of its parameters, if any."""
    if not isinstance(net, nn.Module):
        yield None
        return
    was_training = [m for m in net.modules() if m.training]
    net.eval()
    try:
        yield next((p.device for p in net.parameters()), None)
    finally:
        for module in was_training:
            module.training = True
