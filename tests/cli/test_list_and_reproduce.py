import json

import pytest

from rheos.claims import Figure, Outcome, harness


def test_the_list_as_json_is_the_table_of_methods(rheos):
    found = json.loads(rheos("list", "--json").out)
    assert len(found) == 54
    assert all(list(r) == ["slug", "title", "room", "entry", "state", "verdict"] for r in found)


def test_the_list_for_people_shows_every_method(rheos):
    out = rheos("list").out
    assert "Weighted Conditional Flow Matching" in out
    assert "of 54 work" in out


@pytest.mark.parametrize(("what", "name"), [("data", "mnist5k"), ("data", "moons"), ("solvers", "dpm++2m")])
def test_data_and_solvers_are_listed(rheos, what, name):
    assert name in rheos("list", what).out
    assert name in [r["name"] for r in json.loads(rheos("list", what, "--json").out)]


class Fake:
    slug, statement = "wcfm", "Half is at most one."

    def __init__(self, value):
        self.value = value

    def run(self, quick, seeds, progress):
        progress("Measuring.")
        return Outcome((Figure("half", self.value, "<=", 1.0),), ("A note.",))


@pytest.mark.parametrize(("value", "code", "word"), [(0.5, 0, "holds"), (1.5, 1, "does NOT hold")])
def test_the_exit_code_says_whether_the_claim_holds(rheos, monkeypatch, tmp_path, value, code, word):
    monkeypatch.setattr(harness, "load_claim", lambda slug: Fake(value))
    result = rheos("reproduce", "wcfm", "--quick", "--out", tmp_path)
    assert result.code == code
    assert f"The claim {word}" in result.out
    assert "A note." in result.out
    assert result.err == "Measuring.\n"
    assert list(tmp_path.iterdir()) == []


def test_the_record_as_json_is_the_record_that_is_kept(rheos, monkeypatch, tmp_path):
    monkeypatch.setattr(harness, "load_claim", lambda slug: Fake(0.5))
    result = rheos("reproduce", "wcfm", "--seeds", "2", "--json", "--out", tmp_path)
    assert json.loads(result.out) == json.loads((tmp_path / "claims" / "wcfm.json").read_text())
    assert json.loads(result.out)["seeds"] == [0, 1]
