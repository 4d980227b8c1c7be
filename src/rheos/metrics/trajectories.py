r"""How straight, how costly, how bent: figures of trajectories.

A path is a stack of states $x_{t_0}, \dots, x_{t_n}$ of shape (T, B, ...) with its times. Between two stored
states it counts as a straight line at constant speed, $v_i = (x_{i+1} - x_i)/(t_{i+1} - t_i)$; for Euler steps
that is the field's own velocity and the integrals are exact, else they converge with the number of states.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from rheos.core.errors import NonFiniteError, OptionError, ShapeError, TimeError
from rheos.metrics._sets import pair

__all__ = ["curvature", "normalised_path_energy", "path_energy", "straightness", "transport_cost", "turning"]


def straightness(path: Float[Tensor, "_t _b *_d"], times: Float[Tensor, " _t2"]) -> float:
    r"""$S = \int E\lVert (x_1 - x_0) - v_t \rVert^2\,dt$; 0 for straight lines at constant speed. Smaller is better.

    For times that span τ instead of 1 the chord $(x_1 - x_0)/\tau$ takes the place of $x_1 - x_0$. It is what the
    path energy has beyond that of the chord: $S = \int E\lVert v\rVert^2 dt - E\lVert x_1-x_0\rVert^2/\tau$.

    Args:
        path: States (T, B, ...), T ≥ 2; the figure has their units squared.
        times: (T,), strictly increasing.

    Raises:
        ShapeError: A path of other than (T, B, ...), or of fewer than 2 states.
        TimeError: Times that are not (T,) and strictly increasing.
        NonFiniteError: NaN or infinite numbers.

    Example:
        >>> times = torch.tensor([0.0, 0.5, 1.0])
        >>> straightness(torch.tensor([[[0.0, 0.0]], [[1.0, 1.0]], [[2.0, 0.0]]]), times)  # v = (2, ±2), chord (2, 0)
        4.0

    Reference: Liu et al. (2022), https://arxiv.org/abs/2209.03003, section 3.2
    """
    x, dt = _path(path, times)
    chord = (x[-1] - x[0]) / dt.sum()
    deviation = x.diff(dim=0) / dt[:, None, None] - chord
    return float(dt @ deviation.square().sum(2).mean(1))


def path_energy(path: Float[Tensor, "_t _b *_d"], times: Float[Tensor, " _t2"]) -> float:
    r"""$\int E\lVert v_t\rVert^2\,dt$; never below $W_2^2$ of the two ends over the time spanned. Smaller is better.

    Args:
        path: States (T, B, ...), T ≥ 2.
        times: (T,), strictly increasing.

    Raises:
        ShapeError: A path of other than (T, B, ...), or of fewer than 2 states.
        TimeError: Times that are not (T,) and strictly increasing.
        NonFiniteError: NaN or infinite numbers.

    Example:
        >>> path_energy(torch.tensor([[[0.0]], [[1.0]], [[4.0]]]), torch.tensor([0.0, 0.5, 1.0]))  # (4 + 36) / 2
        20.0

    Reference: Benamou and Brenier (2000), https://doi.org/10.1007/s002110050002
    """
    x, dt = _path(path, times)
    return float((x.diff(dim=0).square().sum(2).mean(1) / dt).sum())


def normalised_path_energy(path: Float[Tensor, "_t _b *_d"], times: Float[Tensor, " _t2"], w2_squared: float) -> float:
    r"""$\bigl|\int E\lVert v_t\rVert^2 dt - W_2^2\bigr| / W_2^2$; 0 for the optimal transport flow. Smaller is better.

    Args:
        path: States (T, B, ...) from source to data, T ≥ 2.
        times: (T,), strictly increasing, from 0 to 1.
        w2_squared: $W_2^2(p_0, p_1) > 0$ of source and data; `wasserstein(x0, x1) ** 2`.

    Raises:
        OptionError: w2_squared that is not a positive number.
        ShapeError: A path of other than (T, B, ...), or of fewer than 2 states.
        TimeError: Times that are not (T,) and strictly increasing.
        NonFiniteError: NaN or infinite numbers.

    Example:
        >>> normalised_path_energy(torch.tensor([[[0.0]], [[3.0]]]), torch.tensor([0.0, 1.0]), w2_squared=6.0)
        0.5

    Reference: Tong et al. (2023), https://arxiv.org/abs/2302.00482, section 5.1
    """
    if not 0 < w2_squared < float("inf"):
        raise OptionError(f"w2_squared must be a positive number, got {w2_squared}; use wasserstein(x0, x1) ** 2.")
    return abs(path_energy(path, times) - w2_squared) / w2_squared


def transport_cost(x0: Float[Tensor, "_n *_d"], x1: Float[Tensor, "_m *_d2"], p: float = 2.0) -> float:
    r"""$E\lVert x_1 - x_0\rVert^p$ over pairs; never below $W_p^p$ of the two ends. Smaller is better.

    Args:
        x0: Where each row starts (B, ...).
        x1: Where the same row ends.
        p: The exponent, p > 0.

    Raises:
        OptionError: p that is not positive.
        ShapeError: Ends that do not come in pairs.
        NonFiniteError: NaN or infinite numbers.

    Example:
        >>> transport_cost(torch.zeros(2, 2), torch.tensor([[3.0, 4.0], [0.0, 1.0]]))  # (25 + 1) / 2
        13.0

    Reference: Liu et al. (2022), https://arxiv.org/abs/2209.03003, theorem 3.5
    """
    if not 0 < p < float("inf"):
        raise OptionError(f"p must be a positive number, got {p}.")
    start, end = pair(x0, x1, names=("x0", "x1"))
    if len(start) != len(end):
        raise ShapeError(f"x0 and x1 must be the two ends of the same rows, got {len(start)} and {len(end)} rows.")
    return float((end - start).norm(dim=1).pow(p).mean())


def turning(path: Float[Tensor, "_t _b *_d"]) -> float:
    r"""Mean total turning of a row, $E\int \kappa\,ds$, in radians; free of scale and speed. 0 for straight lines.

    The angles between successive chords are summed; an arc of angle φ in n equal steps gives φ (n - 1)/n.

    Args:
        path: States (T, B, ...), T ≥ 2; steps of length 0 do not turn.

    Raises:
        ShapeError: A path of other than (T, B, ...), or of fewer than 2 states.
        NonFiniteError: NaN or infinite numbers.

    Example:
        >>> corner = torch.tensor([[[0.0, 0.0]], [[1.0, 0.0]], [[1.0, 1.0]]])
        >>> round(turning(corner), 6)
        1.570796

    Reference: Milnor (1950), On the total curvature of knots, https://doi.org/10.2307/1969467
    """
    return float(_angles(_flat_path(path).diff(dim=0)).sum(0).mean())


def curvature(path: Float[Tensor, "_t _b *_d"]) -> float:
    r"""Mean curvature κ, one over the radius, along the length of the paths; 1/r on a circle. 0 for straight lines.

    Each inner state gives the circle through it and its two neighbours (exact for circles, however coarse), weighted
    by the length of the two chords. Rows that stand still do not count; all standing still gives 0.

    Args:
        path: States (T, B, ...), T ≥ 2.

    Raises:
        ShapeError: A path of other than (T, B, ...), or of fewer than 2 states.
        NonFiniteError: NaN or infinite numbers.

    Example:
        >>> angle = torch.linspace(0, 1, 4, dtype=torch.float64)
        >>> round(curvature(2 * torch.stack((angle.cos(), angle.sin()), 1)[:, None]), 9)
        0.5

    Reference: Menger's curvature, 4 area / (product of the sides)
    """
    steps = _flat_path(path).diff(dim=0)
    length = steps.norm(dim=2)
    weight = length[:-1] + length[1:]
    base = (steps[:-1] + steps[1:]).norm(dim=2)
    kappa = torch.where(base > 0, 2.0 * _angles(steps).sin() / base, 0.0)
    total = weight.sum()
    return float((weight * kappa).sum() / total) if total > 0 else 0.0


def _angles(steps: Tensor) -> Tensor:
    """(T - 2, B): the angle between successive steps, accurate near 0 and π; 0 beside a step of length 0."""
    length = steps.norm(dim=2, keepdim=True)
    unit = steps / length.clamp(min=torch.finfo(torch.float64).tiny)
    angle = 2.0 * torch.atan2((unit[1:] - unit[:-1]).norm(dim=2), (unit[1:] + unit[:-1]).norm(dim=2))
    still = length[..., 0] == 0
    return angle.masked_fill(still[1:] | still[:-1], 0.0)


def _flat_path(path: Tensor) -> Tensor:
    """float64 (T, B, D)."""
    if path.ndim < 2 or len(path) < 2 or path.numel() == 0:
        raise ShapeError(f"A path needs shape (T, B, ...) with at least 2 states, got {tuple(path.shape)}.")
    x = path.detach().reshape(len(path), path.shape[1], -1).to(torch.float64)
    if not x.isfinite().all():
        first = int((~x.isfinite().all(2).all(1)).int().argmax())
        raise NonFiniteError(f"The path holds NaN or infinite numbers, first at state {first} of {len(x)}.")
    return x


def _path(path: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """The path as (T, B, D) and its steps in time (T - 1,), in float64."""
    x = _flat_path(path)
    if times.shape != (len(x),):
        raise TimeError(f"A path of {len(x)} states needs times of shape ({len(x)},), got {tuple(times.shape)}.")
    dt = times.detach().to(x.device, torch.float64).diff()
    if not bool((dt > 0).all()) or not bool(dt.isfinite().all()):
        raise TimeError(f"times must be finite and strictly increasing, got {times.tolist()[:8]}.")
    return x, dt
