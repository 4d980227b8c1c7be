"""Complete descriptions of trainings for `rheos train --config`: small ones for your data, and the paper's."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, final

from torch import Tensor

from rheos.core import config
from rheos.core.errors import ConditionError, DataError, check_choice
from rheos.core.field import Field
from rheos.data.dataset import Data
from rheos.data.palette import NONE, count_classes
from rheos.metrics.features import held_out_split
from rheos.nets import MLP, UNet
from rheos.train.codes import OneHotCode, PaletteCode, ScalarCode
from rheos.train.options import Options
from rheos.train.pairnet import PairNet, pair_field
from rheos.train.semantics import WordCodec
from rheos.train.symmflow import SymmFlow

__all__ = ["PAPER", "Paper", "pair_for", "recipe"]


@final
@dataclass(frozen=True)
class Paper:
    """One of the paper's trainings, as far as it is published.

    Args:
        code: "palette" or "scalar", with its beta (and grid).
        options: Learning rate, batch over all GPUs, average.
        image_weight: w.
        width: Of the U-Net. For masks the paper begins with Stable Diffusion's, which a file cannot hold: build that in
            Python with `symmflow.doubled`; here it is a small one.
        epochs: In all.
        warmup: Epochs of rising learning rate.
    """

    code: Mapping[str, Any]
    options: Options
    image_weight: float
    width: int
    epochs: int
    warmup: int


PAPER: Mapping[str, Paper] = {
    "celebamask": Paper({"beta": 10.0}, Options(batch=64, lr=8e-5, precision="bf16", ema=0.9), 0.7, 64, 200, 10),
    "coco": Paper(
        {"beta": 6.0, "grid": (6, 50)}, Options(batch=128, lr=8e-5, precision="bf16", ema=0.9), 0.7, 64, 200, 10
    ),
    "mnist": Paper({"beta": 4.0}, Options(batch=512, lr=5e-4), 0.5, 32, 1000, 100),
    "cifar10": Paper({"beta": 4.0}, Options(batch=180, lr=3e-4), 0.5, 256, 1000, 100),
}
"""By data set."""


def recipe(
    data: Data,
    *,
    codec: WordCodec | None = None,
    column: str | None = None,
    like: str | None = None,
    steps: int = 4000,
) -> dict[str, Any]:
    """A training on your data as plain values: write it as JSON, change it, give it to `rheos train --config`.

    Args:
        data: With a column "mask" (see `load(..., masks=)`) or with labels.
        codec: One-hot codes unless given.
        column: "mask" where there is one, else "label", unless given.
        like: A name of `PAPER`: its code, weight, learning rate, batch, average and number of steps.
        steps: Optimiser steps, where `like` does not say.

    Raises:
        ConditionError: If the data have neither masks nor labels.
        DataError: If the data cannot be read again from a description.

    Example:
        >>> from rheos.data import load
        >>> made = recipe(load("digits"))
        >>> made["objective"]["column"], made["field"]["net"]["codec"]["classes"]
        ('label', 10)
    """
    column = column or ("mask" if "mask" in data.columns else "label")
    _column(data, column)
    if data.spec["source"] is None:
        raise DataError("These data were made in memory: keep them with rheos.data.save, and load that file.")
    options, weight, width = Options(), 0.5, 32
    if like is not None:
        check_choice("like", like, PAPER)
        paper = PAPER[like]
        epoch = max(1, len(data) // paper.options.batch)
        steps, weight, width = paper.epochs * epoch, paper.image_weight, paper.width
        options = replace(paper.options, warmup=paper.warmup * epoch)
    code = PAPER[like].code if like else None
    spec = replace(data, conditions=(column,)).spec
    return {
        "data": {**spec, "split": spec.get("split") or held_out_split(spec["source"])},
        "field": config.dump(pair_for(data, column, codec, width=width, code=code)),
        "objective": config.dump(SymmFlow(column=column, image_weight=weight)),
        "options": config.dump(options),
        "steps": steps,
    }


def pair_for(
    data: Data,
    column: str,
    codec: WordCodec | None = None,
    *,
    width: int = 32,
    code: Mapping[str, Any] | None = None,
) -> Field:
    """A field for data: where to begin, not where to end.

    Args:
        data: With labels or masks.
        column: Their name.
        codec: One-hot codes unless given.
        width: Of a U-Net.
        code: Options of the paper's code, for its network and its codec; None for a small network.

    Masks that are larger than the pictures' side of the state, as beside latents, keep their size.

    Raises:
        ConditionError: If there is no such column.
    """
    values = _column(data, column)
    codec = codec or _codec(data, column, values, code)
    if codec.form == "mask" and codec.size is None and tuple(values.shape[1:]) != data.shape[1:]:
        codec = replace(codec, size=(values.shape[1], values.shape[2]))
    return pair_field(_net(data, codec, width, code is not None), codec)


def _column(data: Data, column: str) -> Tensor:
    values = data.columns.get(column)
    if not isinstance(values, Tensor):
        raise ConditionError(f"The data have no column {column!r}. Load a folder with masks=, or one with subfolders.")
    return values


def _codec(data: Data, column: str, values: Tensor, code: Mapping[str, Any] | None) -> WordCodec:
    masks = values.ndim == 3
    counted = {"label": data.classes, "mask": data.mask_classes}.get(column, 0)  # of the whole set, not of a part
    classes = max(2, counted or (count_classes(values) if masks else int(values.max()) + 1))
    ignore = NONE if masks and classes <= NONE else None
    if code is None:
        return OneHotCode(classes, "mask" if masks else "vector", ignore=ignore)
    if masks:
        return PaletteCode(classes, "mask", ignore=ignore, **code)
    return ScalarCode(classes, "map", **code)


def _net(data: Data, codec: WordCodec, width: int, paper: bool) -> PairNet:
    if len(data.shape) == 1:
        return PairNet(MLP(data.shape[0] + codec.channels, 256, 3, "silu", residual=True, time_features=64), codec)
    channels, more = data.shape[0] + codec.channels, _fitted(data, codec)
    if paper:
        level = [k for k in range(4) if data.shape[1] // 2**k == 16]
        net = UNet(channels, width=width, multipliers=(1, 2, 2, 2), blocks=2, attention=level)
        return PairNet(net, codec, **more)
    levels = 1
    while levels < 4 and not any(side % 2**levels or side // 2**levels < 4 for side in data.shape[1:]):
        levels += 1
    return PairNet(UNet(channels, width=width, multipliers=(1, 2, 4, 4)[:levels]), codec, **more)


def _fitted(data: Data, codec: WordCodec) -> dict[str, Any]:
    """Options for codes of another size than the pictures, such as masks beside latents.

    The network works at the pictures' size and cannot pass a code's own noise on, so the code is added to its part.
    """
    if codec.size is None or tuple(codec.size) == data.shape[1:]:
        return {}
    return {"adapter": "resize", "copies": True}
