r"""Discrete optimal transport between two batches of equal masses: exact assignment and entropic plans.

Costs are float64 whatever the states are, and everything entropic happens in the log domain, so no
regularisation is too small to represent.
"""

import math
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from rheos.core.errors import NonFiniteError, OptionError, ShapeError
from rheos.core.state import State, is_finite

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Plan", "assignment", "check_rows", "half_steps", "sinkhorn", "squared_distances"]


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
    centre = y.double().mean(0, keepdim=True)  # distances do not see it, rounding does
    a, b = ((z.double() - centre).reshape(len(z), -1) for z in (x, y))
    norms = a.square().sum(1)[:, None] + b.square().sum(1)
    return torch.addmm(norms, a, b.T, alpha=-2.0).clamp_(min=0.0)


def assignment(cost: Float[Tensor, "_n _m"]) -> Int64[Tensor, " n"]:
    r"""The permutation $\pi$ that minimises $\sum_j C_{\pi(j) j}$: which row serves each column; $O(n^3)$, on the CPU.

    Args:
        cost: Square.

    Raises:
        ShapeError: If it is not square.
        NonFiniteError: If it holds a NaN or an infinity.

    Example:
        >>> assignment(torch.tensor([[5.0, 1.0], [1.0, 5.0]])).tolist()
        [1, 0]

    Reference: Crouse (2016), On implementing 2D rectangular assignment algorithms, in SciPy; Bonneel et al. (2011),
        Displacement interpolation using Lagrangian mass transport, in POT.
    """
    _check_cost(cost)
    if cost.shape[0] != cost.shape[1]:
        raise ShapeError(f"An assignment needs as many rows as columns, got {tuple(cost.shape)}.")
    rows = _permutation(cost.double().cpu().numpy())
    return torch.as_tensor(rows, dtype=torch.int64, device=cost.device)


def _permutation(cost: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """Shortest augmenting paths for small costs, the network simplex for large ones: up to ten times faster there."""
    from scipy.optimize import linear_sum_assignment

    n = len(cost)
    if n >= 256:
        import ot

        mass = ot.unif(n)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns of shows below
            plan = ot.emd(mass, mass, cost / max(abs(cost).max(), 1e-300), numItermax=10**8)
        rows = plan.argmax(0)
        if len(set(rows.tolist())) == n and plan.max(0).min() > 0.5 / n:  # a vertex of the polytope, as it should be
            return rows  # type: ignore[no-any-return]
    return linear_sum_assignment(cost.T)[1]  # type: ignore[no-any-return]


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


def sinkhorn(cost: Float[Tensor, "n m"], epsilon: float, iterations: int = 1000, tolerance: float = 1e-3) -> Plan:
    r"""Entropic plan $\pi_{ij} = e^{(f_i + g_j - C_{ij})/\varepsilon} / nm$ with masses 1/n and 1/m.

    Scalings by products with the kernel, which are fast. Where those leave the range of numbers or do not converge, by
    logarithms from a regularisation of the size of the costs, halved down to epsilon.

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
    _check_cost(cost)
    k = cost.double() / -epsilon
    u = -k.amax(1)
    v = -(k + u[:, None]).amax(0)  # now every row and every column of the kernel has a one
    r, s, error = _scalings((k + u[:, None]).add_(v).exp_(), iterations, tolerance)
    if error <= tolerance:
        return _plan(k, epsilon, u + r.log(), v + s.log(), error, tolerance)
    return _annealed(k, epsilon, iterations, tolerance)


def _plan(k: Tensor, epsilon: float, u: Tensor, v: Tensor, error: float, tolerance: float) -> Plan:
    return Plan(k + u[:, None] + v - math.log(k.numel()), u * epsilon, v * epsilon, error, error <= tolerance)


def _scalings(kernel: Tensor, iterations: int, tolerance: float) -> tuple[Tensor, Tensor, float]:
    """Rows and columns scaled in turn until the rows' masses are right: two products with a vector an iteration."""
    n, m = kernel.shape
    across, s, error = kernel.T.contiguous(), kernel.new_full((m,), 1.0 / m), math.inf
    row = kernel @ s
    r = 1.0 / row
    for i in range(iterations):
        s = (n / m) / (across @ r)
        row = kernel @ s
        if i % 5 == 4 or i == iterations - 1:
            error = float((r * row).sub_(1.0).abs_().mean())
            if not error > tolerance:  # or no number any more
                break
        r = 1.0 / row
    return r, s * m, error


def _annealed(k: Tensor, epsilon: float, iterations: int, tolerance: float) -> Plan:
    """By logarithms, from a regularisation of the size of the costs, halved down to epsilon."""
    u, v = (k.new_zeros(n) for n in k.shape)
    level = max(float(k.max() - k.min()), 1.0)  # in units of epsilon
    while level > 1.0:
        for _ in range(4):
            u, v = _sweep(k / level, v)
        after = max(level / 2, 1.0)
        u, v, level = u * (level / after), v * (level / after), after
    error = math.inf
    for i in range(iterations):
        u, v = _sweep(k, v)
        if i % 10 == 9 or i == iterations - 1:
            error = float((_row_masses(k, u, v) - 1).abs().mean())
            if error <= tolerance:
                break
    return _plan(k, epsilon, u, v, error, tolerance)


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


def _check_cost(cost: Tensor) -> None:
    bad = int((~cost.isfinite()).sum())
    if bad:
        raise NonFiniteError(f"{bad} of {cost.numel()} transport costs are NaN or infinite.")
