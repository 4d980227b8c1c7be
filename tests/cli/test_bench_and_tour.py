import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from rheos import tour
from rheos.claims import checkout
from rheos.commands import bench


def harness(holds):
    row = {"name": "overhead", "peer": "itself", "value": 0.5, "op": "<=", "target": 1.0, "holds": holds}
    return SimpleNamespace(BENCHES={"sampling": None}, main=lambda names, say: [row])


@pytest.mark.parametrize(("holds", "code"), [(True, 0), (False, 1)])
def test_the_exit_code_says_whether_every_target_is_met(rheos, monkeypatch, holds, code):
    monkeypatch.setattr(bench, "_harness", lambda: harness(holds))
    result = rheos("bench", "sampling")
    assert result.code == code
    assert "overhead" in result.out
    assert json.loads(rheos("bench", "--json").out)[0]["holds"] is holds


def test_an_unknown_benchmark_is_refused_with_near_names(rheos, monkeypatch):
    monkeypatch.setattr(bench, "_harness", lambda: harness(True))
    result = rheos("bench", "smapling")
    assert result.code == 2
    assert "did you mean 'sampling'" in result.err


def test_without_a_checkout_the_way_to_one_is_said(rheos, monkeypatch):
    monkeypatch.setattr(checkout, "root", lambda: None)
    result = rheos("bench")
    assert result.code == 2
    assert "Benchmarks need a source checkout" in result.err


def test_the_tour_gets_the_options_and_its_table_is_shown(rheos, monkeypatch):
    row = {"flow": "learned", "steps": 1, "evaluations": 2.0, "frechet": 3.5, "recognised": None, "recall": 0.25}
    row["seconds"] = 7.0
    asked = []

    def fake(options, say):
        asked.append(options)
        return tour.TourResult(Path("r/report.html"), (row,), 3.0)

    monkeypatch.setattr(tour, "run_tour", fake)
    result = rheos("tour", "--data", "digits", "--steps", "3", "--reflow-steps", "4")
    assert result.code == 0
    assert "Open r/report.html" in result.out
    assert (asked[0].data, asked[0].steps, asked[0].reflow_steps) == ("digits", 3, 4)
    assert json.loads(rheos("tour", "--json").out)["rows"] == [row]
