r"""UniPC: a predictor of order p and a corrector of order p + 1 for the price of the predictor.

Data prediction, $g = -h$: with $r_j = (\lambda_{i-j} - \lambda_i) / h$, $D_j = (m_{i-j} - m_i) / r_j$ and
$\varphi_1(g) g = e^g - 1$, the step is the exponential one less $\alpha' B(g) \sum_j \rho_j D_j$, and the weights solve
$\sum_j r_j^{k-1} \rho_j = k!\, \varphi_{k+1}(g)\, g / B(g)$. The corrector adds the newest estimate (r = 1),
evaluated at the predicted state and kept as history: no extra evaluation.

Reference: UniPC, Zhao et al. (2023), algorithm 1 and eq. 3-9, https://arxiv.org/abs/2302.04867
"""

from dataclasses import dataclass
from typing import ClassVar, final

from rheos.core import scalars as sc
from rheos.core.errors import check_choice
from rheos.core.scalars import Scalar
from rheos.core.solver import SolverState
from rheos.core.state import State
from rheos.sample.exponential import ExponentialMultistep
from rheos.sample.multistep import Weights, vandermonde

__all__ = ["UniPC"]


def weights(r: list[Scalar], g: Scalar, variant: str) -> list[Scalar]:
    """B(g) rho_j for the nodes r_j; one number each, or one a row.

    A single node takes the classical 1/2, which keeps the order and is what the authors run.
    """
    if len(r) == 1:
        return [0.5 * (sc.expm1(g) if variant == "bh2" else g)]
    phi, rhs, factorial = sc.expm1(g) / g, list[Scalar](), 1
    for k in range(1, len(r) + 1):
        factorial *= k
        rest = phi - 1 / factorial  # phi_{k+1}(g) g
        rhs.append(factorial * rest)
        phi = rest / g
    return vandermonde(r, rhs)


@final
@dataclass(frozen=True, kw_only=True)
class UniPC(ExponentialMultistep):
    """Multistep unified predictor-corrector.

    Args:
        order: p, 1 to 3; with the corrector the order of convergence is p + 1.
        warmup: See `Multistep`.
        variant: "bh2", B(g) = e^g - 1, or "bh1", B(g) = g.
        corrector: Whether to correct.
        reach: See `Multistep`.
        leads_corrector: Whether a leading term that a hook replaced in the predictor is replaced in the corrector too.

    Raises:
        OptionError: If the order is not 1, 2 or 3, or the estimates are not of the data.
        UnknownOptionError: For an unknown variant.
    """

    variant: str = "bh2"
    corrector: bool = True
    leads_corrector: bool = False
    reach: float = 1.5

    orders: ClassVar[tuple[int, ...]] = (1, 2, 3)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("variant", self.variant, ("bh1", "bh2"))
        check_choice("estimates", self.estimates, ("data",))

    @property
    def depth(self) -> int:
        """The corrector needs one estimate more."""
        return self.order if self.corrector else self.order - 1

    def init(self, x: State) -> SolverState:
        """No history, and no step to correct."""
        return {**super().init(x), "from": None, "from_t": None, "lead": None}

    def tell(self, s: SolverState, value: State, noise: State | None = None, lead: State | None = None) -> SolverState:
        """Correct the present state with the new estimate, then predict the next."""
        if s["stage"] or s.get("cold"):  # the warm-up needs no correction
            return super().tell(s, value, noise, lead)
        t = s["t"]
        if s["from"] is not None:
            newest, first = s["past"][0], s["lead"] if self.leads_corrector else s["past"][0]
            past = (newest, value, *s["past"][1:])
            where = (s["where"][0], self.position(t), *s["where"][1:])
            s = {**s, "x": self.advance(s["from"], s["from_t"], t, first, past, where)}
        after = super().tell(s, value, noise, lead)
        if not self.corrector:
            return after
        first = (value if lead is None else lead) if self.leads_corrector else None
        return {**after, "from": s["x"], "from_t": t, "lead": first}

    def corrections(self, end: Scalar, there: Scalar, where: tuple[Scalar, ...]) -> Weights:
        r"""$-\alpha' B \rho_j / r_j$."""
        h = there - where[0]
        r = [(z - where[0]) / h for z in where[1:]]
        scale = -self.law.alpha(end)
        found = [scale * w / node for w, node in zip(weights(r, -h, self.variant), r, strict=True)]
        return (-sum(found[1:], found[0]), *found)

    def move(self, s: SolverState, x: State, restart: bool = False) -> SolverState:
        """A moved state is not corrected back: its step is forgotten, the history stays."""
        return super().move(s, x, restart) if restart else {**s, "x": x, "from": None}
