"""What the field can do by now: samples from noise that never changes, raw and averaged weights side by side."""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, cast, final

import torch
from torch import Tensor

from rheos.core.draws import Draws, row_seeds
from rheos.core.errors import NonFiniteError
from rheos.core.field import Field
from rheos.core.objectives import Objective
from rheos.data.dataset import Data
from rheos.sample.draw import draw_solution
from rheos.train.beginnings import Begins, given, looked_at
from rheos.train.options import Options

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Pictures"]

STEPS = 10


@final
class Pictures:
    """Draws `samples/step_000123.png`.

    Pictures become a grid, with labels in order where there are any; points in the plane become a scatter plot.
    Other data are not shown.

    Args:
        field: What is trained.
        objective: Its source, if it has one, gives the start of each sample; or it is one of `Begins`, which say
            themselves where states begin and what they show; `provides` has the values of conditions that are no
            columns of the data. Where nothing is sampled, its method `pictures(field, x)` shows rows of the data.
        data: Gives conditions, shape and range.
        options: Seed and count.
    """

    def __init__(self, field: Field, objective: Objective, data: Data, options: Options) -> None:
        self.field, self.data, self.seed = field, data, options.seed
        self.objective = objective
        self.pictures = getattr(objective, "pictures", None)
        grid = data.visible
        self.kind = "grid" if grid else "scatter" if data.shape == (2,) else None
        self.average = options.ema > 0
        self.columns = data.classes if 0 < data.classes <= 10 else 8
        count = options.sample_count if self.kind != "scatter" else max(options.sample_count, 512)
        whole = self.kind == "grid" and count >= self.columns
        self.count = count - count % self.columns if whole else count
        self._given = self._givens() if self.kind is not None else {}

    def _givens(self) -> dict[str, Any]:
        """Conditions, and start states where the source is not the usual one, of fixed rows of the data."""
        batch = self.data.batch(self._rows())
        device = next(self.field.parameters()).device
        cond = {name: v.to(device) for name, v in batch.cond.items()}
        draws = Draws(row_seeds(self.seed, self.count)).to(device)
        return given(self.objective, self.field, batch.x.to(device), cond, draws)

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

    @property
    def _way(self) -> tuple[int, str]:
        """Steps and solver: the field's own, where it has times of its own."""
        own = self.field.times
        return (STEPS, self.field.usual) if own is None else (len(own) - 1, "euler")

    def _samples(self) -> Tensor:
        if self.pictures is not None:
            with torch.no_grad():
                return cast(Tensor, self.pictures(self.field, self.data.batch(self._rows()).x.to(self.field.device)))
        if isinstance(self.objective, Begins):  # they may be learned
            self._given = self._givens()
        steps, solver = self._way
        solution = draw_solution(
            self.field, self.count, steps=steps, solver=solver, seed=self.seed, batch=256, **self._given
        )
        return looked_at(self.objective, self.field, solution.x)

    def png(self, shown: dict[str, Tensor], step: int) -> bytes:
        """The samples as one PNG."""
        from rheos.show import beside, figure_png, grid, png, scatter, upscale

        if self.kind == "scatter":
            clouds = {"data": self.data.batch(torch.arange(min(self.count, len(self.data)))).x, **shown}
            return figure_png(scatter(clouds))
        if self.pictures is not None:
            shown = {"data": self.data.batch(self._rows()).x, **shown}
        sheets: dict[str, Image] = {
            name: upscale(grid(self.data.to_pictures(x).cpu(), self.columns), 320) for name, x in shown.items()
        }
        steps, solver = self._way
        text = {"step": str(step), "seed": str(self.seed), "sampler": f"{solver}, {steps} steps"}
        if self.pictures is not None:
            del text["sampler"]
        return png(beside(sheets), text)
