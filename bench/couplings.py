"""Transport couplings beside torchcfm's and POT's, and what a step of weighted flow matching costs."""

import warnings
from typing import Any

import torch

from bench.harness import Ratio, Timing, in_turn
from rheos.claims.wcfm import step_times
from rheos.core import Draws, ExactOT, row_seeds
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
    try:
        from torchcfm.optimal_transport import OTPlanSampler
    except ImportError:
        return []
    sampler = OTPlanSampler("exact")

    def one(n: int, d: int) -> Ratio:
        x0, x1 = _batch(n, d)
        draws = Draws(row_seeds(0, n))
        calls = {"rheos": lambda: ExactOT()(x0, x1, {}, draws), "torchcfm": lambda: sampler.sample_plan(x0, x1)}
        times = in_turn(calls, repeats=15 if n < 1000 else 7)
        return _ratio(f"exact coupling of {n} rows of {d}", "torchcfm", times["rheos"], times["torchcfm"])

    return [one(n, d) for n, d in ((128, 784), (256, 2), (1024, 2))]


def _sinkhorn() -> list[Ratio]:
    return [_plan(*case) for case in ((256, 2, 0.1), (256, 2, 0.03), (256, 784, 0.1), (1024, 2, 0.1))]


def _plan(n: int, d: int, share: float) -> Ratio:
    import ot

    cost = squared_distances(*_batch(n, d))
    epsilon, mass, plain = share * float(cost.mean()), ot.unif(n), cost.numpy()
    stop = TOLERANCE / n**0.5  # POT's is the length of the error, ours the sum of its sizes

    def ours() -> Plan:
        return sinkhorn(cost, epsilon, 100_000, TOLERANCE)

    def theirs() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ot.sinkhorn(mass, mass, plain, epsilon, stopThr=stop, numItermax=100_000)

    times = in_turn({"rheos": ours, "POT": theirs}, repeats=11)
    more = f"; mass on wrong rows {ours().error:.1e} and {abs(theirs().sum(1) - mass).sum():.1e}"
    name = f"Sinkhorn plan of {n} rows of {d}, epsilon {share:g} of the mean cost"
    return _ratio(name, "POT sinkhorn", times["rheos"], times["POT"], more)


def _weighted() -> list[Ratio]:
    times = step_times(15)
    text = ", ".join(f"{name} {1e3 * s:.2f} ms" for name, s in times.items())
    ratio = times["W-CFM, 2048"] / times["I-CFM, 2048"]
    name = "training step with Gibbs weights at batch 2048"
    return [Ratio(name, "independent pairs", ratio, "<=", 1.15, detail=text)]
