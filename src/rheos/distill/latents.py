r"""Few-step inversion and editing: noise of data, data of noise, and what lies between.

A straightened flow can be walked back in a handful of Euler steps. The start is moved a thousandth towards noise, where
training has been; what comes back is noise that another condition decodes (translation) or that mixes with other noise
along the sphere (interpolation).

Reference: Improving the Training of Rectified Flows, Lee et al. (2024), https://arxiv.org/abs/2405.20320
"""

from typing import Any, cast

import torch
from torch import Tensor

from rheos.core.draws import Draws, row_seeds
from rheos.core.errors import OptionError, ShapeError
from rheos.core.field import Field
from rheos.core.paths import AffinePath
from rheos.core.solver import Solver
from rheos.core.state import affine
from rheos.sample.draw import draw
from rheos.sample.inversion import invert
from rheos.sample.rungekutta import Euler

__all__ = ["encode", "interpolate", "slerp", "translate"]


def encode(
    field: Field, x: Tensor, *, evaluations: int = 8, noise: float = 1e-3, seed: int = 0, **cond: object
) -> Tensor:
    r"""The noise that a flow makes data of, by Euler steps from $\alpha_t x + \sigma_t \epsilon$ at t = 1 - noise.

    Args:
        field: A straightened flow.
        x: Data, rows first.
        evaluations: Network calls a row; 4 to 8 suffice on straight paths.
        noise: How far before t = 1 to begin, in [0, 1).
        seed: Of the noise that is added there.
        **cond: The data's own conditions.

    Returns:
        Latents like x, where `draw(field, source=...)` begins.

    Raises:
        OptionError: For evaluations below 1, noise outside [0, 1), or a path that is not affine.
        RheosError: As `sample.invert`.
    """
    if evaluations < 1:
        raise OptionError(f"evaluations must be at least 1, got {evaluations}.")
    if not 0 <= noise < 1:
        raise OptionError(f"noise must lie in [0, 1), got {noise}.")
    if not isinstance(field.path, AffinePath):
        raise OptionError(f"Noise is added on an affine path, this field lives on {type(field.path).__name__}.")
    t = 1.0 - noise
    start = x
    if noise:
        epsilon = Draws(row_seeds(seed, len(x)).to(x.device)).normal(x, "encode")
        start = cast(Tensor, affine(field.path.law.alpha(t), x, field.path.law.sigma(t), epsilon))
    steps = [t * k / evaluations for k in range(evaluations + 1)]
    given: dict[str, Any] = dict(cond)
    return cast(Tensor, invert(field, start, steps=steps, solver="euler", **given).x)


def translate(
    field: Field, x: Tensor, label: object, to: object, *, evaluations: int = 8, steps: int = 2, seed: int = 0
) -> Tensor:
    """Data of one class as data of another: encoded with the one label, decoded with the other.

    Args:
        field: A straightened class-conditional flow.
        x: Data, rows first.
        label: Their class, one for all or one a row.
        to: The class to decode with.
        evaluations: Network calls of encoding.
        steps: Euler steps of decoding.
        seed: Of the noise at the start of encoding.

    Raises:
        ConditionError: If the field takes no label.
        RheosError: As `encode` and `sample.draw`.
    """
    latent = encode(field, x, evaluations=evaluations, seed=seed, label=label)
    return draw(field, len(x), steps=steps, solver="euler", source=latent, label=to)


def interpolate(
    field: Field,
    a: Tensor,
    b: Tensor,
    weights: Tensor,
    *,
    evaluations: int = 8,
    steps: int = 2,
    solver: Solver | None = None,
    **cond: object,
) -> Tensor:
    """Data between data: both are encoded, their noises meet on the sphere, and what lies between is decoded.

    Args:
        field: A straightened flow.
        a: One sample, (...) without rows.
        b: Another.
        weights: (K,): 0 is a, 1 is b.
        evaluations: Network calls of encoding.
        steps: Steps of decoding.
        solver: Of decoding; Euler unless given.
        **cond: Conditions, one value for all.

    Returns:
        (K, ...).

    Raises:
        ShapeError: If a and b differ in shape, or weights are not (K,).
        RheosError: As `encode` and `sample.draw`.
    """
    if a.shape != b.shape or weights.ndim != 1:
        raise ShapeError(
            f"Interpolation takes two samples of one shape and weights (K,), got {tuple(a.shape)}, {tuple(b.shape)} "
            f"and {tuple(weights.shape)}."
        )
    given: dict[str, Any] = dict(cond)
    za, zb = encode(field, torch.stack((a, b)), evaluations=evaluations, **given)
    between = slerp(za.expand(len(weights), *za.shape), zb.expand(len(weights), *zb.shape), weights)
    return draw(field, len(weights), steps=steps, solver=solver or Euler(), source=between, **given)


def slerp(a: Tensor, b: Tensor, weight: Tensor | float) -> Tensor:
    r"""$\frac{\sin((1-w)\omega)}{\sin\omega} a + \frac{\sin(w\omega)}{\sin\omega} b$, $\omega$ the angle of two rows.

    Where the rows are parallel it is the straight line between them, which is the limit; opposite rows have no shortest
    arc, and the straight line is taken likewise.

    Args:
        a: Rows (B, ...).
        b: Rows of the same shape.
        weight: 0 is a, 1 is b; one number, or (B,).

    Raises:
        ShapeError: If the rows differ in shape.

    Example:
        >>> slerp(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 0.5)
        tensor([[0.7071, 0.7071]])
    """
    if a.shape != b.shape:
        raise ShapeError(f"slerp takes rows of one shape, got {tuple(a.shape)} and {tuple(b.shape)}.")
    u, v = (x.double().flatten(1) for x in (a, b))
    w = torch.as_tensor(weight, dtype=torch.float64, device=a.device).expand(len(a))[:, None]
    u1, v1 = (torch.nn.functional.normalize(x, dim=1) for x in (u, v))
    angle = 2.0 * torch.atan2((u1 - v1).norm(dim=1, keepdim=True), (u1 + v1).norm(dim=1, keepdim=True))
    sine = angle.sin()
    curved = sine > 1e-7
    safe = torch.where(curved, sine, 1.0)
    left = torch.where(curved, ((1 - w) * angle).sin() / safe, 1 - w)
    right = torch.where(curved, (w * angle).sin() / safe, w)
    return (left * u + right * v).reshape(a.shape).to(a.dtype)
