r"""Weighted conditional flow matching: independent pairs, each weighted by a Gibbs kernel of its cost.

$w = e^{-c(x_0, x_1)/\varepsilon}$ on independent pairs is, in expectation, training under the coupling
$\pi \propto e^{-c/\varepsilon} p_0 p_1$: the entropic-transport plan up to its two potentials, at the price of
plain flow matching. What the missing potentials cost is a tilt of both marginals; `tilt` measures it, `Tilted`
starts a sampler where training did, and `half_steps` restores the potentials batch by batch.

Reference: Weighted Conditional Flow Matching, Calvo-Ordóñez et al. (2025), https://arxiv.org/abs/2507.22270
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, final

import torch
from jaxtyping import Float64
from torch import Tensor

from rheos.core.base import Cond, Coupling, Pairs, Source
from rheos.core.draws import Draws
from rheos.core.errors import NonFiniteError, OptionError, ShapeError, check_choice
from rheos.core.sources import Gaussian
from rheos.core.state import State, concat, map_state, rows, select
from rheos.core.transport import check_rows, half_steps, log_mean_exp, squared_distances

__all__ = ["Cost", "Gibbs", "Tilt", "Tilted", "calibrate", "effective_share", "tilt"]

Cost = Literal["l2", "sqeuclidean"] | Callable[[State, State], Tensor]
"""Of pairs of rows: the distance over all elements of a row, its square, or a function (x0, x1) -> (B,)."""


def pair_costs(x0: State, x1: State, cost: Cost) -> Float64[Tensor, " b"]:
    """c(x0_i, x1_i) of each pair."""
    if callable(cost):
        c = cost(x0, x1)
        if c.shape != (rows(x0),):
            raise ShapeError(f"A cost returns one number a pair, shape ({rows(x0)},), got {tuple(c.shape)}.")
        return c.double()
    gap = map_state(lambda a, b: (a - b).reshape(len(a), -1), x0, x1)
    parts = [gap] if isinstance(gap, Tensor) else list(gap.values())
    norms = torch.stack([torch.linalg.vector_norm(p, dim=1, dtype=torch.float64) for p in parts])
    return norms.square().sum(0) if cost == "sqeuclidean" else torch.linalg.vector_norm(norms, dim=0)


def all_costs(x0: State, x1: State, cost: Cost) -> Float64[Tensor, "n m"]:
    """c(x0_i, x1_j) of every source row with every data row."""
    if not callable(cost):
        squared = squared_distances(x0, x1)
        return squared if cost == "sqeuclidean" else squared.sqrt_()
    n, m = rows(x0), rows(x1)
    step = max(1, 65536 // m)
    blocks = []
    for start in range(0, n, step):
        i = torch.arange(start, min(start + step, n))
        left = select(x0, i.repeat_interleave(m))
        blocks.append(pair_costs(left, select(x1, torch.arange(m).repeat(len(i))), cost).reshape(len(i), m))
    return torch.cat(blocks)


def effective_share(log_weight: Float64[Tensor, " b"]) -> Float64[Tensor, ""]:
    r"""ESS / B $= (\sum w)^2 / (B \sum w^2)$: which share of the batch the weights leave at work.

    Example:
        >>> effective_share(torch.tensor([0.0, 0.0, -torch.inf, -torch.inf], dtype=torch.float64))
        tensor(0.5000, dtype=torch.float64)
    """
    return (2 * log_weight.logsumexp(0) - (2 * log_weight).logsumexp(0)).exp() / len(log_weight)


def calibrate(costs: Float64[Tensor, " n"], share: float = 0.5) -> float:
    r"""The epsilon at which $e^{-c/\varepsilon}$ keeps the effective share, by bisection; no randomness.

    The share falls monotonically in 1/epsilon, because the cumulant function of the costs is convex.

    Args:
        costs: Costs of pilot pairs; some thousands.
        share: Wanted ESS / n, in (0, 1).

    Raises:
        NonFiniteError: If a cost is not finite.
        OptionError: If so many pairs tie for the lowest cost that no epsilon brings the share down.

    Example:
        >>> costs = torch.tensor([0.0, 1.0], dtype=torch.float64)  # (1 + w)^2 / (2 + 2 w^2) = 0.8 at w = 1/3
        >>> round(calibrate(costs, 0.8) * math.log(3), 6)
        1.0
    """
    if not 0 < share < 1:
        raise OptionError(f"The wanted effective share must lie in (0, 1), got {share}.")
    if not bool(costs.isfinite().all()):
        raise NonFiniteError("The pilot's costs hold a NaN or an infinity; check source, data and cost.")
    c = (costs - costs.min()).cpu()
    spread = float(c.mean())
    tied = float((c <= 1e-6 * costs.abs().max().cpu()).double().mean())  # float32 states round their costs
    if tied >= share:
        raise OptionError(
            f"{tied:.0%} of the pilot's pairs tie for the lowest cost, so no epsilon keeps a share of {share:g}. "
            "Give epsilon as a number, or a cost that tells pairs apart."
        )
    low, high = math.log(spread) - 40.0, math.log(spread) + 40.0
    for _ in range(80):
        middle = 0.5 * (low + high)
        if float(effective_share(c * -math.exp(-middle))) < share:
            low = middle
        else:
            high = middle
    return math.exp(0.5 * (low + high))


@final
@dataclass(frozen=True)
class Gibbs(Coupling):
    r"""Independent pairs weighted by $w = e^{-c(x_0, x_1)/\varepsilon}$; no gradient flows through the weights.

    Large epsilon gives plain flow matching, small epsilon straighter paths from fewer effective pairs. In high
    dimension distances concentrate, and epsilon of the order of $0.1 \sqrt{d}$ is usual with "l2". Weights act
    across classes as transport does: `PerCondition(Gibbs())` normalises them in each class.

    Args:
        epsilon: Positive, in the unit of the cost; or "auto": fixed once by `prepare` on a pilot so that ESS / B
            equals `share`. Its meaning depends on the cost, so both belong in a checkpoint.
        cost: "l2", "sqeuclidean", or a function (x0, x1) -> (B,).
        normalize: "batch": mean one over the batch, never under- or overflowing, biased towards the nearest pair in
            tiny batches. "none": the paper's plain mean, which shrinks the loss, often by orders of magnitude.
            "ema": divide by E[w]. A running mean of w tends to this number, because neither law changes in
            training; so it is estimated once, by `prepare`, and a coupling stays free of state. Use it with small B.
        half_steps: Restore marginals by so many Sinkhorn half-steps on the batch (0: the paper; 1 to 3; B x B costs):
            an odd number makes E[w | x0] constant, where sampling starts; many approach minibatch entropic transport.
        share: What "auto" aims at, in (0, 1).
        log_mean: ln E[w] for "ema"; None: estimated by `prepare`.
        on_pairs: Whether to weigh pairs that the data set delivers, which selects among them anew.

    Raises:
        OptionError: For values outside these ranges.

    Example:
        >>> x0, x1 = torch.zeros(2, 1), torch.tensor([[0.0], [1.0]])
        >>> Gibbs(1 / math.log(3))(x0, x1, {}, Draws(torch.arange(2))).weight
        tensor([1.5000, 0.5000], dtype=torch.float64)
    """

    epsilon: float | Literal["auto"] = "auto"
    cost: Cost = "l2"
    normalize: Literal["batch", "none", "ema"] = "batch"
    half_steps: int = 0
    share: float = 0.5
    log_mean: float | None = None
    on_pairs: bool = False
    gaussian = False

    def __post_init__(self) -> None:
        if self.epsilon != "auto" and not (isinstance(self.epsilon, int | float) and self.epsilon > 0):
            raise OptionError(f"epsilon must be positive or 'auto', got {self.epsilon!r}. It has the unit of the cost.")
        if not callable(self.cost):
            check_choice("cost", self.cost, ("l2", "sqeuclidean"))
        check_choice("normalize", self.normalize, ("batch", "none", "ema"))
        if not self.half_steps >= 0:
            raise OptionError(f"half_steps must be 0 or more, got {self.half_steps}.")
        if not 0 < self.share < 1:
            raise OptionError(f"share must lie in (0, 1), got {self.share}.")
        object.__setattr__(self, "accepts_pairs", self.on_pairs)

    def prepare(self, x0: State, x1: State, cond: Cond, draws: Draws) -> "Gibbs":
        """Fix what is open, on independent pilot pairs; a Gibbs with nothing open returns itself.

        Args:
            x0: Source rows of the pilot; about 4096.
            x1: As many data rows.
            cond: Not looked at.
            draws: Not looked at.

        Warns:
            RuntimeWarning: If a given epsilon leaves less than a tenth of the pilot at work.
        """
        check_rows(x0, x1)
        costs = pair_costs(x0, x1, self.cost)
        epsilon = calibrate(costs, self.share) if self.epsilon == "auto" else self.epsilon
        fixed = replace(self, epsilon=epsilon) if self.epsilon == "auto" else self
        _warn_if_starved(effective_share(costs / -epsilon), costs, epsilon)
        if self.normalize == "ema" and self.log_mean is None:
            log_mean = 0.0 if self.half_steps else float(log_mean_exp(costs / -epsilon, 0))
            fixed = replace(fixed, log_mean=log_mean)
        return fixed

    @torch.no_grad()
    def __call__(self, x0: State, x1: State, cond: Cond, draws: Draws) -> Pairs:
        """Weigh the pairs; the log gets `ess`, the effective share of the batch.

        Raises:
            OptionError: If something that `prepare` fixes is still open.
            ShapeError: If source and data differ in shape.
            NonFiniteError: If a cost is not finite (looked at on a CPU only).

        Warns:
            RuntimeWarning: If less than a tenth of the batch is at work (looked at on a CPU only).
        """
        epsilon = self._fixed()
        check_rows(x0, x1)
        costs = pair_costs(x0, x1, self.cost)
        log = costs / -epsilon
        if self.half_steps:
            u, v = half_steps(all_costs(x0, x1, self.cost) / -epsilon, self.half_steps)
            log = log + u + v
        share = effective_share(log)
        if costs.device.type == "cpu":
            if not bool(costs.isfinite().all()):
                raise NonFiniteError("A pair's cost is NaN or infinite; check the source, the data and the cost.")
            if not self.half_steps and float(share) < 0.1:
                warnings.warn(
                    f"Gibbs weights with epsilon={epsilon:.3g} leave less than a tenth of a batch at work; "
                    "epsilon='auto' finds one that keeps half.",
                    RuntimeWarning,
                    stacklevel=2,
                )
        return Pairs(x0, x1, cond, self._normalised(log), logs={"ess": share})

    def _normalised(self, log: Tensor) -> Tensor:
        if self.normalize == "batch":
            return log.softmax(0) * len(log)
        return (log - (self.log_mean or 0.0)).exp() if self.normalize == "ema" else log.exp()

    def _fixed(self) -> float:
        if self.epsilon == "auto" or (self.normalize == "ema" and self.log_mean is None):
            what = "epsilon='auto'" if self.epsilon == "auto" else "the mean weight of normalize='ema'"
            raise OptionError(
                f"Gibbs finds {what} once, on a pilot of about 4096 pairs. Use coupling.prepare(x0, x1, cond, draws), "
                "as train.fit does, or give the number."
            )
        return self.epsilon


def _warn_if_starved(share: Tensor, costs: Tensor, epsilon: float) -> None:
    if float(share) < 0.1:
        try:
            hint = f"Try epsilon={calibrate(costs):.3g}, which keeps half."
        except OptionError:
            hint = "Raise epsilon."
        warnings.warn(
            f"Gibbs weights with epsilon={epsilon:.3g} leave {float(share):.1%} of the pairs at work. {hint}",
            RuntimeWarning,
            stacklevel=3,
        )


class Tilt(NamedTuple):
    """How far Gibbs weights tilt the marginals: ln of trained density over given density, row by row.

    Args:
        source: (n,), zero where the source law is kept.
        data: (m,), zero where the data law is kept.
    """

    source: Tensor
    data: Tensor


@torch.no_grad()
def tilt(x0: State, x1: State, epsilon: float, cost: Cost = "l2") -> Tilt:
    r"""$\ln \tilde p_0/p_0 = \ln E_{x_1} e^{-c/\varepsilon} - \ln E\, e^{-c/\varepsilon}$ and likewise for the data.

    Args:
        x0: n source rows.
        x1: m data rows; n x m costs are formed.
        epsilon: Positive, in the unit of the cost.
        cost: As in `Gibbs`.

    Raises:
        OptionError: If epsilon is not positive.

    Example:
        >>> angle = torch.arange(8, dtype=torch.float64) * math.pi / 4
        >>> circle = torch.stack((angle.cos(), angle.sin()), 1)
        >>> tilt(circle, 3 * circle, epsilon=0.5).source.abs().max() < 1e-12  # concentric circles are not tilted
        tensor(True)
    """
    if not epsilon > 0:
        raise OptionError(f"epsilon must be positive, got {epsilon}.")
    log = all_costs(x0, x1, cost) / -epsilon
    total = log.logsumexp((0, 1)) - math.log(log.numel())
    return Tilt(log_mean_exp(log, 1) - total, log_mean_exp(log, 0) - total)


@final
@dataclass(frozen=True, eq=False)
class Tilted(Source):
    r"""The tilted source $\tilde p_0 \propto p_0 E_{x_1} e^{-c/\varepsilon}$, where a flow trained with `Gibbs` begins.

    Each row draws candidates from the base and keeps one with probability proportional to its tilt, so rows stay
    independent of each other; the law is exact as the number of candidates grows.

    Args:
        data: Data rows that stand for p1; some thousands.
        gibbs: The coupling of the training, with a fixed epsilon.
        candidates: How many a row.
        base: The source of the training.

    Raises:
        OptionError: If the coupling's epsilon is open, or candidates is below 1.
    """

    data: State
    gibbs: Gibbs
    candidates: int = 16
    base: Source = field(default_factory=Gaussian)

    def __post_init__(self) -> None:
        if self.gibbs.epsilon == "auto":
            raise OptionError("Tilted needs the epsilon of the training; pass the run's prepared coupling.")
        if self.candidates < 1:
            raise OptionError(f"candidates must be at least 1, got {self.candidates}.")

    @torch.no_grad()
    def __call__(self, like: State, cond: Cond, draws: Draws) -> State:
        """Resample one candidate a row."""
        n = rows(like)
        drawn = [self.base(like, cond, draws.fold("candidate", k)) for k in range(self.candidates)]
        log = torch.stack([self._log_tilt(x) for x in drawn], 1)
        u = draws.uniform("pick", shape=(1,)).to(log.device)
        pick = torch.searchsorted(log.softmax(1).cumsum(1), u).squeeze(1).clamp_(max=self.candidates - 1)
        return select(concat(drawn), pick * n + torch.arange(n, device=pick.device))

    def _log_tilt(self, x: State) -> Tensor:
        return log_mean_exp(all_costs(x, self.data, self.gibbs.cost) / -float(self.gibbs.epsilon), 1)
