"""Transport couplings beside torchcfm's and POT's, and what a step of weighted flow matching costs."""

from functools import partial
from typing import Any

import torch

from bench.harness import Ratio, Timing, in_turn
from rheos.claims.wcfm import step_times
from rheos.core import Draws, ExactOT, Sinkhorn, row_seeds
from rheos.core.transport import Plan, sinkhorn, squared_distances

TOLERANCE = 1e-3


def _ratio(name: str, peer: str, mine: Timing, theirs: Timing, more: str = "") -> Ratio:
    detail = f"rheos {mine.text(1e3, 'ms')}, {peer} {theirs.text(1e3, 'ms')}{more}"
    return Ratio(name, peer, mine.median / theirs.median, "<=", 1.0, detail=detail)


def couplings() -> list[Ratio]:
    """A call of each coupling on the same batch; Sinkhorn at equal tolerance."""
    torch.set_num_threads(1)
    return [*_exact(), *_sinkhorn(), *_weighted()]


def _batch(n: int, d: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(n, d), 0.5 * torch.randn(n, d) + 1


def _exact() -> list[Ratio]:
    """512 rows are also what `Options(batch=64, couple=8)` couples together."""
    try:
        from torchcfm.optimal_transport import OTPlanSampler
    except ImportError:
        return []
    sampler = OTPlanSampler("exact")

    def one(n: int, d: int) -> Ratio:
        x0, x1 = _batch(n, d)
        draws = Draws(row_seeds(0, n))
        calls = {"rheos": lambda: ExactOT()(x0, x1, {}, draws), "torchcfm": lambda: sampler.sample_plan(x0, x1)}
        times = in_turn(calls, repeats=41 if n < 512 else 15)
        return _ratio(f"exact coupling of {n} rows of {d}", "torchcfm", times["rheos"], times["torchcfm"])

    return [one(n, d) for n, d in ((64, 2), (64, 784), (128, 784), (256, 2), (512, 2), (512, 784), (1024, 2))]


SINKHORN = ((256, 2, 0.1), (256, 2, 0.03), (256, 784, 0.1), (512, 2, 0.1), (1024, 2, 0.1), (1024, 2, 0.03))


def _sinkhorn() -> list[Ratio]:
    return [_plan(*case) for case in SINKHORN] + [_pairs(*case) for case in SINKHORN[:1] + SINKHORN[2:3]]


def _plan(n: int, d: int, share: float) -> Ratio:
    import ot

    cost = squared_distances(*_batch(n, d))
    epsilon, mass, plain = share * float(cost.mean()), ot.unif(n), cost.numpy()
    stop = TOLERANCE / n**0.5  # POT's is the length of the error, ours the sum of its sizes

    def ours() -> Plan:
        return sinkhorn(cost, epsilon, 100_000, TOLERANCE)

    def theirs() -> Any:
        return ot.sinkhorn(mass, mass, plain, epsilon, stopThr=stop, numItermax=100_000)

    def wrong(plan: Any) -> float:
        return max(float(abs(plan.sum(axis) - mass).sum()) for axis in (0, 1))

    times = in_turn({"rheos": ours, "POT": theirs}, repeats=41)
    more = f"; mass on wrong rows {wrong(ours().log.exp().numpy()):.1e} and {wrong(theirs()):.1e}"
    name = f"Sinkhorn plan of {n} rows of {d}, epsilon {share:g} of the mean cost"
    return _ratio(name, "POT sinkhorn", times["rheos"], times["POT"], more)


def _pairs(n: int, d: int, share: float) -> Ratio:
    """Costs, plan and drawn pairs. torchcfm gets our tolerance, its own is 1e-9; it forms costs in single precision."""
    import ot
    from torchcfm.optimal_transport import OTPlanSampler

    x0, x1 = _batch(n, d)
    epsilon, draws = share * float(squared_distances(x0, x1).mean()), Draws(row_seeds(0, n))
    sampler = OTPlanSampler("sinkhorn", reg=epsilon)
    sampler.ot_fn = partial(ot.sinkhorn, reg=epsilon, stopThr=TOLERANCE / n**0.5)
    law = Sinkhorn(epsilon, tolerance=TOLERANCE)
    calls = {
        "rheos": lambda: law(x0, x1, {}, draws),
        "torchcfm": lambda: sampler.sample_plan(x0, x1),
        "double": lambda: squared_distances(x0, x1),
        "single": lambda: torch.cdist(x0, x1) ** 2,
    }
    times = in_turn(calls, repeats=41)
    costs = [times[name].text(1e3, "ms") for name in ("double", "single")]
    name = f"Sinkhorn coupling of {n} rows of {d}, epsilon {share:g} of the mean cost"
    more = f"; the costs take {costs[0]} in float64, {costs[1]} in float32"
    return _ratio(name, "torchcfm", times["rheos"], times["torchcfm"], more)


def _weighted() -> list[Ratio]:
    times = step_times(15)
    text = ", ".join(f"{name} {1e3 * s:.2f} ms" for name, s in times.items())
    ratio = times["W-CFM, 2048"] / times["I-CFM, 2048"]
    name = "training step with Gibbs weights at batch 2048"
    return [Ratio(name, "independent pairs", ratio, "<=", 1.15, detail=text)]
