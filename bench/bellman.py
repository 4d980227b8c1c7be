"""The search for the best steps, once its costs are measured."""

import torch

from bench.harness import Ratio, in_turn
from rheos.core import GaussianMixtureField
from rheos.distill import BellmanSearch, bellman_costs

BUDGET = 0.1
"""Seconds for 8 steps on 100 nodes."""


def search() -> list[Ratio]:
    """Seconds of the dynamic programme for K = 8 on 100 anchors; what measuring the costs took stands beside it."""
    torch.set_num_threads(1)
    flow = GaussianMixtureField(means=[[-2.0], [1.5]], stds=[0.5, 0.3], weights=[0.3, 0.7])
    costs = bellman_costs(flow, BellmanSearch())
    times = in_turn(
        {"search": lambda: costs.best(8), "costs": lambda: bellman_costs(flow, BellmanSearch(rows=10))}, 15, 2
    )
    detail = f"{times['search'].text(1e3, 'ms')}; costs of 10 trajectories {times['costs'].text(1e3, 'ms')}"
    return [Ratio("Bellman search, K = 8 of 100", "budget", times["search"].median, "<=", BUDGET, "s", detail)]
