"""The benchmark of the solvers compares like with like."""

import math
import sys

import pytest
import torch

from rheos.claims.checkout import root
from rheos.sample import RK4, DPMSolver, RungeKutta, solve, solver


@pytest.fixture(scope="module", autouse=True)
def _checkout():
    """`bench` lies beside the package, in a checkout."""
    here = root()
    if here is None or not (here / "bench").is_dir():
        pytest.skip("there is no checkout")
    sys.path.insert(0, str(here))
    yield
    sys.path.remove(str(here))


@pytest.fixture(scope="module")
def truth(_checkout):
    from bench.solvers import Truth

    return Truth()


def by_name():
    from bench.peers import peers

    return {(p.name, str(p.ours)): p for p in peers()}


def test_the_reference_is_much_closer_than_what_is_measured(truth):
    grid = [k / 500 for k in range(501)]
    fine = solve(truth.field, truth.x, grid, RungeKutta(tableau=RK4)).x
    assert truth.error(fine, (0.0, 1.0)) < 1e-9  # half as many steps: 16 times the reference's own error


SAME = ["euler", "midpoint", "heun2", "heun3", "rk4"]


@pytest.mark.parametrize("method", SAME)
def test_a_peer_of_the_same_tableau_lands_where_ours_does(truth, method):
    pytest.importorskip("torchdiffeq")
    from bench.solvers import Exact

    peer = next(p for (name, _), p in by_name().items() if name == f"torchdiffeq {method}")
    walk = peer.make(Exact(truth.field), len(truth.x), 5)
    ours = solve(truth.field, truth.x, walk.times, peer.ours).x
    torch.testing.assert_close(walk.solve(truth.x), ours, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("label", ["FlowMatchEuler", "DPMSolverMultistep dpmsolver++ 2", "UniPC 2"])
def test_a_scheduler_of_diffusers_lands_where_ours_does(truth, label):
    pytest.importorskip("diffusers")
    from bench.solvers import Exact

    peer = next(p for (name, _), p in by_name().items() if name == f"diffusers {label}")
    walk = peer.make(Exact(truth.field), len(truth.x), 8)
    ours = solve(truth.field, truth.x, walk.times, peer.ours).x
    torch.testing.assert_close(walk.solve(truth.x).double(), ours, rtol=0, atol=2e-5)  # it keeps the state in float32


def test_every_row_has_a_name_of_its_own():
    from bench.peers import peers
    from bench.solvers import _name

    names = [(p.name, _name(p.ours)) for p in peers()]
    assert len(set(names)) == len(names)


def test_a_method_is_called_by_its_name_or_by_what_it_changes():
    from bench.solvers import _name

    assert _name(solver("dpm++2m")) == "dpm++2m"
    assert _name(DPMSolver(variant="heun")) == "DPMSolver(variant='heun')"


def test_the_cost_is_the_median_of_the_differences_within_a_round():
    from bench.harness import Timing
    from bench.solvers import _cost

    drifting = [1e-3, 2e-3, 4e-3]
    times = {"bare": Timing(tuple(drifting)), "rheos": Timing(tuple(s + 4e-4 for s in drifting))}
    assert math.isclose(_cost(times, "rheos", "bare", 40), 10.0)
