"""What a field of symmetrical flow matching can do: generate from labels, read labels off pictures, edit.

Forwards in t pictures come from noise, backwards labels do; an end that was trained without noise (`SymmFlow.noise`)
begins at zero. Every random number is keyed by its row's seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast, final

import torch
from torch import Tensor
from torch.nn import functional

from rheos.core.draws import Draws, row_seeds
from rheos.core.errors import ConditionError, OptionError, ShapeError
from rheos.core.field import Field
from rheos.core.paths import AffinePath, JointPath, Kind
from rheos.core.query import Name
from rheos.core.schedule import Schedule
from rheos.core.solver import Solver
from rheos.core.state import State, affine
from rheos.core.steer import Steer, View
from rheos.sample.draw import grid_for
from rheos.sample.guidance import CFG
from rheos.sample.solution import solve
from rheos.train.pairnet import IMAGE, SEMANTICS, pair_net

__all__ = ["Hold", "Reading", "begin", "edit", "generate", "label", "read"]

STEPS = 25


@final
@dataclass(frozen=True)
class Reading:
    """Labels read off pictures, and how sure they are.

    Args:
        labels: int64 (B,), or masks (B, H, W): of the mean code over all draws.
        code: The mean code.
        scores: (B, K, ...) of the mean code: larger is likelier.
        spread: Standard deviation of the code between draws, root mean square over its channels: (B,), or (B, H, W);
            zero with one draw.
        agreement: Share of the draws that say what `labels` says, of the same shape.
    """

    labels: Tensor
    code: Tensor
    scores: Tensor
    spread: Tensor
    agreement: Tensor


def _walk(
    field: Field,
    start: dict[str, Tensor],
    steps: int | Sequence[float],
    solver: Solver | str,
    backwards: bool,
    seed: Tensor,
    steers: Sequence[Steer] = (),
) -> dict[str, Tensor]:
    if any(isinstance(s, CFG) for s in steers):
        raise OptionError(
            "Guidance needs an unconditional branch, and there is none: the label is a part of the state that flows, "
            "not a condition that could be left out. Leave CFG out."
        )
    times = grid_for(field, steps)
    if backwards == (times[0] < times[-1]):
        times = times[::-1]
    mode = field.training
    field.eval()
    try:
        return cast(dict[str, Tensor], solve(field, start, times, solver, steers=steers, seed=seed).x)
    finally:
        field.train(mode)


def _shape(field: Field, shape: tuple[int, ...] | None) -> tuple[int, ...]:
    found = shape or field.shape
    if found is None:
        raise OptionError("This field does not know the shape of its pictures. Give it: shape=(3, 32, 32).")
    return tuple(found)


def begin(
    field: Field, labels: Tensor, shape: tuple[int, ...], draws: Draws, temperature: float = 1.0
) -> dict[str, Tensor]:
    """States at t = 0 of labels or masks: noise for the picture, and the code.

    Args:
        field: Of a `PairNet`.
        labels: (B,), or masks (B, H, W).
        shape: Of one picture.
        draws: One stream a row.
        temperature: What the picture's noise is multiplied by, and the code's too where it is below 1: with more noise
            codes could be mistaken.
    """
    net, draws, labels = pair_net(field), draws.fold("generate"), labels.to(field.device)
    code = net.codec.encode(labels, shape, draws).to(field.dtype)
    if temperature < 1.0:
        code = torch.lerp(net.codec.encode(labels, shape).to(code), code, temperature)
    like = torch.zeros(len(labels), *shape, dtype=field.dtype, device=field.device)
    if net.autoencoder is not None:
        like = net.encode(like[:1]).expand(len(labels), *[-1] * (like.ndim - 1))
    noise = net.normal(like, IMAGE, draws, IMAGE)
    return {IMAGE: noise if temperature == 1.0 else temperature * noise, SEMANTICS: code}


@torch.no_grad()
def generate(
    field: Field,
    labels: Tensor,
    *,
    steps: int | Sequence[float] = STEPS,
    solver: Solver | str = "euler",
    seed: int | Sequence[int] | Tensor = 0,
    steers: Sequence[Steer] = (),
    shape: tuple[int, ...] | None = None,
) -> Tensor:
    """Pictures of labels, or of masks: forwards from (noise, code).

    Args:
        field: Of a `PairNet`.
        labels: (B,), or masks (B, H, W).
        steps: Of a uniform grid, or explicit times.
        solver: A name, or a `Solver`; methods that need a score are refused.
        seed: One integer for all, or one a row.
        steers: Hooks of the loop; guidance is refused, because there is no unconditional branch.
        shape: Of one picture, where the field does not know it.

    Raises:
        ConditionError: For labels outside 0 .. K - 1.
        SourceNotGaussianError: For a solver that needs a score: semantics at t = 0 are no noise.
        OptionError: For guidance, or a field of another kind.
    """
    net, picture = pair_net(field), _shape(field, shape)
    labels = torch.as_tensor(labels, device=field.device)
    seeds = row_seeds(seed, len(labels))
    start = begin(field, labels, picture, Draws(seeds.to(field.device)))
    return net.decode(_walk(field, start, steps, solver, False, seeds, steers)[IMAGE])


@torch.no_grad()
def read(
    field: Field,
    x: Tensor,
    *,
    steps: int | Sequence[float] = 1,
    draws: int = 1,
    solver: Solver | str = "euler",
    seed: int | Sequence[int] | Tensor = 0,
) -> Reading:
    r"""Labels or masks of pictures: backwards from (picture, noise).

    With one step this is $\hat y = \xi_y - v_y(x, \xi_y, 1)$, the regression of y on the picture. Several draws of
    $\xi_y$ are an ensemble: its mean is decoded, and its spread says how sure the reading is.

    Args:
        field: Of a `PairNet`.
        x: (B, ...) pictures in the field's range.
        steps: Of a uniform grid; the paper uses one, and 25.
        draws: Of noise, at least 1.
        solver: A name, or a `Solver`.
        seed: One integer for all, or one a row.

    Raises:
        OptionError: If draws is below 1, or the field is of another kind.
        ShapeError: If the pictures have not the field's shape.
    """
    if draws < 1:
        raise OptionError(f"draws must be at least 1, got {draws}.")
    net, seeds = pair_net(field), row_seeds(seed, len(x))
    x = _checked(field, x)
    image = net.encode(x)
    keys = Draws(seeds.to(field.device)).fold("read")
    like = torch.empty(len(x), *net.codec.shape(tuple(x.shape[1:])), dtype=x.dtype, device=x.device)
    starts = ({IMAGE: image, SEMANTICS: net.normal(like, SEMANTICS, keys, k)} for k in range(draws))
    codes = [_walk(field, start, steps, solver, True, seeds)[SEMANTICS] for start in starts]
    total = torch.stack(codes)
    mean = total.mean(0)
    scores = net.codec.scores(mean)
    labels = scores.argmax(1)
    agreement = torch.stack([net.codec.decode(code) == labels for code in codes]).double().mean(0)
    spread = total.var(0, correction=0).mean(1).sqrt()
    if spread.ndim > labels.ndim:  # a map that is read as one label
        spread = spread.square().flatten(1).mean(1).sqrt()
    return Reading(labels, mean, scores, spread, agreement)


def label(
    field: Field,
    x: Tensor,
    *,
    steps: int | Sequence[float] = 1,
    draws: int = 1,
    solver: Solver | str = "euler",
    seed: int | Sequence[int] | Tensor = 0,
) -> Tensor:
    """int64 labels (B,) or masks (B, H, W) of pictures: the labels of `read`, with its arguments."""
    return read(field, x, steps=steps, draws=draws, solver=solver, seed=seed).labels


def _checked(field: Field, x: Tensor) -> Tensor:
    if field.shape is not None and tuple(x.shape[1:]) != field.shape:
        raise ShapeError(f"x has rows of shape {tuple(x.shape[1:])}, the field's pictures {field.shape}.")
    return x.to(device=field.device, dtype=field.dtype)


@torch.no_grad()
def edit(
    field: Field,
    x: Tensor,
    masks: Tensor,
    *,
    region: Tensor | None = None,
    dilate: int = 1,
    steps: int | Sequence[float] = STEPS,
    solver: Solver | str = "euler",
    seed: int | Sequence[int] | Tensor = 0,
) -> Tensor:
    """Pictures changed to new masks where these differ, and left alone elsewhere.

    The picture is carried back to its noise; inside the region it gets new noise, and flows forwards with the new mask
    while the rest is held on its own path to the original.

    Args:
        field: Of a `PairNet`.
        x: (B, C, H, W) pictures in the field's range.
        masks: The wanted masks (B, H, W); or labels (B,), with a region.
        region: (B, H, W) or (H, W), true where the picture may change; where the masks differ from what `label` reads,
            unless given.
        dilate: Pixels by which the region grows, so that new and old may meet.
        steps: Of a uniform grid, there and back.
        solver: A name, or a `Solver`.
        seed: One integer for all, or one a row.

    Returns:
        (B, C, H, W): outside of the grown region within sigma_min of the originals.

    Raises:
        ConditionError: If no region is given and the labels are no masks.
        ShapeError: If x are no pictures of the field's shape, or the region does not fit.
        OptionError: For a negative dilate, or a picture's side that flows in latents.
    """
    net, x = pair_net(field), _checked(field, x)
    if net.autoencoder is not None:
        raise OptionError("Editing holds pixels, so the picture's side must not flow in latents.")
    if x.ndim != 4:
        raise ShapeError(f"Editing needs pictures (B, C, H, W), got {tuple(x.shape)}.")
    seeds = row_seeds(seed, len(x))
    masks = torch.as_tensor(masks, device=x.device)
    if region is None:
        if masks.ndim != 3:
            raise ConditionError("Labels do not say where to edit. Give region=, true where the picture may change.")
        region = label(field, x, seed=seed) != masks
    inside = _grown(region.to(x.device), dilate, x)
    keys = Draws(seeds.to(field.device)).fold("edit")
    code = net.codec.encode(masks, tuple(x.shape[1:]), keys).to(x)
    back = _walk(field, {IMAGE: x, SEMANTICS: net.normal(code, SEMANTICS, keys, "y")}, steps, solver, True, seeds)
    old = back[IMAGE]
    fresh = net.normal(x, IMAGE, keys, "x")
    start = {IMAGE: torch.where(inside, fresh, old), SEMANTICS: code}
    return _walk(field, start, steps, solver, False, seeds, (Hold(x, old, inside),))[IMAGE]


def _grown(region: Tensor, dilate: int, x: Tensor) -> Tensor:
    """(B, 1, H, W): the region and what lies within `dilate` pixels of it."""
    if isinstance(dilate, bool) or dilate < 0:
        raise OptionError(f"dilate must be 0 or more pixels, got {dilate}.")
    region = region.expand(len(x), *region.shape) if region.ndim == 2 else region
    if region.ndim != 3 or tuple(region.shape) != (len(x), *x.shape[2:]):
        raise ShapeError(f"The region has the shape {(len(x), *x.shape[2:])}, got {tuple(region.shape)}.")
    grown = functional.max_pool2d(region[:, None].to(x.dtype), 2 * dilate + 1, 1, dilate)
    return grown > 0.5


@final
@dataclass(frozen=True, eq=False)
class Hold(Steer):
    r"""Keep the picture outside a region on its own path, $\alpha_t x + \sigma_t \xi$, at every evaluation.

    Args:
        x: (B, C, H, W) the originals.
        noise: Their noise, of the same shape.
        region: (B, 1, H, W), true where the picture is free.
    """

    x: Tensor
    noise: Tensor
    region: Tensor
    kind: ClassVar[Kind | None] = "velocity"

    @property
    def numbers(self) -> dict[str, float | Tensor]:
        """All three travel with their rows."""
        return {"x": self.x, "noise": self.noise, "region": self.region}

    def _put(self, view: View, state: State, held: State) -> dict[str, Tensor]:
        parts = cast(dict[str, Tensor], state)
        return {**parts, IMAGE: torch.where(view.own["region"], parts[IMAGE], cast(Tensor, held).to(parts[IMAGE]))}

    def velocity(self, view: View, values: dict[Name, State]) -> dict[Name, State]:
        """Outside, the velocity of the original's own path."""
        law, t = _law(view), cast(float, view.t)
        held = affine(law.d_alpha(t), view.own["x"], law.d_sigma(t), view.own["noise"])
        return {name: self._put(view, value, held) for name, value in values.items()}

    def state(self, view: View, start: State, end: State, velocity: State) -> State:
        """Outside, the point of that path."""
        law, t = _law(view), cast(float, view.span[1])
        return self._put(view, end, affine(law.alpha(t), view.own["x"], law.sigma(t), view.own["noise"]))


def _law(view: View) -> Schedule:
    return cast(AffinePath, cast(JointPath, view.path).paths[IMAGE]).law
