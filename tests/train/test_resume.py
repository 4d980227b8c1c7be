"""Stopped anywhere and resumed is not stopped at all: weights, averages, moments, figures, to the last bit."""

import os
import signal
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from rheos import core
from rheos.core.errors import RunError
from rheos.data import load as load_data


class _CutError(Exception):
    """The plug, pulled."""


@pytest.fixture
def cut(train, monkeypatch):
    """Trains, and dies without a word when a step begins."""

    def run(out, at, **options):
        from rheos.train.engine import Engine

        step = Engine.take

        def dying(self, number, batch):
            if number == at:
                raise _CutError
            step(self, number, batch)

        with monkeypatch.context() as patch:
            patch.setattr(Engine, "take", dying)
            with pytest.raises(_CutError):
                train(out, **options)

    return run


def _optimiser(run):
    return load_file(run.path / "state" / f"step-{run.step:07d}" / "optimiser.safetensors")


@pytest.mark.parametrize("at", range(6))
@pytest.mark.parametrize("every", [1, 2, 5])
def test_a_run_that_dies_at_any_step_and_is_resumed_equals_one_that_did_not(tmp_path, train, cut, equal, at, every):
    whole = train(tmp_path / "whole", save_every=every, log_every=4)
    cut(tmp_path / "cut", at, save_every=every, log_every=4)
    resumed = train(tmp_path / "cut", save_every=every, log_every=4, resume=True)
    assert equal(whole, resumed)
    moments = [_optimiser(run) for run in (whole, resumed)]
    assert moments[0].keys() == moments[1].keys()
    assert all(torch.equal(moments[0][n], moments[1][n]) for n in moments[0])


def test_a_run_that_dies_again_and_again_still_equals_one_that_did_not(tmp_path, train, cut, equal):
    whole = train(tmp_path / "whole", save_every=1)
    for at in range(6):
        cut(tmp_path / "cut", at, save_every=1, resume=True)
    assert equal(whole, train(tmp_path / "cut", save_every=1, resume=True))


def test_dropout_draws_the_same_masks_after_resuming(tmp_path, train, cut, equal):
    class Dropped(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 2))

        def forward(self, x, t):
            return self.layers(x)

    def make():
        torch.manual_seed(0)
        return core.Field(Dropped())

    whole = train(of=make())
    cut(tmp_path, 3, of=make(), save_every=1)
    assert equal(whole, train(tmp_path, of=make(), save_every=1, resume=True))


@dataclass(frozen=True)
class Stopper:
    """Plain flow matching that sends this process a signal in the loss of one step."""

    signal: int
    at: int
    inner: core.FlowMatching = field(default_factory=core.FlowMatching)
    gaussian = True
    consumes = ()
    count: list[int] = field(default_factory=list)

    def calibrate(self, x1: Any, cond: Any, draws: Any) -> "Stopper":
        return self

    def prepare(self, *args: Any) -> core.Plan:
        return self.inner.prepare(*args)

    def loss(self, *args: Any) -> core.Loss:
        if torch.is_grad_enabled():  # the rehearsal is not a step
            self.count.append(1)
            if len(self.count) == self.at:
                os.kill(os.getpid(), self.signal)
        return self.inner.loss(*args)


def test_ctrl_c_finishes_the_step_saves_says_how_to_go_on_and_is_passed_on(tmp_path, train, equal):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background begins with it ignored
    with pytest.raises(KeyboardInterrupt, match=r"Stopped after step 3 of 6; the checkpoint is in .*resume=True"):
        train(tmp_path, objective=Stopper(signal.SIGINT, 3), save_every=0)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert sorted(f.name for f in tmp_path.glob("state/step-*")) == ["step-0000000", "step-0000003"]


def test_sigterm_saves_and_exits_with_the_status_of_a_terminated_process(tmp_path, train, capsys):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        train(tmp_path, objective=Stopper(signal.SIGTERM, 4), save_every=0)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert "Stopped after step 4 of 6" in capsys.readouterr().err
    assert (tmp_path / "state" / "step-0000004").is_dir()
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, train, equal, monkeypatch):
    from rheos.train import session

    whole = train(tmp_path / "whole", save_every=0)
    with monkeypatch.context() as patch:
        patch.setattr(session.Session, "_stop", lambda self, wish: setattr(wish, "signal", 2) or self.done == 3)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "cut", save_every=0)
    assert equal(whole, train(tmp_path / "cut", save_every=0, resume=True))


