import json

import numpy as np
import pytest
from PIL import Image


def test_pictures_know_how_they_were_made_and_one_row_comes_again_by_its_seed(rheos, digits_run, tmp_path):
    many, one = tmp_path / "many", tmp_path / "one"
    words = ("sample", digits_run, "--steps", "2", "--solver", "heun")
    assert rheos(*words, "--n", "4", "--seed", "5", "--out", many).code == 0
    assert sorted(p.name for p in many.iterdir()) == [f"{k:06d}.png" for k in range(5, 9)] + ["grid.png"]
    with Image.open(many / "000007.png") as picture:
        text = dict(picture.text)
    assert (text["seed"], text["label"], text["steps"], text["solver"]) == ("7", "7", "2", "heun")
    assert (text["grid"], text["shift"]) == ("uniform", "1")
    assert rheos(*words, "--n", "1", "--seed", text["seed"], "--label", text["label"], "--out", one).code == 0
    assert (one / "000007.png").read_bytes() == (many / "000007.png").read_bytes()


def test_batches_change_nothing(rheos, digits_run, tmp_path):
    words = ("sample", digits_run, "--n", "5", "--steps", "2", "--format", "npz")
    for name, batch in (("a", 5), ("b", 2)):
        assert rheos(*words, "--batch", batch, "--out", tmp_path / name).code == 0
    a, b = (np.load(tmp_path / name / "samples.npz") for name in "ab")
    assert a["x"].shape == (5, 1, 8, 8)
    np.testing.assert_allclose(a["x"], b["x"], atol=1e-5)
    assert a["seed"].tolist() == [0, 1, 2, 3, 4]
    assert a["label"].tolist() == [0, 1, 2, 3, 4]


def test_a_grid_and_a_shift_are_those_of_the_library(rheos, moons_run, tmp_path):
    from rheos import load
    from rheos.sample import Grid, draw

    words = ("sample", moons_run, "--n", "3", "--steps", "4", "--solver", "euler", "--out", tmp_path)
    field = load(moons_run).field
    for flags, grid in (
        (["--grid", "karras:5", "--shift", "2"], Grid("karras:5", 2.0)),
        (["--grid", "sway:-0.5@2"], Grid("sway:-0.5", 2.0)),
        (["--grid", "0,0.1,0.3,0.6,1"], Grid("0,0.1,0.3,0.6,1")),
        ([], Grid(shift=field.shift)),
    ):
        assert rheos(*words, *flags).code == 0
        wanted = draw(field, 3, steps=grid(4), solver="euler", seed=[0, 1, 2])
        np.testing.assert_array_equal(np.load(tmp_path / "samples.npz")["x"], wanted.numpy())


def test_explicit_times_say_how_many_steps_there_are(rheos, moons_run, tmp_path):
    words = ("sample", moons_run, "--n", "2", "--solver", "euler", "--out", tmp_path, "--json")
    plain = json.loads(rheos(*words, "--grid", "0,0.3,1", "--shift", "1").out)
    assert (plain["steps"], plain["network_calls"], plain["grid"], plain["shift"]) == (2, 2, "0,0.3,1", 1)


@pytest.mark.parametrize(("solver", "guidance", "calls"), [("heun", 1, 6), ("euler", 1, 3), ("euler", 2, 6)])
def test_network_calls_are_counted(rheos, digits_run, tmp_path, solver, guidance, calls):
    result = rheos(
        "sample", digits_run, "--n", "2", "--steps", "3", "--solver", solver, "--guidance", guidance, "--label", "3",
        "--out", tmp_path, "--json",
    )  # fmt: skip
    plain = json.loads(result.out)
    assert plain["network_calls"] == calls
    assert plain["labels"] == [3, 3]
    assert len(plain["files"]) == 3


def test_vectors_are_written_as_numbers(rheos, moons_run, tmp_path):
    assert rheos("sample", moons_run, "--n", "3", "--out", tmp_path).code == 0
    assert np.load(tmp_path / "samples.npz")["x"].shape == (3, 2)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--label", "10"], "label '10' is unknown"),
        (["--label", "seven"], "label 'seven' is unknown"),
        (["--guidance", "2", "--label", "none"], "these have none"),
    ],
)
def test_labels_are_checked_before_anything_is_drawn(rheos, digits_run, words, text, tmp_path):
    result = rheos("sample", digits_run, *words, "--out", tmp_path / "x")
    assert result.code == 2
    assert text in result.err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--label", "1"], "takes no label"),
        (["--format", "png"], "are no pictures"),
        (["--guidance", "2"], "have none"),
    ],
)
def test_a_flow_without_labels_or_pictures_says_so(rheos, moons_run, words, text):
    result = rheos("sample", moons_run, *words)
    assert result.code == 2
    assert text in result.err


def test_quality_is_measured_by_steps_in_the_features_of_a_named_net(rheos, digits_run):
    result = rheos("eval", digits_run, "--n", "30", "--steps", "1,2", "--solver", "heun", "--json")
    assert result.code == 0
    plain = json.loads(result.out)
    assert plain["features"] == "digits"
    assert plain["held_out"] is True
    assert [line["steps"] for line in plain["lines"]] == [None, 1, 2]
    assert [line["network_calls"] for line in plain["lines"]] == [0, 2, 4]
    real, first, _ = plain["lines"]
    assert real["frechet"] < first["frechet"]
    assert real["recognised"] > 0.9


def test_without_a_feature_net_numbers_are_compared_and_it_is_said(rheos, moons_run):
    result = rheos("eval", moons_run, "--n", "20", "--steps", "1")
    assert result.code == 0
    assert "No feature net ships for these data" in result.out
    assert "held-out rows" in " ".join(result.out.split())


def test_a_run_that_held_nothing_out_says_what_it_is_compared_with(rheos, tmp_path):
    out = tmp_path / "all"
    config = tmp_path / "c.json"
    config.write_text('{"data": {"source": "moons", "limit": 60}}')
    assert rheos("train", "--config", config, "--out", out, "--steps", "1").code == 0
    result = rheos("eval", out, "--n", "20", "--steps", "1")
    assert result.code == 0
    assert "rows that were trained on" in " ".join(result.out.split())


def test_a_flow_map_is_sampled_by_its_jumps_unless_told_otherwise(rheos, tmp_path):
    from rheos import core, data, distill, nets, sample, train

    rows = data.load("moons", limit=100)
    field = core.FlowMapField(nets.TwoTimeAdapter(nets.MLP(2, hidden=4, depth=1, time_features=4)))
    options = train.Options(batch=8, sample_every=0)
    run = train.fit(field, distill.FlowMapLoss(), rows, steps=2, out=tmp_path / "run", options=options, progress=False)
    words = ("sample", tmp_path / "run", "--n", "3", "--steps", "1", "--out", tmp_path / "out", "--json")
    told = json.loads(rheos(*words).out)
    assert (told["solver"], told["network_calls"]) == ("jump", 1)
    wanted = sample.draw(run.field, 3, steps=1, seed=[0, 1, 2])
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "samples.npz")["x"], wanted.numpy())
    measured = json.loads(rheos("eval", tmp_path / "run", "--n", "20", "--steps", "1", "--json").out)
    assert measured["solver"] == "jump"
    assert rheos(*words, "--solver", "euler").code == 0
