r"""Masked completion: keep the known part of a sample, flow the rest.

"project" replaces the known part of the data estimate at every evaluation, so the flow sees where it is bound to
go; "replace" puts the known part on its own path, $\alpha_t y + \sigma_t \epsilon$, at every interval's end. Repeating
intervals (walk, noise back, walk again) lets the free part adapt to the known one.

Reference: RePaint, Lugmayr et al. (2022), algorithm 1; Score SDE, Song et al. (2021), appendix I.2.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from rheos.core.errors import OptionError, ShapeError, check_choice
from rheos.core.state import State, expand
from rheos.core.steer import Steer, View

__all__ = ["Completion"]


@final
@dataclass(frozen=True, eq=False)
class Completion(Steer):
    """Fill in what a mask hides.

    Args:
        known: (B, ...) data whose visible part is kept.
        mask: True (or 1) where `known` is visible; broadcasts against it.
        mode: "project" or "replace".
        repeats: How often each interval is walked, at least 1.
        last: Time after which intervals are walked once.

    Raises:
        ShapeError: If mask and known do not broadcast.
        OptionError: For repeats below 1, or a mask other than 0 and 1.
        UnknownOptionError: For an unknown mode.
    """

    known: Tensor
    mask: Tensor
    mode: str = "project"
    repeats: int = 1
    last: float = 0.9

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, ("project", "replace"))
        if self.repeats < 1:
            raise OptionError(f"repeats must be at least 1, got {self.repeats}.")
        if not isinstance(self.mask, Tensor):
            raise OptionError(f"mask must be a tensor, got {type(self.mask).__name__}. Use torch.as_tensor(mask).")
        try:
            mask = torch.broadcast_to(self.mask, self.known.shape)
        except RuntimeError as error:
            raise ShapeError(
                f"The mask {tuple(self.mask.shape)} does not broadcast to the data {tuple(self.known.shape)}. "
                "A mask without channels needs an axis for them: mask[:, None]."
            ) from error
        if not bool(((self.mask == 0) | (self.mask == 1)).all()):
            raise OptionError("A mask holds 0 (to fill in) and 1 (to keep), or booleans.")
        object.__setattr__(self, "mask", mask.to(torch.bool))
        object.__setattr__(self, "known", torch.where(self.mask, self.known, 0.0))  # holes may be NaN

    @property
    def numbers(self) -> dict[str, float | Tensor]:
        """The picture and the mask travel with the rows."""
        return {"known": self.known, "mask": self.mask}

    def _keep(self, view: View, x: State, known: Tensor) -> Tensor:
        return torch.where(view.own["mask"], known.to(x), x)  # type: ignore[arg-type]

    def rounds(self, view: View) -> int:
        """The same number everywhere, until `last`."""
        end = view.span[1]
        late = bool((end > self.last).all()) if isinstance(end, Tensor) else end > self.last  # type: ignore[operator]
        return 1 if late else self.repeats

    def clean(self, view: View, x1: State) -> State:
        """The data estimate with the known part put in."""
        return self._keep(view, x1, view.own["known"]) if self.mode == "project" else x1

    def state(self, view: View, start: State, end: State, velocity: State) -> State:
        """The known part on its own path."""
        if self.mode == "project":
            return end
        t = view.span[1]
        law = view.path.law  # type: ignore[attr-defined]
        known = view.own["known"].to(end)
        noise = view.draws.normal(known, "known")
        on_path = expand(law.alpha(t), known) * known + expand(law.sigma(t), known) * noise  # type: ignore[operator]
        return self._keep(view, end, on_path)

    def end(self, view: View, x: State) -> State:
        """The known part exactly."""
        return self._keep(view, x, view.own["known"])
