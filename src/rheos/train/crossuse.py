"""What a cross-modal field can do: turn sources into targets, mix and add sources, walk between two of them."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from rheos.core.draws import Draws, row_seeds
from rheos.core.errors import OptionError, ShapeError
from rheos.core.field import Field
from rheos.core.solver import Solver
from rheos.sample.draw import draw
from rheos.sample.guidance import CFG
from rheos.train.crossnet import CONDITIONAL, INDICATOR, cross_net

__all__ = ["combine", "flow", "generate", "interpolate", "start"]

STEPS = 50


@torch.no_grad()
def start(
    field: Field,
    source: Tensor,
    mask: Tensor | None = None,
    *,
    seed: int | Sequence[int] | Tensor = 0,
    temperature: float = 1.0,
) -> Tensor:
    """Latents z_0 of sources, where their flows begin.

    Args:
        field: Of a `CrossNet`.
        source: Rows of the source, embedded as in training.
        mask: Of its tokens.
        seed: One integer for all, or one a row.
        temperature: What the encoder's standard deviation is multiplied by; 0 is its mean.

    Raises:
        OptionError: For a field of another kind, or a negative temperature.
    """
    net = cross_net(field)
    seeds = row_seeds(seed, len(source))
    like = torch.empty(len(source), *net.encoder.shape, dtype=field.dtype, device=field.device)
    noise = cast(Tensor, Draws(seeds.to(field.device)).normal(like, "source"))
    begun = net.begin(source.to(field.device), None if mask is None else mask.to(field.device), noise)
    return begun.at(temperature)


@torch.no_grad()
def flow(
    field: Field,
    z: Tensor,
    *,
    steps: int | Sequence[float] = STEPS,
    solver: Solver | str = "euler",
    guidance: float | CFG = 1.0,
    seed: int | Sequence[int] | Tensor = 0,
    batch: int | None = None,
    **options: object,
) -> Tensor:
    """Targets of latents: follow the flow from t = 0 to 1, and decode.

    Args:
        field: Of a `CrossNet`.
        z: Latents, from `start`, `interpolate` or `combine`.
        steps: Of a uniform grid, or explicit times.
        solver: A name, or a `Solver`; those that need a score are refused.
        guidance: From the unconditional through the conditional velocity; 1 is none and costs one network call a step.
        seed: For solvers that draw noise.
        batch: Rows at a time.
        **options: Further conditions of the network, and options of `sample.draw`.

    Raises:
        OptionError: For guidance of a network without an indicator.
        SourceNotGaussianError: For a solver that needs a score.
    """
    net = cross_net(field)
    net.check_guidance(2.0 if isinstance(guidance, CFG) else guidance)
    given: dict[str, object] = {INDICATOR: CONDITIONAL} if net.guided else {}
    x = draw(
        field, len(z), steps=steps, solver=solver, guidance=None if guidance == 1.0 else guidance, seed=seed,
        source=z, batch=batch, **{**given, **options},
    )  # fmt: skip
    return net.decode(x)


def generate(
    field: Field,
    source: Tensor,
    mask: Tensor | None = None,
    *,
    seed: int | Sequence[int] | Tensor = 0,
    temperature: float = 1.0,
    **options: object,
) -> Tensor:
    """Targets of sources: `start`, then `flow`.

    Args:
        field: Of a `CrossNet`.
        source: Rows of the source, embedded as in training.
        mask: Of its tokens.
        seed: One integer for all, or one a row.
        temperature: Of the start, as in `start`; 0 begins at the encoder's mean.
        **options: Of `flow`: steps, solver, guidance, batch.

    Example:
        >>> from rheos import nets
        >>> from rheos.train import crossflow
        >>> field = crossflow.cross_field(nets.MLP(4, classes=1), nets.VectorEncoder(3, (4,)))
        >>> generate(field, torch.eye(3), steps=2, guidance=2.0).shape
        torch.Size([3, 4])
    """
    z = start(field, source, mask, seed=seed, temperature=temperature)
    return flow(field, z, seed=seed, **options)  # type: ignore[arg-type]


def interpolate(a: Tensor, b: Tensor, count: int) -> Tensor:
    """Latents on the straight line from a to b, ends included.

    Args:
        a: One latent, without rows.
        b: Another.
        count: How many, at least 2.

    Raises:
        ShapeError: If they differ in shape.
        OptionError: For a count below 2.

    Example:
        >>> interpolate(torch.zeros(1), torch.ones(1), 3).flatten()
        tensor([0.0000, 0.5000, 1.0000])
    """
    if a.shape != b.shape:
        raise ShapeError(f"Only latents of one shape have a line between them, got {tuple(a.shape)}, {tuple(b.shape)}.")
    if count < 2:
        raise OptionError(f"count must be at least 2 (both ends), got {count}.")
    share = torch.linspace(0, 1, count, dtype=a.dtype, device=a.device).reshape(-1, *(1,) * a.ndim)
    return torch.lerp(a, b, share)


def combine(*terms: tuple[float, Tensor]) -> Tensor:
    """Latent arithmetic, such as king - man + woman.

    Args:
        *terms: Factor and latents each.

    Raises:
        OptionError: If there are none.
        ShapeError: If they differ in shape.

    Example:
        >>> combine((1.0, torch.ones(1, 2)), (-1.0, torch.zeros(1, 2)), (1.0, torch.ones(1, 2)))
        tensor([[2., 2.]])
    """
    if not terms:
        raise OptionError("Nothing to add: give pairs of a factor and latents.")
    shapes = {tuple(z.shape) for _, z in terms}
    if len(shapes) > 1:
        raise ShapeError(f"Latents to add have one shape, got {sorted(shapes)}.")
    return torch.stack([factor * z for factor, z in terms]).sum(0)
