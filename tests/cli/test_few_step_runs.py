"""Runs that were made for few steps: commands take them as they are."""

import json

from rheos import load
from rheos.distill import BellmanSearch, Rectification, Straightening, boss, rfpp, splitmeanflow
from rheos.train import Options, Sampling

BRIEF = Options(batch=16, sample_every=0)


def test_a_flow_with_times_of_its_own_is_sampled_measured_and_not_tuned(rheos, digits_run, tmp_path):
    how = Straightening(rows=16, search=BellmanSearch(anchors=6, rows=8))
    run = boss(load(digits_run), 2, steps=2, out=tmp_path / "boss", how=how, options=BRIEF, progress=False)
    assert run.field.times is not None
    result = rheos("sample", run.path, "--n", "2", "--out", tmp_path, "--json")
    assert result.code == 0, result.err
    told = json.loads(result.out)
    assert (told["steps"], told["network_calls"]) == (2, 2)
    result = rheos("eval", run.path, "--n", "20", "--json")
    assert result.code == 0, result.err
    lines = json.loads(result.out)["lines"]
    assert [line["steps"] for line in lines] == [None, 2]
    result = rheos("tune", run.path)
    assert result.code == 2
    assert "made for its own 2 steps" in result.err
    assert "steps=" not in (run.path / "README.md").read_text(encoding="utf-8").split("```python")[1]


def test_a_flow_map_jumps_and_is_not_tuned(rheos, tmp_path):
    words = ("train", "--data", "digits", "--out", tmp_path / "run", "--steps", "2", "--set", "options.batch=8")
    assert rheos(*words, "options.sample_every=0", "data.limit=100", "field.net.width=8").code == 0
    run = load(tmp_path / "run")
    made = splitmeanflow(run, run.data(), steps=2, out=tmp_path / "map", options=BRIEF, progress=False)
    told = json.loads(rheos("sample", made.path, "--n", "2", "--out", tmp_path, "--json").out)
    assert (told["steps"], told["solver"], told["network_calls"]) == (4, "jump", 4)
    result = rheos("eval", made.path, "--n", "20", "--json")
    assert result.code == 0, result.err
    lines = json.loads(result.out)["lines"]
    assert [line["steps"] for line in lines] == [None, 1, 2, 4]
    result = rheos("tune", made.path)
    assert result.code == 2
    assert "A flow map jumps" in result.err


def test_a_re_timed_flow_has_a_card(rheos, tmp_path):
    words = ("train", "--data", "digits", "--out", tmp_path / "run", "--steps", "2", "--set", "options.batch=8")
    more = ("options.sample_every=0", "data.limit=100", "field.net.width=8", "field.path=vp", "field.predicts=noise")
    assert rheos(*words, *more).code == 0
    made = rfpp(load(tmp_path / "run"), pairs=16, steps=2, evaluations=5, out=tmp_path / "fast", options=BRIEF,
                how=Rectification("huber"), progress=False)  # fmt: skip
    assert "| path, prediction |" in (made.path / "README.md").read_text(encoding="utf-8")


def test_a_run_is_sampled_and_measured_as_it_was_made_for_and_flags_win(rheos, digits_run, tmp_path):
    made = load(digits_run).sampled_by(Sampling(3, "midpoint")).save(tmp_path / "winner")

    def way(*words):
        told = json.loads(rheos("sample", made, "--n", "2", "--out", tmp_path / "x", "--json", *words).out)
        return told["steps"], told["solver"], told["network_calls"]

    assert way() == (3, "midpoint", 6)
    assert way("--steps", "2") == (2, "midpoint", 4)
    assert way("--solver", "euler") == (3, "euler", 3)
    assert way("--grid", "0,0.2,1") == (2, "midpoint", 4)
    found = json.loads(rheos("eval", made, "--n", "20", "--json").out)
    assert (found["solver"], [line["steps"] for line in found["lines"]]) == ("midpoint", [None, 3])
    found = json.loads(rheos("eval", made, "--n", "20", "--steps", "1,2", "--solver", "euler", "--json").out)
    assert (found["solver"], [line["steps"] for line in found["lines"]]) == ("euler", [None, 1, 2])
