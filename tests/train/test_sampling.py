"""What a run remembers of how it is sampled: it is the default, and what is asked for wins."""

import json
from pathlib import Path

import pytest
import torch

from rheos import core, nets, sample
from rheos.core.errors import OptionError, UnknownOptionError
from rheos.data import load as load_data
from rheos.distill import Consistency, mdt_dist, progressive
from rheos.train import Options, Run, Sampling, fit, load

MOONS = load_data("moons", limit=64)
QUICK = Options(batch=16, sample_every=0)


@pytest.fixture(scope="module")
def flow() -> Run:
    torch.manual_seed(0)
    field = core.Field(nets.MLP(2, hidden=8, depth=1, time_features=8))
    return fit(field, core.FlowMatching(), MOONS, steps=2, options=QUICK)


def test_a_run_draws_as_it_is_told_to_be_sampled_and_what_is_asked_for_wins(flow: Run, tmp_path: Path) -> None:
    made = flow.sampled_by(Sampling(3, "euler"))
    saved = load(made.save(tmp_path / "made"))
    assert saved.sampling == made.sampling == Sampling(3, "euler")
    for run in (made, saved):
        assert torch.equal(run.draw(4), sample.draw(flow.field, 4, steps=3, solver="euler"))
        assert torch.equal(run.draw(4, steps=5), sample.draw(flow.field, 4, steps=5, solver="euler"))
        assert torch.equal(run.draw(4, solver="heun"), sample.draw(flow.field, 4, steps=3, solver="heun"))
    assert flow.sampling == Sampling()  # the run that it was made of stays
    assert torch.equal(flow.draw(4), sample.draw(flow.field, 4, steps=20, solver="heun"))
    assert "| sampled by | 3 steps of euler |" in (tmp_path / "made" / "README.md").read_text(encoding="utf-8")


def test_a_run_without_a_word_of_sampling_is_as_before(flow: Run, tmp_path: Path) -> None:
    saved = load(flow.save(tmp_path / "old"))
    assert "sampling" not in json.loads((tmp_path / "old" / "config.json").read_text())
    assert torch.equal(saved.draw(4), sample.draw(flow.field, 4))
    assert "sampled by" not in (tmp_path / "old" / "README.md").read_text(encoding="utf-8")


def test_halved_steps_are_the_steps_of_the_run(flow: Run, tmp_path: Path) -> None:
    made = progressive(flow, MOONS, steps=2, start=8, end=2, out=tmp_path / "half", options=QUICK, progress=False)
    again = load(tmp_path / "half" / "steps_002")
    assert made.sampling == again.sampling == Sampling(2, "euler")
    assert torch.equal(again.draw(4), sample.draw(made.field, 4, steps=2, solver="euler"))


def test_jumps_to_the_data_are_taken_with_fresh_noise_between(flow: Run) -> None:
    made = mdt_dist(flow, MOONS, steps=2, options=QUICK, progress=False)
    assert made.sampling == Sampling(solver="renoise")
    assert torch.equal(made.draw(4, steps=2), sample.draw(made.field, 4, steps=2, solver="renoise"))
    assert torch.equal(made.draw(4, solver="euler"), sample.draw(made.field, 4, solver="euler"))
    assert Consistency().sampling == Sampling(solver="renoise")
    assert Consistency(phases=4).sampling == Sampling(4, "euler")
    coupled = Consistency(flow=core.FlowMatching(coupling="exact-ot", dropout=0.0))
    assert coupled.sampling == Sampling()  # noise that depends on the data is not drawn afresh


def test_steps_and_solvers_that_there_are_not_are_refused(flow: Run) -> None:
    with pytest.raises(OptionError, match="steps must be a whole number of at least 1, got 0"):
        Sampling(0)
    with pytest.raises(UnknownOptionError, match="did you mean 'renoise'"):
        Sampling(solver="renois")
    damaged = flow.sampled_by(Sampling(1))
    damaged.config["sampling"] = {"kind": "Sampling", "steps": -1}
    with pytest.raises(OptionError, match="at least 1, got -1"):
        damaged.draw(2)
