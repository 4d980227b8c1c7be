import json
import shlex

import numpy as np
import pytest

FEW = ("--n", "8", "--evaluations", "2,4", "--solvers", "euler,heun,ab2", "--grids", "uniform,beta,uniform@3")


@pytest.fixture(scope="module")
def tuned(moons_run, tmp_path_factory):
    """A run tuned once, with what was printed for programs."""
    from rheos.cli import main

    out = tmp_path_factory.mktemp("tuned")
    assert main(["tune", str(moons_run), *FEW, "--out", str(out)]) == 0
    return json.loads((out / "tune.json").read_text()), out


def test_a_plot_and_every_trial_are_written_and_nothing_half_written_is_left(tuned):
    plain, out = tuned
    assert sorted(p.name for p in out.iterdir()) == ["tune.json", "tune.png"]
    assert (out / "tune.png").read_bytes().startswith(b"\x89PNG")
    assert {t["solver"] for t in plain["trials"]} == {"euler", "heun", "ab2"}
    assert all(t["calls"] <= 4 for t in plain["trials"])
    assert plain["best"].keys() == plain["commands"].keys() == {"2", "4"}


def test_programs_read_what_the_file_holds(rheos, moons_run, tuned, tmp_path):
    result = rheos("tune", moons_run, *FEW, "--out", tmp_path, "--json")
    plain = json.loads(result.out)
    assert plain.pop("files") == [str(tmp_path / "tune.json"), str(tmp_path / "tune.png")]
    assert plain == tuned[0] == json.loads((tmp_path / "tune.json").read_text())


def test_the_files_lie_in_the_run_unless_told_otherwise(rheos, moons_run):
    assert rheos("tune", moons_run, *FEW).code == 0
    assert (moons_run / "tune" / "tune.json").is_file()


def test_people_get_a_table_a_budget_a_sentence_and_the_line_to_type(rheos, moons_run, tuned, tmp_path):
    result = rheos("tune", moons_run, *FEW, "--out", tmp_path)
    said = " ".join(result.out.split())
    for budget in ("2", "4"):
        assert tuned[0]["commands"][budget] in said
        assert f"With at most {budget} network calls use" in said
    assert "half of the rows between" in said
    assert "Files are in" in result.err


def test_the_printed_line_draws_what_was_recommended(rheos, tuned, tmp_path):
    plain, _ = tuned
    best, line = plain["best"]["4"], shlex.split(plain["commands"]["4"])
    done = json.loads(rheos(*line[1:], "--n", "2", "--out", tmp_path, "--json").out)
    assert done["network_calls"] == best["calls"]
    named = [done[k] for k in ("solver", "grid", "shift", "steps")]
    assert named == [best[k] for k in ("solver", "spacing", "shift", "steps")]
    assert np.isfinite(np.load(tmp_path / "samples.npz")["x"]).all()


def test_a_guided_run_is_tuned_as_it_is_sampled_with_two_rows_a_call(rheos, digits_run, tmp_path):
    words = ("--n", "4", "--evaluations", "2", "--solvers", "euler", "--grids", "uniform", "--guidance", "2")
    plain = json.loads(rheos("tune", digits_run, *words, "--label", "3", "--out", tmp_path, "--json").out)
    line = plain["commands"]["2"]
    assert line.endswith("--grid uniform --guidance 2 --label 3")
    done = json.loads(rheos(*shlex.split(line)[1:], "--n", "1", "--out", tmp_path, "--json").out)
    assert done["network_calls"] == 2 * plain["best"]["2"]["calls"]  # rows are counted there


def test_guidance_without_labels_is_refused_before_anything_is_drawn(rheos, moons_run, tmp_path):
    result = rheos("tune", moons_run, "--guidance", "2", "--out", tmp_path / "x")
    assert result.code == 2
    assert "have none" in result.err
    assert not (tmp_path / "x").exists()


def test_a_solver_without_a_fixed_number_of_steps_is_refused_by_name(rheos, moons_run, tmp_path):
    result = rheos("tune", moons_run, "--solvers", "dopri5", "--out", tmp_path)
    assert result.code == 2
    assert "dopri5 is adaptive" in result.err
