"""Runs come back from disk as they were: weights, objective, options, figures, data; old formats too."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from rheos import core, nets
from rheos.core.errors import CheckpointError, DataError, OptionError, RunError, UnknownOptionError
from rheos.data import About, Data
from rheos.data import load as load_data
from rheos.sample import draw
from rheos.train import Options, fit, load

V1 = Path(__file__).parent / "fixtures" / "run_v1"


def test_a_run_comes_back_from_its_directory(tmp_path, train, equal, points):
    objective = core.FlowMatching(core.Gibbs(2.0), "logit-normal", "huber")
    run = train(tmp_path, objective=objective, batch=8)
    again = load(tmp_path)
    assert equal(run, again)
    assert again.objective == objective
    assert again.options == run.options
    assert again.options.batch == 8
    assert again.data().fingerprint == points.fingerprint
    assert (again.field.shape, again.field.value_range, again.field.gaussian) == ((2,), None, False)
    assert not again.field.training
    assert repr(again) == f"Run({str(tmp_path)!r}, step 6 of 6, data 'moons')"
    assert torch.equal(draw(run.field, 3, steps=2), draw(again.field, 3, steps=2))


@pytest.mark.usefixtures("untyped")
def test_raw_and_averaged_weights_are_chosen_by_name(tmp_path, train):
    run = train(tmp_path)
    names = {"ema": run.field, "raw": run.raw, None: run.field}
    for weights, field in names.items():
        assert torch.equal(draw(load(tmp_path, weights=weights).field, 2, steps=2), draw(field, 2, steps=2))
    raw = load(tmp_path, weights="raw")
    assert torch.equal(draw(raw.field, 2, steps=2), draw(raw.raw, 2, steps=2))
    with pytest.raises(UnknownOptionError, match="weights 'emma' is unknown; did you mean 'ema'"):
        load(tmp_path, weights="emma")


def test_a_run_without_an_average_says_so(tmp_path, train):
    train(tmp_path, ema=0.0)
    assert load(tmp_path).field.net is not None
    with pytest.raises(CheckpointError, match=r"trained with ema=0, so there is no average. Use weights='raw'"):
        load(tmp_path, weights="ema")


def test_a_stopped_run_shows_its_newest_checkpoint_and_no_later_figure(tmp_path, train):
    train(tmp_path, steps=4, log_every=1)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "loss": 1.0}\n')  # logged, then killed before the next checkpoint
    run = load(tmp_path)
    assert run.step == 4
    assert [line["step"] for line in run.metrics()] == [1, 2, 3, 4]


def test_data_that_changed_are_noticed(tmp_path, field):
    import numpy as np

    file = tmp_path / "x.npy"
    np.save(file, np.zeros((10, 2), np.float32))
    run = fit(field(), core.FlowMatching(), load_data(file), steps=1, out=tmp_path / "run", options=Options(batch=4))
    np.save(file, np.ones((10, 2), np.float32))
    with pytest.raises(RunError, match="x has changed since this run: its fingerprint is"):
        load(run.path).data()


def test_data_made_in_memory_say_that_they_cannot_be_read_again(train, labelled, field):
    run = train(data=labelled, of=field(classes=3))
    with pytest.raises(DataError, match="made in memory"):
        run.data()


class Own(nn.Module):
    """A network of a user."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.config = {"width": width}
        self.layers = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 2))

    def forward(self, x, t):
        return self.layers(x)


def test_a_network_of_ones_own_is_trained_resumed_and_given_when_loading(tmp_path, train, equal):
    torch.manual_seed(0)
    run = train(tmp_path, of=core.Field(Own(5)))
    train(tmp_path, of=core.Field(Own(5)), resume=True, steps=7)
    name = f"{__name__}:Own"
    with pytest.raises(OptionError, match=rf"config.json: field.net is {name}.*custom="):
        load(tmp_path)
    again = load(tmp_path, custom={name: Own})
    assert again.field.net.config == {"width": 5}
    assert again.step == 7
    assert equal(again, load(tmp_path, custom={"field.net": Own(5)}))
    with pytest.raises(CheckpointError, match="was written for another network"):
        load(tmp_path, custom={name: Own(3)})
    assert run.step == 6