def test_without_a_directory_an_interruption_says_that_nothing_was_kept(train):
    with pytest.raises(KeyboardInterrupt, match="after step 1 of 6; nothing was kept"):
        train(objective=Stopper(signal.SIGINT, 1))


def test_a_longer_run_goes_on_with_the_same_rows_and_noise(tmp_path, train, equal):
    whole = train(tmp_path / "whole", steps=6, decay="constant")
    train(tmp_path / "cut", steps=4, decay="constant")
    longer = train(tmp_path / "cut", steps=6, decay="constant", resume=True)
    assert equal(whole, longer)
    assert longer.config["steps"] == 6


def test_a_finished_run_is_returned_as_it_is(tmp_path, train, equal):
    assert equal(train(tmp_path), train(tmp_path, resume=True))


def test_resuming_where_there_is_no_run_begins_one(tmp_path, train, equal):
    assert equal(train(tmp_path / "a"), train(tmp_path / "b", resume=True))


def test_the_calibrated_objective_of_the_first_start_is_kept(tmp_path, train, cut, equal):
    gibbs = core.FlowMatching(coupling=core.Gibbs())
    whole = train(tmp_path / "whole", objective=gibbs)
    cut(tmp_path / "cut", 3, objective=gibbs)
    resumed = train(tmp_path / "cut", objective=gibbs, resume=True)
    assert equal(whole, resumed)
    assert isinstance(resumed.objective.coupling.epsilon, float)
    assert resumed.config["objective"]["coupling"]["epsilon"] == "auto"


def test_a_run_is_not_overwritten_without_being_asked_for(tmp_path, train):
    before = train(tmp_path)
    with pytest.raises(RunError, match=r"holds a run at step 6. Pass resume=True to continue it, or choose another"):
        train(tmp_path)
    assert before.metrics()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.5}, r"options\.lr: 0\.002 -> 0\.5"),
        ({"batch": 8, "seed": 1}, r"options\.batch: 16 -> 8; options\.seed: 0 -> 1"),
        ({"steps": 4}, r"steps: 6 -> 4"),
        ({"objective": core.FlowMatching("exact-ot")}, r"objective\.coupling\.kind: Independent -> ExactOT"),
        ({"objective": core.FlowMatching(dropout=0.0)}, r"objective\.dropout: 0\.1 -> 0\.0"),
        ({"data": load_data("moons", limit=101)}, r"data\.fingerprint: \w+ -> \w+"),
    ],
)
def test_another_configuration_is_refused_with_what_differs(tmp_path, train, changes, message):
    train(tmp_path)
    with pytest.raises(RunError, match=f"another configuration: .*{message}"):
        train(tmp_path, resume=True, **changes)


def test_another_network_is_refused(tmp_path, train, field):
    train(tmp_path)
    with pytest.raises(RunError, match=r"field\.net\.activation: selu -> tanh"):
        train(tmp_path, resume=True, of=field(activation="tanh"))


def test_options_that_change_nothing_that_is_learned_may_change(tmp_path, train, cut, equal):
    whole = train(tmp_path / "whole", save_every=2)
    cut(tmp_path / "cut", 3, save_every=1)
    assert equal(whole, train(tmp_path / "cut", save_every=3, keep=1, sample_every=2, resume=True))


def test_an_older_file_without_an_option_that_came_later_can_be_resumed(tmp_path, train, cut, equal):
    from rheos.train.checkpoint import read_json, write_json

    whole = train(tmp_path / "whole")
    cut(tmp_path / "cut", 3)
    stored = read_json(tmp_path / "cut" / "config.json")
    del stored["options"]["weight_decay"]
    write_json(tmp_path / "cut" / "config.json", stored)
    assert equal(whole, train(tmp_path / "cut", resume=True))
