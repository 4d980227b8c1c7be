"""Jumps of an exact flow map land on the trajectory, whatever the grid."""

import pytest
import torch

from rheos import sample
from rheos.core import FlowMapField, GaussianMixtureField
from rheos.core.errors import TimeError, UnknownOptionError
from rheos.sample import FlowMapSteps, Loop, join, solver, split
from strategies import GaussianMap, randn

TRUTH = GaussianMixtureField([[1.5, 1.5]], [0.4])


def field():
    return FlowMapField(GaussianMap(), shape=(2,))


@pytest.mark.parametrize("grid", [(0.0, 1.0), (0.0, 0.1, 1.0), (0.2, 0.3, 0.7, 0.9)])
def test_every_grid_ends_where_the_flow_does(grid):
    x = randn(5, 2)
    solution = sample.solve(field(), x, grid)
    torch.testing.assert_close(solution.x, TRUTH.flow_map(x, grid[0], grid[-1]), rtol=1e-12, atol=1e-12)
    assert solution.calls == len(grid) - 1


def test_it_is_the_usual_solver_of_flow_maps_and_has_a_name():
    assert solver("jump") == FlowMapSteps()
    assert field().usual == "jump"
    x = sample.draw(field(), 4, steps=1)
    assert torch.equal(x, sample.draw(field(), 4, steps=1, solver="jump"))
    torch.testing.assert_close(x, sample.draw(TRUTH, 4, steps=200, solver="rk4").double(), rtol=1e-5, atol=1e-5)
    with pytest.raises(UnknownOptionError, match="did you mean 'jump'"):
        solver("jmp")


def test_rows_on_their_own_clocks_and_joined_flights_jump_alike():
    loop, x = Loop(field(), FlowMapSteps()), randn(4, 2)
    alone = [
        sample.solve(field(), x[k : k + 2], grid).x for k, grid in ((0, (0.0, 0.5, 1.0)), (2, (0.0, 0.3, 0.6, 1.0)))
    ]
    seed = torch.arange(4)
    flights = [loop.begin(x[:2], (0.0, 0.5, 1.0), {}, seed[:2]), loop.begin(x[2:], (0.0, 0.3, 0.6, 1.0), {}, seed[2:])]
    both, _ = sample.drive(loop, field(), join(flights))
    torch.testing.assert_close(both.x, torch.cat(alone), rtol=1e-12, atol=1e-12)
    assert [p.x.shape[0] for p in split(both, [2, 2])] == [2, 2]


def test_a_grid_to_the_noise_is_refused():
    with pytest.raises(TimeError, match="jump towards the data"):
        sample.solve(field(), randn(2, 2), (1.0, 0.0))
