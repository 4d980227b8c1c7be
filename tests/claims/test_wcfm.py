import pytest
import torch

from rheos.claims import wcfm
from rheos.claims.timing import in_turn
from rheos.core import Draws, Field
from rheos.data import toy
from rheos.nets import MLP


def test_the_objective_pairs_eight_gaussians_with_moons_and_weighs_them_by_distance():
    rows = toy("moons", 64).x
    field = Field(MLP(2, hidden=8), gaussian=False)
    plan = wcfm.objective(wcfm.COUPLINGS["W-CFM"]).prepare(field, rows, {}, Draws.training(0, 0, 64))
    distance = (plan.x1 - plan.x0).double().norm(dim=1)
    expected = (-distance / wcfm.EPSILON).softmax(0)
    torch.testing.assert_close(plan.weight, expected, rtol=1e-5, atol=1e-9)
    assert torch.equal(plan.x1, rows)
    radius = plan.x0.norm(dim=1)
    assert float(radius.min()) > 3.5
    assert float(radius.max()) < 6.5


def test_a_short_run_in_the_plane_measures_all_figures_of_all_couplings():
    found = wcfm.measure_plane(steps=20, points=64, seeds=(0,), progress=lambda line: None)
    for figure in wcfm.FIGURES:
        for name in wcfm.COUPLINGS:
            (value,) = found.values[figure][name]
            assert value >= 0
    assert found.paths["I-CFM"].shape == (101, 64, 2)


def test_timing_calls_in_turn_and_returns_medians():
    order = []
    found = in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=3, warm=1)
    assert order == ["a", "b"] * 4
    assert found.keys() == {"a", "b"}


def test_the_timed_step_is_a_training_step():
    before = torch.random.get_rng_state()
    run = wcfm._stepper(wcfm.COUPLINGS["I-CFM"], toy("moons", 1000), 64, 5)
    net = run.__closure__
    assert net is not None
    field = next(cell.cell_contents for cell in net if isinstance(cell.cell_contents, Field))
    old = [p.clone() for p in field.parameters()]
    run()
    assert any(not torch.equal(a, b) for a, b in zip(old, field.parameters(), strict=True))
    torch.random.set_rng_state(before)


@pytest.mark.parametrize("name", list(wcfm.COUPLINGS))
def test_couplings_are_the_ones_that_the_card_names(name):
    kinds = {"I-CFM": "Independent", "OT-CFM": "ExactOT", "W-CFM": "Gibbs"}
    assert type(wcfm.COUPLINGS[name]).__name__ == kinds[name]
