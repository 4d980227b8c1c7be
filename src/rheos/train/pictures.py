"""What the field can do by now: samples from noise that never changes, raw and averaged weights side by side."""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from rheos.core.base import Source
from rheos.core.draws import Draws, row_seeds
from rheos.core.errors import NonFiniteError
from rheos.core.field import Field
from rheos.core.objectives import Objective
from rheos.core.sources import Gaussian
from rheos.data.dataset import Data
from rheos.sample.draw import draw_solution
from rheos.train.options import Options

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Pictures"]

STEPS, SOLVER = 10, "heun"


@final
class Pictures:
    """Draws `samples/step_000123.png`.

    Pictures become a grid, with labels in order where there are any; points in the plane become a scatter plot.
    Other data are not shown.

    Args:
        field: What is trained.
        objective: Its source, if it has one, gives the start of each sample.
        data: Gives conditions, shape and range.
        options: Seed and count.
    """

    def __init__(self, field: Field, objective: Objective, data: Data, options: Options) -> None:
        self.field, self.data, self.seed = field, data, options.seed
        grid = data.x.ndim == 4 and data.shape[0] in (1, 3) and data.delivers is not None
        self.kind = "grid" if grid else "scatter" if data.shape == (2,) else None
        self.average = options.ema > 0
        self.columns = data.classes if 0 < data.classes <= 10 else 8
        count = options.sample_count if self.kind != "scatter" else max(options.sample_count, 512)
        whole = self.kind == "grid" and count >= self.columns
        self.count = count - count % self.columns if whole else count
        self._given = self._givens(objective) if self.kind is not None else {}

    def _givens(self, objective: Objective) -> dict[str, Any]:
        """Conditions, and start states where the source is not the usual one, of fixed rows of the data."""
        batch = self.data.batch(self._rows())
        device = next(self.field.parameters()).device
        cond = {name: v.to(device) for name, v in batch.cond.items()}
        source = getattr(objective, "source", None)
        if not isinstance(source, Source) or source == Gaussian():
            return cond
        draws = Draws(row_seeds(self.seed, self.count)).to(device)
        start = source(batch.x.to(device), cond, draws.fold("source"))
        return {"source": start, **{n: v for n, v in cond.items() if n not in objective.consumes}}

    def _rows(self) -> Tensor:
        """Rows whose labels go through the classes in order, again and again; else the first rows."""
        index = torch.arange(self.count)
        labels = self.data.columns.get("label")
        if not isinstance(labels, Tensor):
            return index % len(self.data)
        members = [rows for k in range(self.data.classes) if len(rows := (labels.cpu() == k).nonzero()[:, 0])]
        pick = [members[i % len(members)] for i in range(self.count)]
        return torch.stack([rows[i // len(members) % len(rows)] for i, rows in enumerate(pick)])

    def draw(self, step: int, weights: Callable[[bool], AbstractContextManager[None]]) -> dict[str, Tensor] | None:
        """Draw the samples; a field that gives NaN is warned of, not fatal, and gives None.

        Args:
            step: Completed steps.
            weights: The raw (False) or averaged (True) weights, as a with-block.
        """
        shown: dict[str, Tensor] = {}
        for name in ("raw", "average") if self.average else ("raw",):
            with weights(name == "average"):
                try:
                    shown[name] = self._samples()
                except NonFiniteError as error:
                    warnings.warn(f"No picture after step {step}: {error}", RuntimeWarning, stacklevel=2)
                    return None
        return shown

    def _samples(self) -> Tensor:
        solution = draw_solution(
            self.field, self.count, steps=STEPS, solver=SOLVER, seed=self.seed, batch=256, **self._given
        )
        assert isinstance(solution.x, Tensor)
        return solution.x

    def png(self, shown: dict[str, Tensor], step: int) -> bytes:
        """The samples as one PNG."""
        from rheos.show import beside, figure_png, grid, png, scatter, upscale

        if self.kind == "scatter":
            clouds = {"data": self.data.batch(torch.arange(min(self.count, len(self.data)))).x, **shown}
            return figure_png(scatter(clouds))
        sheets: dict[str, Image] = {
            name: upscale(grid(self.data.to_pictures(x).cpu(), self.columns), 320) for name, x in shown.items()
        }
        text = {"step": str(step), "seed": str(self.seed), "sampler": f"{SOLVER}, {STEPS} steps"}
        return png(beside(sheets), text)
