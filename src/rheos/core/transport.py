r"""Discrete transport between two batches of equal masses: costs and entropic plans.

Costs are float64 whatever the states are, and everything entropic happens in the log domain, so no
regularisation is too small to represent.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from rheos.core.errors import NonFiniteError, OptionError, ShapeError
from rheos.core.state import State, is_finite, tensors

__all__ = ["Plan", "balanced", "check_cost", "check_rows", "half_steps", "sinkhorn", "squared_distances"]


def check_rows(x0: State, x1: State) -> None:
    """Raise `ShapeError` unless both states have the same names and, name by name, one shape."""
    a, b = (x if isinstance(x, dict) else {"": x} for x in (x0, x1))
    shapes = [{name: tuple(v.shape) for name, v in x.items()} for x in (a, b)]
    if shapes[0] != shapes[1]:
        came, want = (s.get("", s) for s in shapes)
        raise ShapeError(
            f"A coupling pairs as many source rows as data rows, of one shape, got x0 {came} and x1 {want}. "
            "Draw the source like the data: x0 = torch.randn_like(x1)."
        )


def check_finite(x0: State, x1: State) -> None:
    """Raise `NonFiniteError` that names the first bad row."""
    for name, x in (("x0", x0), ("x1", x1)):
        if all(math.isfinite(float(v.sum())) for v in tensors(x)):  # one pass; a sum that overflows is looked at again
            continue
        good = is_finite(x)
        if not bool(good.all()):
            row = int((~good).nonzero()[0])
            raise NonFiniteError(f"Row {row} of {name} has a NaN or an infinity; no transport cost can be formed.")


def squared_distances(x: State, y: State) -> Float64[Tensor, "n m"]:
    r"""$C_{ij} = \lVert x_i - y_j \rVert^2$ over all elements of a row, summed over the parts of a dict.

    Args:
        x: n rows.
        y: m rows of the same row shape.

    Example:
        >>> squared_distances(torch.tensor([[0.0], [3.0]]), torch.tensor([[1.0]])).flatten().tolist()
        [1.0, 4.0]
    """
    if isinstance(x, dict) and isinstance(y, dict):
        return torch.stack([squared_distances(x[name], y[name]) for name in x]).sum(0)
    assert isinstance(x, Tensor)
    assert isinstance(y, Tensor)
    x, y = (z.reshape(len(z), -1) for z in (x, y))
    centre = y.mean(0, keepdim=True, dtype=torch.float64)  # distances do not see it, rounding does
    squares, of_x, of_y = (centre.new_zeros(shape) for shape in ((len(x), len(y)), (len(x), 1), (len(y),)))
    width = max(64, 2**16 // max(1, len(x)))  # copies in double precision that a cache can hold
    for xs, ys, middle in zip(*(torch.split(z, width, dim=1) for z in (x, y, centre)), strict=True):
        a, b = xs - middle, ys - middle
        of_x += torch.linalg.vecdot(a, a)[:, None]
        of_y += torch.linalg.vecdot(b, b)
        squares.addmm_(a, b.T, alpha=-2.0)
    return squares.add_(of_x).add_(of_y).clamp_(min=0.0)


class Plan(NamedTuple):
    """An entropic plan and how well it is solved.

    Args:
        log: ln of the plan, (n, m); its masses sum to one.
        f: Potential of the rows, in units of the cost.
        g: Potential of the columns.
        error: Mass on the wrong row, the sum over rows of |row mass - 1/n|; columns are exact.
        converged: Whether the error is within the tolerance.
    """

    log: Tensor
    f: Tensor
    g: Tensor
    error: float
    converged: bool


@torch.no_grad()
def sinkhorn(cost: Float[Tensor, "n m"], epsilon: float, iterations: int = 1000, tolerance: float = 1e-3) -> Plan:
    r"""Entropic plan $\pi_{ij} = e^{(f_i + g_j - C_{ij})/\varepsilon} / nm$ with masses 1/n and 1/m.

    Over-relaxed scalings by products with the kernel, which are fast. Where those leave the range of numbers or do not
    converge, by logarithms from a regularisation of the size of the costs, halved down to epsilon. No gradient flows.

    Args:
        cost: Costs, in any unit.
        epsilon: Regularisation, in the cost's unit, positive.
        iterations: At most so many at the final regularisation.
        tolerance: Stop once so little mass is on the wrong row.

    Raises:
        OptionError: If epsilon, iterations or tolerance is not positive.
        NonFiniteError: If a cost is a NaN or an infinity.

    Example:
        >>> plan = sinkhorn(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), epsilon=1.0)
        >>> round(2 * float(plan.log[0, 0].exp()), 6), round(math.e / (math.e + 1), 6)
        (0.731059, 0.731059)

    Reference: Cuturi (2013), https://arxiv.org/abs/1306.0895; Peyré & Cuturi (2019), section 4.4.
    """
    check_entropic(epsilon, iterations, tolerance)
    check_cost(cost)
    cost = cost.double()
    k = cost / -epsilon
    u = -k.amax(1)
    k.add_(u[:, None])
    v = -k.amax(0)
    k.add_(v).exp_()  # every row and every column of the kernel has a one
    more_u, more_v, error = _scalings(k, iterations, tolerance)
    if not error <= tolerance:
        torch.div(cost, -epsilon, out=k).add_(u[:, None]).add_(v)
        more_u, more_v, error = _annealed(k, iterations, tolerance)
    u, v = u + more_u, v + more_v
    log = torch.div(cost, -epsilon, out=k).add_(u[:, None]).add_(v - math.log(k.numel()))
    return Plan(log, u * epsilon, v * epsilon, error, error <= tolerance)


def _scalings(kernel: Tensor, iterations: int, tolerance: float) -> tuple[Tensor, Tensor, float]:
    """Rows and columns scaled in turn until the rows' masses are right: two products with a vector an iteration.

    Most iterations go beyond the balance of their own side, by a factor that follows from how fast the error falls
    (successive over-relaxation); each fourth, later each eighth, does not: columns are exact where rows are judged.

    Returns:
        ln of the scalings of rows and of columns, and the error: NaN or infinity where they left the range of numbers.
    """
    n, m = kernel.shape
    s, factor, judged, error = kernel.new_full((m,), 1.0 / m), 1.0, 0, math.inf
    r = 1.0 / torch.mv(kernel, s)
    for i in range(1, iterations + 1):
        plain = i == 2 or i % (4 if i <= 24 else 8) == 0 or i == iterations
        s = balanced(s, torch.mv(kernel.T, r).mul_(m / n), 1.0 if plain else factor)
        row = torch.mv(kernel, s)
        if plain:
            before, error = error, float((r * row).sub_(1.0).abs_().mean())
            if i == iterations or not tolerance < error < math.inf:
                break
            factor, judged = _relaxation(factor, (error / before) ** (1 / (i - judged))), i
        r = balanced(r, row, 1.0 if plain else factor)
    if not float(r.max() * s.max()) < 1e290:  # what underflowed in the kernel may matter
        error = math.nan
    return r.log_(), s.mul_(m).log_(), error


def balanced(scaling: Tensor, mass: Tensor, factor: float) -> Tensor:
    """The scaling that makes each mass one, or `factor` times as far in the logarithm; overwrites the masses.

    Example:
        >>> balanced(torch.ones(1), torch.tensor([4.0]), 1.0), balanced(torch.ones(1), torch.tensor([4.0]), 1.5)
        (tensor([0.2500]), tensor([0.1250]))
    """
    return mass.reciprocal_() if factor == 1.0 else (scaling * mass).pow_(-factor).mul_(scaling)


def _relaxation(factor: float, rate: float) -> float:
    """The best factor for the plain rate that Young's relation finds behind the rate seen with the present factor.

    Args:
        factor: In [1, 2).
        rate: What the error is multiplied by in an iteration.

    Reference: Thibault et al. (2021), Overrelaxed Sinkhorn-Knopp algorithm, https://arxiv.org/abs/1711.01851
    """
    if rate >= 1.0:
        return 1.0
    if rate <= factor - 1.0:  # as fast as this factor can be
        return factor
    plain = min((rate + factor - 1.0) ** 2 / (rate * factor**2), 0.9995)
    return 2.0 / (1.0 + math.sqrt(1.0 - plain))


def _annealed(k: Tensor, iterations: int, tolerance: float) -> tuple[Tensor, Tensor, float]:
    """By logarithms, from a regularisation of the size of the costs, halved down to epsilon; then by products again.

    The products scale what the logarithms leave to do, so they leave the range of numbers rarely; ten sweeps by
    logarithms then take their place.
    """
    u, v = (k.new_zeros(n) for n in k.shape)
    level = max(float(k.max() - k.min()), 1.0)  # in units of epsilon
    while level > 1.0:
        scaled = k / level
        for _ in range(4):
            u, v = _sweep(scaled, v)
        after = max(level / 2, 1.0)
        u, v, level = u * (level / after), v * (level / after), after
    error = math.inf
    while iterations > 0 and not error <= tolerance:
        steps = min(iterations, 200)
        u, v = _sweep(k, v)
        r, s, error = _scalings((k + u[:, None]).add_(v).exp_(), steps, tolerance)
        if math.isfinite(error):
            u, v = u + r, v + s
        else:
            steps = min(iterations, 10)
            for _ in range(steps):
                u, v = _sweep(k, v)
            error = float((_row_masses(k, u, v) - 1).abs().mean())
        iterations -= steps
    return u, v, error


def half_steps(log_kernel: Float[Tensor, "n m"], steps: int) -> tuple[Float[Tensor, " n"], Float[Tensor, " m"]]:
    """Scalings (u, v) after so many Sinkhorn half-steps: rows first, then columns, in turn.

    After an odd number exp(log_kernel + u + v) has mean one along each row, after an even one down each column.

    Args:
        log_kernel: ln of the kernel.
        steps: Zero gives (0, 0).

    Example:
        >>> u, v = half_steps(torch.tensor([[0.0, 1.0], [2.0, 5.0]]), 1)
        >>> (torch.tensor([[0.0, 1.0], [2.0, 5.0]]) + u[:, None] + v).exp().mean(1)
        tensor([1., 1.])
    """
    u, v = (log_kernel.new_zeros(n) for n in log_kernel.shape)
    for step in range(steps):
        if step % 2:
            v = -log_mean_exp(log_kernel + u[:, None], 0)
        else:
            u = -log_mean_exp(log_kernel + v, 1)
    return u, v


def log_mean_exp(x: Float[Tensor, "..."], dim: int) -> Float[Tensor, "..."]:
    """The logarithm of the mean of e^x along an axis."""
    return x.logsumexp(dim) - math.log(x.shape[dim])


def _sweep(k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    u = -log_mean_exp(k + v, 1)
    return u, -log_mean_exp(k + u[:, None], 0)


def _row_masses(k: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Each row's mass times n."""
    return (u + log_mean_exp(k + v, 1)).exp()


def check_entropic(epsilon: float, iterations: int, tolerance: float) -> None:
    """Raise `OptionError` for options that no entropic solver can meet."""
    if not 0 < epsilon < math.inf:
        raise OptionError(f"epsilon must be positive and finite, got {epsilon}. It is in the unit of the cost.")
    if iterations < 1:
        raise OptionError(f"iterations must be at least 1, got {iterations}.")
    if not tolerance > 0:
        raise OptionError(f"tolerance must be positive, got {tolerance}.")


def check_cost(cost: Tensor) -> None:
    """Raise `NonFiniteError` unless every cost is finite."""
    if math.isfinite(float(cost.sum())):  # one pass; a sum that overflows is looked at again
        return
    bad = int((~cost.isfinite()).sum())
    if bad:
        raise NonFiniteError(f"{bad} of {cost.numel()} transport costs are NaN or infinite.")