def test_tied_weights_and_buffers_come_back(tmp_path, train, points):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(2, 2)
            self.b = nn.Linear(2, 2)
            self.b.weight = self.a.weight
            self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

        def forward(self, x, t):
            if self.training:
                self.seen += len(x)
            return self.b(self.a(x).tanh())

    torch.manual_seed(0)
    run = train(tmp_path, of=core.Field(Tied()))
    assert int(run.raw.net.seen) == 6 * 16
    again = load(tmp_path, custom={"field.net": Tied()})
    assert all(torch.equal(v, again.field.state_dict()[n]) for n, v in run.field.state_dict().items())


def test_saving_leaves_the_state_of_training_behind_and_loads_the_same(tmp_path, train, equal):
    run = train(tmp_path / "run")
    assert run.save(tmp_path / "saved") == tmp_path / "saved"
    assert sorted(p.name for p in (tmp_path / "saved").iterdir()) == [
        "README.md", "config.json", "ema.safetensors", "metrics.jsonl", "model.safetensors",
    ]  # fmt: skip
    assert equal(run, load(tmp_path / "saved"))
    with pytest.raises(RunError, match="saved exists already"):
        run.save(tmp_path / "saved")


def test_a_run_in_memory_can_be_saved(tmp_path, train, equal):
    run = train()
    assert run.path is None
    assert equal(run, load(run.save(tmp_path / "new" / "saved")))


def test_the_card_tells_data_seed_size_and_how_to_load(tmp_path, train):
    train(tmp_path, seed=7)
    card = (tmp_path / "README.md").read_text()
    for part in (
        "A flow of moons",
        "100 rows of shape (2,)",
        "| seed | 7 |",
        "6 of 6 x 16",
        f"MLP, {16 * 3 + 16 + 16 * 16 + 16 + 16 * 2 + 2}",
        "train.load",
    ):
        assert part in card


def test_the_configuration_is_complete_plain_and_says_what_made_it(tmp_path, train):
    run = train(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored == run.config
    assert (stored["format"], stored["torch"], stored["processes"]) == (1, torch.__version__, 1)
    assert stored["data"]["spec"] == {"source": "moons", "limit": 100}
    assert core.config.load(stored["field"]).net.config == run.field.net.config


def test_a_field_lives_on_another_device_or_dtype_after_loading(tmp_path, train):
    train(tmp_path)
    assert draw(load(tmp_path).field.double(), 2, steps=2).dtype == torch.float64


# Old formats.


def test_a_run_of_format_1_still_loads_and_gives_the_samples_it_gave():
    run = load(V1)
    assert (run.config["format"], run.step) == (1, 4)
    assert isinstance(run.objective.coupling.epsilon, float)
    expected = load_file(V1 / "expected.safetensors")
    for name, field in (("ema", run.field), ("raw", run.raw)):
        # float32 on another machine: sums in another order, four steps
        torch.testing.assert_close(draw(field, 4, steps=4), expected[name], rtol=1e-4, atol=1e-4)
    assert run.data().fingerprint == run.config["data"]["fingerprint"]


def test_a_run_of_format_1_can_still_be_resumed(tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(V1, folder)
    before = load(V1)
    field = core.Field(nets.MLP(2, hidden=8, depth=1), shift=2.0)
    objective = core.FlowMatching(core.Gibbs(), "logit-normal", "huber")
    run = fit(field, objective, before.data(), steps=6, out=folder, options=before.options, resume=True)
    assert run.step == 6
    assert run.objective == before.objective
    assert [line["step"] for line in run.metrics()] == [3, 4, 6]


def test_unlabelled_and_labelled_runs_know_their_classes(tmp_path, field):
    data = Data(torch.randn(12, 2), {"label": torch.arange(12) % 2}, About("two", ("off", "on")))
    run = fit(field(classes=2), core.FlowMatching(), data, steps=1, out=tmp_path, options=Options(batch=4))
    assert load(tmp_path).config["data"]["class_names"] == ["off", "on"]
    assert run.field.conditions == {"label"}
