r"""UniPC: a predictor of order p and a corrector of order p + 1 for the price of the predictor.

Data prediction, $g = -h$: with $r_j = (\lambda_{i-j} - \lambda_i) / h$, $D_j = (m_{i-j} - m_i) / r_j$ and
$\varphi_1(g) g = e^g - 1$, the weights solve $\sum_j r_j^{k-1} \rho_j = k!\, \varphi_{k+1}(g)\, g / B(g)$. The
corrector adds the newest estimate (r = 1), evaluated at the predicted state and kept as history: no extra evaluation.

Reference: UniPC, Zhao et al. (2023), algorithm 1 and eq. 3-9.
"""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from rheos.core import scalars as sc
from rheos.core.errors import OptionError, check_choice
from rheos.core.paths import Time
from rheos.core.scalars import Scalar
from rheos.core.solver import DONE, Ask, Solver, SolverState
from rheos.core.state import State, add, affine
from rheos.sample.exponential import check_backwards

__all__ = ["UniPC"]


def weights(r: list[Scalar], g: Scalar, variant: str) -> list[Scalar]:
    """B(g) rho_j for the nodes r_j; one number each, or one a row.

    A single node takes the classical 1/2, which keeps the order and is what the authors run.
    """
    if len(r) == 1:
        return [0.5 * (sc.expm1(g) if variant == "bh2" else g)]
    phi, rhs = sc.divide(sc.expm1(g), g), list[Scalar]()
    for k in range(1, len(r) + 1):
        rest = phi - 1 / math.factorial(k)  # phi_{k+1}(g) g
        rhs.append(math.factorial(k) * rest)
        phi = rest / g
    return vandermonde(r, rhs)


def vandermonde(nodes: list[Scalar], sides: list[Scalar]) -> list[Scalar]:
    r"""Solve $\sum_j r_j^k \rho_j = b_k$ for k = 0 .. n - 1; numbers, or one system a row.

    Reference: Golub & Van Loan, Matrix Computations, algorithm 4.6.2 (Björck & Pereyra).
    """
    b, n = list(sides), len(sides) - 1
    for k in range(n):
        for i in range(n, k, -1):
            b[i] = b[i] - nodes[k] * b[i - 1]
    for k in reversed(range(n)):
        for i in range(k + 1, n + 1):
            b[i] = sc.divide(b[i], nodes[i] - nodes[i - k - 1])
        for i in range(k, n):
            b[i] = b[i] - b[i + 1]
    return b


def masked_weights(r: list[Scalar], newest: bool, h: Scalar, variant: str) -> list[Scalar]:
    """`weights` where an infinite node (history at t = 0) drops out, and an infinite step drops them all.

    Args:
        r: Nodes, history first (only its last may be infinite), then 1 for the corrector when `newest`.
        newest: Whether the last node is the corrector's.
        h: Step in lambda.
        variant: "bh1" or "bh2".
    """
    past = len(r) - newest
    if not isinstance(h, Tensor):
        if abs(h) == math.inf:
            return [0.0] * len(r)
        kept = [j for j, v in enumerate(r) if abs(v) != math.inf]
        found = iter(weights([r[j] for j in kept], -h, variant)) if kept else iter(())
        return [next(found) if j in kept else 0.0 for j in range(len(r))]
    rows_r = [torch.as_tensor(v, dtype=h.dtype, device=h.device).expand_as(h) for v in r]
    valid = sum((v.isfinite().long() for v in rows_r[:past]), torch.zeros_like(h).long())
    g = torch.where(h.isinf(), -1.0, -h)
    total = [torch.zeros_like(h) for _ in r]
    for count in range(past + 1):
        kept = [*range(count), *range(past, len(r))]
        if not kept:
            continue
        safe = [torch.where(valid == count, rows_r[j], -float(j + 1) if j < past else 1.0) for j in kept]
        for j, w in zip(kept, weights(list(safe), g, variant), strict=True):
            total[j] = torch.where((valid == count) & ~h.isinf(), w, total[j])
    return list(total)


@final
@dataclass(frozen=True, kw_only=True)
class UniPC(Solver):
    """Multistep unified predictor-corrector.

    Args:
        order: p, 1 to 3; with the corrector the order of convergence is p + 1.
        variant: "bh2", B(g) = e^g - 1, or "bh1", B(g) = g.
        corrector: Whether to correct.

    Raises:
        OptionError: If the order is not 1, 2 or 3.
        UnknownOptionError: For an unknown variant.
    """

    order: int = 2
    variant: str = "bh2"
    corrector: bool = True

    schedule_free = False

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise OptionError(f"UniPC has orders 1, 2 and 3, got {self.order}.")
        check_choice("variant", self.variant, ("bh1", "bh2"))

    def init(self, x: State) -> SolverState:
        """No history."""
        return {**super().init(x), "data": (), "lam": (), "from": None, "from_t": None}

    def start(self, s: SolverState, t: Time, end: Time) -> SolverState:
        """Begin an interval."""
        check_backwards(self, t, end)
        return super().start(s, t, end)

    def ask(self, s: SolverState) -> Ask:
        """The data estimate at the (predicted) state."""
        t = s["t"]
        return Ask(s["x"], t, (t, s["end"]), "data")

    def tell(self, s: SolverState, value: State, noise: State | None = None, lead: State | None = None) -> SolverState:
        """Correct the present state with the new estimate, then predict the next."""
        t, end, x = s["t"], s["end"], s["x"]
        if self.corrector and s["from"] is not None:
            x = self._step(s["from"], s["from_t"], t, s["data"], s["lam"], s["data"][0], value)
        data = (value, *s["data"])[: self.order]
        lam = (self.law.lam(t), *s["lam"])[: self.order]
        after = self._step(x, t, end, data, lam, value if lead is None else lead, None)
        return {**s, "x": after, "data": data, "lam": lam, "from": x, "from_t": t, "stage": DONE}

    def _step(
        self,
        x: State,
        t: Scalar,
        end: Scalar,
        data: tuple[State, ...],
        lam: tuple[Scalar, ...],
        lead: State,
        newest: State | None,
    ) -> State:
        """From (x, t) to end by the history (newest first), and the estimate at the end where there is one."""
        law = self.law
        c = sc.divide(law.sigma(end), law.sigma(t))
        x = affine(c, x, law.alpha(end) - law.alpha(t) * c, lead)
        h = law.lam(end) - lam[0]
        r = [sc.divide(past - lam[0], h) for past in lam[1:]]
        ends = [*data[1:], newest] if newest is not None else list(data[1:])
        if newest is not None:
            r.append(1.0)
        for w, node, m in zip(masked_weights(r, newest is not None, h, self.variant), r, ends, strict=True):
            if not isinstance(w, Tensor) and w == 0:
                continue
            gain = -law.alpha(end) * sc.where(w == 0, 0.0, sc.divide(w, node))
            x = add(add(x, gain, m), -gain, data[0])
        return x

    def move(self, s: SolverState, x: State, restart: bool = False) -> SolverState:
        """A moved state is not corrected back: its step is forgotten, the history stays."""
        return super().move(s, x, restart) if restart else {**s, "x": x, "from": None}
