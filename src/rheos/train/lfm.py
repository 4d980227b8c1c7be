r"""Flow matching in latent space: a flow of an autoencoder's latents, which decodes what it draws.

$x_t = t z_1 + (1 - (1 - \sigma_{min}) t) x_0$ with $z_1$ a fresh sample of the frozen encoder's posterior in every
step; the loss is the mean of $\lVert v(x_t, t) - (z_1 - (1 - \sigma_{min}) x_0) \rVert^2$ over all elements. Guidance,
holes and semantic maps act in the latents; the decoder comes after the last step.

Reference: Flow Matching in Latent Space, Dao, Phung, Nguyen, Tran (2023), https://arxiv.org/abs/2307.08698
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast, final

import torch
from torch import Tensor, nn

from rheos.core.draws import Draws, row_seeds
from rheos.core.errors import ConditionError, OptionError
from rheos.core.field import Field
from rheos.core.paths import AffinePath, Kind
from rheos.core.schedules import Linear
from rheos.core.solver import Solver
from rheos.data.codecs import LatentCodec
from rheos.data.dataset import Column, Data
from rheos.data.holes import Holes, check_hole
from rheos.data.latents import encoded
from rheos.sample import DormandPrince, Solution, draw_solution
from rheos.train.concat import ConcatCondition, expand_in_conv
from rheos.train.latent_bound import W2Bound, latent_w2_bound
from rheos.train.run import Run

__all__ = [
    "SIGMA_MIN",
    "ConcatCondition",
    "LatentFlow",
    "W2Bound",
    "expand_in_conv",
    "hidden",
    "inpainting",
    "latent_field",
    "latent_w2_bound",
]

SIGMA_MIN = 1e-5
"""Noise that is left at t = 1, as in the paper."""


def latent_field(net: nn.Module, predicts: Kind = "velocity", sigma_min: float = SIGMA_MIN) -> Field:
    """A field on the paper's path.

    Args:
        net: Takes (x, t, **cond).
        predicts: What it predicts.
        sigma_min: Noise left at t = 1.
    """
    return Field(net, AffinePath(Linear(sigma_min)), predicts)


def hidden(pictures: Tensor, hole: Tensor, low: float = -1.0) -> Tensor:
    """Pictures with the hole in black.

    Args:
        pictures: (B, C, H, W).
        hole: (B, 1, H, W), 1 in the hole.
        low: What black is.

    Raises:
        ShapeError: If the hole has another shape.
        OptionError: If it holds other numbers than 0 and 1.
    """
    check_hole(hole, pictures)
    return torch.where(hole.to(pictures.device) == 1, low, pictures)


def inpainting(
    data: Data,
    codec: LatentCodec | None = None,
    *,
    holes: Holes | Callable[[int, int, int], Tensor] | None = None,
    each: int = 1,
    seed: int = 0,
    cache: str | None = None,
) -> Data:
    """A set whose batches carry `known` and `hole` for `ConcatCondition(known=channels)`.

    Args:
        data: Pictures, without flips: a hole does not turn with its picture. Its conditions stay.
        codec: Latents are learned, and what surrounds the hole is encoded; None: in pixels.
        holes: Strokes and boxes, or a function of (rows, height, width) that gives masks (B, 1, H, W); `Holes()`
            unless given.
        each: Rows made of each picture, each with a hole of its own.
        seed: Of the holes.
        cache: As in `encoded`.

    Raises:
        OptionError: For flips, or `each` below 1.

    Example:
        >>> from rheos.data import load
        >>> inpainting(load("digits", limit=8, conditions=[]), each=3)
        Data('digits': 24 × (1, 8, 8) uint8, 10 classes)
    """
    if data.flip:
        raise OptionError("Holes do not turn with their pictures: load the set with flip=False.")
    if each < 1:
        raise OptionError(f"each must be at least 1, got {each}.")
    height, width = data.shape[1:]
    index = torch.arange(len(data)).repeat_interleave(each)
    if callable(holes) and not isinstance(holes, Holes):
        hole = holes(len(index), height, width)
    else:
        hole = (holes or Holes())(Draws(row_seeds(seed, len(index))), height, width)
    rows = data if codec is None else encoded(data, codec, cache=cache)
    if codec is not None and rows.coded is not None:
        codec = cast(Any, rows.coded).codec  # with the scale, if it had none
    pieces = zip(torch.split(index, 256), torch.split(hole, 256), strict=True)
    known = torch.cat([_known(data, codec, i, m) for i, m in pieces])
    rows = rows.subset(index)
    columns: dict[str, Column] = {**rows.columns, "known": known, "hole": hole}
    carried = rows.conditions if rows.conditions is not None else ("label",) * (rows.classes > 0)
    return replace(rows, columns=columns, conditions=(*carried, "known", "hole"))


def _known(data: Data, codec: LatentCodec | None, index: Tensor, hole: Tensor) -> Tensor:
    low = (data.delivers or (-1.0, 1.0))[0]
    x = hidden(replace(data, conditions=()).batch(index).x, hole, low)
    with torch.no_grad():
        return x if codec is None else codec.encode(x)


@final
@dataclass(frozen=True, eq=False)
class LatentFlow:
    """A flow of latents together with its decoder.

    Args:
        field: The flow.
        codec: Of its latents.
        guided: Whether it was trained with dropped conditions, so that it can be guided.

    Raises:
        OptionError: If guidance is asked of a flow without a null branch.

    Example:
        >>> from rheos.data import Functions
        >>> from rheos.core import GaussianMixtureField
        >>> codec = LatentCodec(Functions(lambda x: x / 2, lambda z: 2 * z, name="half"), scale=1.0)
        >>> flow = LatentFlow(GaussianMixtureField(means=[[1.0, 0.0]], stds=[0.1]), codec)
        >>> flow.draw(200, steps=4, solver="heun").mean(0).round(decimals=1).abs()
        tensor([2., 0.])
    """

    field: Field
    codec: LatentCodec
    guided: bool = True

    @classmethod
    def of(cls, run: Run) -> "LatentFlow":
        """The flow of a run that was trained on latents.

        Raises:
            OptionError: If it was trained on the data themselves.
        """
        if run.codec is None:
            raise OptionError("This run flows in the data, not in latents: sample it with rheos.sample.draw.")
        return cls(run.field, run.codec, (run.config["objective"] or {}).get("dropout") != 0)

    def draw(
        self, n: int = 16, *, steps: int = 1, solver: Solver | str | None = None, guidance: float = 1.0, **options: Any
    ) -> Tensor:
        """Pictures: the flow from noise by an adaptive Dormand-Prince pair (1e-5), then the decoder.

        Args:
            n: How many.
            steps: Intervals; an adaptive solver makes as many steps in each as it needs.
            solver: A name or a `Solver` instead.
            guidance: Of the conditions against their null, on all channels.
            **options: As in `rheos.sample.draw`: seed, conditions, batch.

        Raises:
            OptionError: If guidance is asked of a flow that was trained without dropped conditions.
            ConditionError: If a label is the null label: leave the label out.
        """
        with torch.no_grad():
            return self.codec.decode(cast(Tensor, self.solution(n, steps, solver, guidance, **options).x))

    def solution(
        self, n: int, steps: int = 1, solver: Solver | str | None = None, guidance: float = 1.0, **options: Any
    ) -> Solution:
        """The latents of `draw`, with the count of network calls; rejected steps count."""
        if guidance != 1 and not self.guided:
            raise OptionError(
                f"guidance {guidance:g} needs a null branch, and this flow was trained without dropped conditions. "
                "Train it with FlowMatching(dropout=0.1)."
            )
        self._check_label(options.get("label"))
        own = solver if solver is not None else DormandPrince(rtol=1e-5, atol=1e-5)
        return draw_solution(self.field, n, steps=steps, solver=own, guidance=guidance, **options)

    def inpaint(self, pictures: Tensor, hole: Tensor, *, composite: bool = False, **options: Any) -> Tensor:
        """Pictures with their holes filled in.

        Args:
            pictures: (B, C, H, W) in the codec's range; what is in the hole does not matter.
            hole: (B, 1, H, W), 1 in the hole.
            composite: Put the known pixels back: the decoder alone only comes near them.
            **options: As in `draw`.

        Raises:
            ConditionError: If the network takes no hole.
        """
        if "hole" not in self.field.conditions:
            raise ConditionError("This network takes no hole: see rheos.train.lfm.ConcatCondition(known=...).")
        with torch.no_grad():
            known = self.codec.encode(hidden(pictures, hole, float(self.codec.delivers[0])))
        x = self.draw(len(pictures), known=known, hole=hole, **options)
        return torch.where(hole.to(x.device) == 1, x, pictures.to(x)) if composite else x

    def _check_label(self, label: object) -> None:
        classes = int((getattr(self.field.net, "config", None) or {}).get("classes", 0) or 0)
        if label is None or not classes:
            return
        if bool((torch.as_tensor(label) == classes).any()):
            raise ConditionError(
                f"label {classes} is the null label of {classes} classes. Leave the label out to draw without one."
            )
