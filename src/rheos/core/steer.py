"""What guidance and editing methods owe the sampling loop: a few optional hooks around one step.

Several steers form an onion: `branches` expand inwards (the network is asked several things at once),
`velocity` folds outwards. A steer keeps no state of its own; what it must remember lives in `view.own`, plain
data a row, so that requests with different scales can share a network call.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from rheos.core.base import Cond
from rheos.core.draws import Draws
from rheos.core.errors import OptionError
from rheos.core.paths import Kind, Path, Time
from rheos.core.query import Name
from rheos.core.state import State, add, split, tensors

__all__ = ["HOOKS", "Branch", "Steer", "View"]

HOOKS = ("begin", "rounds", "branches", "velocity", "clean", "lead", "state", "end")


class Branch(NamedTuple):
    """One of the things asked of the network at once.

    Args:
        x: State, rows first.
        cond: Conditions of the same rows.
    """

    x: State
    cond: Cond


class View:
    """What a hook sees of the trajectory.

    Attributes:
        x: The state that the network is (or was) asked at.
        t: Its time.
        span: The interval being stepped over.
        i: Index of the interval; an integer, or int64 (B,) for joined requests.
        n: Number of intervals, likewise.
        round: Which repeat of the interval this is.
        cond: Conditions, rows first.
        kind: What the values passed to `velocity` are.
        path: The path of the field.
        null: From conditions to their null values.
        draws: Keyed noise, a stream a row.
        own: This steer's numbers and memory: assign to it to remember.
        asked: What the network was asked at, all branches one after another; differentiable where a steer wants it.
        sizes: Rows of each branch.
    """

    __slots__ = (
        "asked", "cond", "draws", "i", "kind", "n", "null", "own", "path", "round", "sizes", "span", "t", "x",
    )  # fmt: skip

    x: State
    t: Time
    span: tuple[Time, Time]
    i: int | Tensor
    n: int | Tensor
    round: int
    cond: Cond
    kind: Kind
    path: Path
    null: Callable[[Cond], Cond]
    draws: Draws
    own: dict[str, Any]
    asked: State
    sizes: tuple[int, ...]

    def convert(self, value: State, src: Kind, dst: Kind) -> State:
        """Between kinds of prediction at (x, t)."""
        return self.path.convert(value, self.x, self.t, src, dst)

    def gradient(self, value: Tensor) -> State:
        """The gradient in x of a number formed from `clean`'s x1, through the network and all of its branches.

        Args:
            value: A scalar; for a batch, the sum of one number a row.

        Raises:
            OptionError: If the steer does not declare `differentiates`.
        """
        leaves = tensors(self.asked)
        if not value.requires_grad or not all(v.requires_grad for v in leaves):
            raise OptionError("To differentiate through the network a steer declares `differentiates = True`.")
        found = torch.autograd.grad(value, leaves, retain_graph=True)
        whole: State = found[0] if isinstance(self.asked, Tensor) else dict(zip(self.asked, found, strict=True))
        first, *rest = split(whole, self.sizes)
        for part in rest:
            first = add(first, 1.0, part)
        return first


class Steer:
    """Optional hooks around one step; override the ones you need."""

    kind: ClassVar[Kind | None] = None
    """The kind of prediction that `velocity` wants; None: any, for hooks that are affine in it."""
    differentiates: ClassVar[bool] = False
    """Whether `clean` differentiates through the network, so that queries must carry gradients."""
    gaussian: ClassVar[bool] = False
    """Whether it needs a score, and so a source N(0, I) independent of the data."""
    steady: ClassVar[bool] = False
    """Whether it compares estimates of different steps, so that guidance must be the same in all of them."""
    fields: ClassVar[tuple[str, ...]] = ()
    """Names that a `Routed` field must answer to."""

    @property
    def numbers(self) -> dict[str, float | Tensor]:
        """Numbers that may differ between joined requests; found again in `view.own`."""
        return {}

    def begin(self, view: View) -> None:
        """Before the first step; fill `view.own`."""

    def rounds(self, view: View) -> int:
        """How often the coming interval is walked; after each but the last the state is noised back."""
        return 1

    def branches(self, view: View, branches: dict[Name, Branch]) -> dict[Name, Branch]:
        """Replace each branch by those it needs, named by longer names."""
        return branches

    def velocity(self, view: View, values: dict[Name, State]) -> dict[Name, State]:
        """Fold the values of the own branches back into one a name."""
        return values

    def clean(self, view: View, x1: State) -> State:
        """Change the data estimate."""
        return x1

    def lead(self, view: View, value: State) -> State:
        """Replace the network's value in the leading term of the step only; its differences stay."""
        return value

    def state(self, view: View, start: State, end: State, velocity: State) -> State:
        """Change the state at the end of an accepted interval, seen with its start and last network value."""
        return end

    def end(self, view: View, x: State) -> State:
        """Change the finished sample."""
        return x
