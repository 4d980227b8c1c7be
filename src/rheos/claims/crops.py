"""Crops of six photographs for the claim `lfm`: trained on the left of each, tested on the right."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rheos.core.draws import Draws, row_seeds
from rheos.core.errors import missing_extra
from rheos.data import Data

__all__ = ["PHOTOGRAPHS", "PrincipalComponents", "crops", "random_features"]

PHOTOGRAPHS = (
    ("sklearn", "datasets/images/china.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
    ("skimage", "data/astronaut.png"),
    ("skimage", "data/coffee.png"),
    ("skimage", "data/chelsea.png"),
    ("skimage", "data/rocket.jpg"),
)
TRAIN = 0.8


def crops(count: int, part: str, size: int = 16) -> Data:
    """Random crops of pictures that were halved by averaging.

    Args:
        count: How many; crop i is a function of i and the part alone.
        part: "train" takes the left four fifths of each picture, "test" the rest.
        size: Side of a crop.
    """
    pictures = [_picture(module, path) for module, path in PHOTOGRAPHS]
    sides = [_side(picture, part) for picture in pictures]
    place = Draws(row_seeds(0, count)).fold("crops", part).uniform("place", shape=(3,))
    which = (place[:, 0] * len(sides)).long()
    steps = torch.arange(size)
    x = torch.empty(count, 3, size, size, dtype=torch.uint8)
    for i, side in enumerate(sides):
        rows = (which == i).nonzero()[:, 0]
        height, width = side.shape[1:]
        top = (place[rows, 1] * (height - size + 1)).long()[:, None, None] + steps[:, None]
        left = (place[rows, 2] * (width - size + 1)).long()[:, None, None] + steps
        x[rows] = side[:, top, left].movedim(0, 1)
    return Data(x)


def _picture(module: str, path: str) -> Tensor:
    """(3, H/2, W/2) uint8."""
    from PIL import Image

    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise missing_extra("The claim 'lfm'", {"skimage": "scikit-image", "sklearn": "scikit-learn"}[module], "data")
    with Image.open(Path(spec.origin).parent / path) as picture:
        halved = picture.convert("RGB").reduce(2)
    return torch.from_numpy(np.array(halved)).permute(2, 0, 1)


def _side(picture: Tensor, part: str) -> Tensor:
    border = int(TRAIN * picture.shape[2])
    return picture[:, :, :border] if part == "train" else picture[:, :, border:]


class PrincipalComponents:
    """The leading components of some pictures' numbers, as features of others.

    Args:
        x: Pictures (N, ...).
        count: Components.
    """

    def __init__(self, x: Tensor, count: int = 64) -> None:
        flat = x.double().flatten(1)
        self.mean = flat.mean(0)
        self.directions = torch.linalg.eigh(torch.cov(flat.T)).eigenvectors[:, -count:]

    def __call__(self, x: Tensor) -> Tensor:
        """(N, count) float64."""
        found: Tensor = (x.double().flatten(1) - self.mean) @ self.directions
        return found


def random_features(x: Tensor, seed: int = 0) -> Tensor:
    """64 features of three random convolutions with ReLU, averaged over the picture: textures and edges, untrained."""
    with torch.random.fork_rng([]), torch.no_grad():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(64, 64, 3, stride=2, padding=1), nn.ReLU(),
        )  # fmt: skip
        for layer in net:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
        out: Tensor = net(x.float()).mean((2, 3)).double()
    return out
