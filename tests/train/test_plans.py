"""Coupling over several steps: what transport sees is larger, what a step trains on is not."""

import pytest
import torch

from rheos import core, nets
from rheos.core.errors import OptionError
from rheos.data import Data
from rheos.data.about import About
from rheos.train import Options, fit
from rheos.train.dist import Team
from rheos.train.engine import Engine
from rheos.train.plans import Plans

CPU = torch.device("cpu")


def plans(couple, coupling="exact-ot", batch=8):
    options = Options(batch=batch, couple=couple)
    torch.manual_seed(0)
    data = Data(torch.randn(64, 2), {"label": torch.arange(64) % 4}, About(class_names=tuple("abcd")))
    field = core.Field(nets.MLP(2, hidden=8, depth=1, classes=4))
    engine = Engine(field, core.FlowMatching(coupling=coupling, dropout=0.0), options, Team(CPU), 12)

    def batches(step):
        return data.batch(data.indices(0, step, batch))

    return Plans(engine, batches, options), batches


def test_a_step_trains_on_its_own_batch_and_conditions_stay_with_their_rows():
    of, batches = plans(4)
    for step in (0, 1, 5, 3, 11):
        plan, batch = of(step), batches(step)
        assert torch.equal(plan.x1, batch.x)
        assert torch.equal(plan.cond["label"], batch.cond["label"])
        assert float(plan.weight.sum()) == pytest.approx(1.0)


def test_a_plan_is_a_function_of_its_step_alone():
    of, _ = plans(4)
    late = of(6)
    again, _ = plans(4)
    for a, b in zip(late[:3], again(6)[:3], strict=True):
        assert torch.equal(a, b)


def test_transport_over_more_rows_is_cheaper():
    def cost(couple):
        of, _ = plans(couple)
        return sum(float((p.x1 - p.x0).square().mean()) for p in map(of, range(8)))

    assert cost(8) < cost(1)


def test_weights_of_a_shared_plan_are_normalised_over_all_of_it():
    of, _ = plans(4, core.Gibbs(1.0))
    total = sum(float(of(k).weight.sum()) for k in range(4))
    assert total == pytest.approx(4.0)
    assert float(of(0).weight.sum()) != pytest.approx(1.0, abs=1e-6)


def test_a_resumed_run_with_shared_plans_ends_like_one_that_never_stopped(tmp_path):
    data = Data(torch.randn(64, 2, generator=torch.Generator().manual_seed(0)))

    def run(out, steps, resume=False):
        torch.manual_seed(0)
        field = core.Field(nets.MLP(2, hidden=8, depth=1))
        options = Options(batch=8, couple=4, save_every=3, sample_every=0, decay="constant", warmup=0)
        objective = core.FlowMatching(coupling="exact-ot")
        return fit(field, objective, data, steps=steps, out=tmp_path / out, options=options, resume=resume)

    whole = run("whole", 10)
    run("cut", 6)
    resumed = run("cut", 10, resume=True)
    for a, b in zip(whole.field.parameters(), resumed.field.parameters(), strict=True):
        assert torch.equal(a, b)


def test_options_out_of_range_are_refused():
    with pytest.raises(OptionError, match="couple"):
        Options(couple=0)
