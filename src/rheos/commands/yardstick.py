"""What samples of a run are compared with: the rows that training held out, in the features that fit them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from rheos.metrics import FeatureExtractor
    from rheos.train import Run

__all__ = ["Yardstick"]


class Yardstick:
    """What samples of a run are compared with, and how."""

    def __init__(self, run: "Run") -> None:
        import torch

        from rheos.metrics import features
        from rheos.metrics.features import NAMES

        source = run.origin["source"]
        self.train = run.real()  # latents are judged by their pictures
        rest = run.held_out(coded=False)
        self.fair = rest is not None
        self.data = rest if rest is not None else self.train
        self.real = self.data.batch(torch.arange(len(self.data))).x
        known = source in NAMES and len(self.train.shape) == 3
        net = features(source) if known else None
        low, high = net.info.sizes if net is not None and net.info is not None else (1, 0)
        self.net: FeatureExtractor | None = net if low <= self.train.shape[-1] <= high else None
        self.name = self.net.name if self.net is not None else None

    def measure(self, x: "Tensor", labels: "Tensor | None") -> dict[str, Any]:
        """Figures of samples."""
        from rheos.metrics import quality, sliced_wasserstein

        figures: dict[str, Any] = {"sliced_wasserstein": sliced_wasserstein(x, self.real)}
        if self.net is None:
            return figures
        label = labels if self.data.classes == (len(self.net.info.classes) if self.net.info else 0) else None
        return figures | quality(x, self.real, self.net, label=label, groups=min(20, len(x), len(self.real))).to_dict()

    def trained(self) -> "Yardstick":
        """With the rows of the training set in place of the held-out ones."""
        import copy

        import torch

        same = copy.copy(self)
        same.data, same.fair = self.train, False
        same.real = self.train.batch(torch.arange(len(self.train))).x
        return same

    def part(self, which: int) -> "Yardstick":
        """With every other real row only, the first ones or the second ones."""
        import copy

        half = copy.copy(self)
        half.real = self.real[which::2]
        return half

    def floor(self, n: int) -> dict[str, Any]:
        """Figures of rows of the training set."""
        import torch

        from rheos.core.draws import Draws

        index = Draws.training(1, 0, len(self.train)).permutation("floor")[: min(n, len(self.train))]
        batch = self.train.batch(index if len(index) else torch.arange(1))
        return self.measure(batch.x, batch.cond.get("label"))
