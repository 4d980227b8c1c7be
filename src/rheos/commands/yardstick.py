"""What samples of a run are compared with: the rows that training held out, in the features that fit them."""

from collections.abc import Collection, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from rheos.metrics import FeatureExtractor, Retrieval
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

    def follows(self, x: "Tensor", index: "Tensor", names: Collection[str]) -> "Retrieval | None":
        """Whether samples find the real rows that they were asked to be like, in the same features as `measure`.

        Args:
            x: Samples.
            index: Of each, the row of `data` whose columns it was drawn for; a row's first sample counts.
            names: Those columns; rows that are equal in all of them stand for each other.

        Returns:
            None where fewer than two different conditions were asked for.
        """
        import torch

        from rheos.metrics import retrieval

        rows, place = torch.unique(index, return_inverse=True)
        first = torch.full((len(rows),), len(index)).scatter_reduce(0, place, torch.arange(len(index)), "amin")
        columns = [self.data.columns[name] for name in sorted(names)]
        same = _alike([c for c in columns if isinstance(c, torch.Tensor)], rows)
        if int(same.max()) == 0:
            return None
        seen = (lambda v: v.flatten(1)) if self.net is None else self.net.features
        return retrieval(seen(x[first.to(x.device)]), seen(self.real[rows]), same)

    def labels(self, index: "Tensor") -> "Tensor | None":
        """Classes of rows of `data`, where it has such."""
        import torch

        labels = self.data.columns.get("label")
        return labels[index] if isinstance(labels, torch.Tensor) else None

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
        index = index if len(index) else torch.arange(1)
        labels = self.train.columns.get("label")
        return self.measure(self.train.batch(index).x, labels[index] if isinstance(labels, torch.Tensor) else None)


def _alike(columns: "Sequence[Tensor]", rows: "Tensor") -> "Tensor":
    """Numbers from 0 on, equal for rows that are equal in all columns; a digest a row, for tokens may be large."""
    import torch

    seen: dict[bytes, int] = {}
    same = []
    for k in rows.tolist():
        digest = blake2b(digest_size=16)
        for column in columns:
            digest.update(column[k].cpu().contiguous().numpy().tobytes())
        same.append(seen.setdefault(digest.digest(), len(seen)))
    return torch.tensor(same)
