import json
import math

import pytest

from rheos.claims import Figure, Record
from rheos.claims.record import spread

RECORD = Record(
    slug="wcfm",
    statement="It holds.",
    figures=(Figure("a / b", 0.25, "<=", 0.35, (0.2, 0.4)), Figure("c / d", 4.0, ">=", 3.0)),
    seeds=(0, 1, 2),
    seconds=12.34,
    cores=2,
    device="cpu",
    versions={"python": "3.11", "torch": "2.13"},
    commit="abc",
    notes=("Measured somewhere.",),
)


def test_the_json_form_has_exactly_the_stable_keys():
    assert RECORD.to_dict() == {
        "slug": "wcfm",
        "statement": "It holds.",
        "holds": True,
        "figures": [
            {"name": "a / b", "value": 0.25, "op": "<=", "threshold": 0.35, "holds": True,
             "seeds": [0.2, 0.4], "within_noise": True},
            {"name": "c / d", "value": 4.0, "op": ">=", "threshold": 3.0, "holds": True,
             "seeds": [], "within_noise": False},
        ],
        "seeds": [0, 1, 2],
        "seconds": 12.3,
        "cores": 2,
        "device": "cpu",
        "versions": {"python": "3.11", "torch": "2.13"},
        "commit": "abc",
        "notes": ["Measured somewhere."],
    }  # fmt: skip


def test_a_record_survives_its_json_form():
    again = Record.from_dict(json.loads(json.dumps(RECORD.to_dict())))
    assert again.to_dict() == RECORD.to_dict()


@pytest.mark.parametrize(
    ("value", "op", "threshold", "holds"),
    [(1.0, "<=", 1.0, True), (1.01, "<=", 1.0, False), (3.0, ">=", 3.0, True), (2.9, ">=", 3.0, False)],
)
def test_a_figure_holds_up_to_and_including_its_threshold(value, op, threshold, holds):
    assert Figure("x", value, op, threshold).holds is holds


@pytest.mark.parametrize("op", ["<=", ">="])
def test_a_threshold_is_within_the_noise_up_to_one_standard_deviation_of_single_seeds(op):
    seeds = [1.0, 2.0, 3.0]  # mean 2, standard deviation 1
    assert [Figure.mean("x", seeds, op, t).within_noise for t in (0.9, 1.0, 2.0, 3.0, 3.1)] == [0, 1, 1, 1, 0]
    assert Figure.mean("x", [1.0, 2.0, 2.0, 2.0, 4.0, 1.0], op, 3.5).within_noise  # one seed is on the other side
    assert not Figure.mean("x", [3.5], op, 3.5).within_noise
    assert not Figure.mean("x", [3.5, 3.5], op, 3.5).within_noise
    assert not Figure("x", 3.5, op, 3.5).within_noise
    assert not Figure.mean("x", [math.nan, 1.0], op, 1.0).within_noise


def test_ratios_are_of_means_and_the_worst_seed_is_on_the_side_of_the_threshold():
    ratio = Figure.ratio("x", [1.0, 5.0], [2.0, 4.0], "<=", 1.0)
    assert (ratio.value, ratio.seeds) == (1.0, (0.5, 1.25))
    assert Figure.mean("x", [1.0, 4.0], "<=", 1.0).value == 2.5
    assert Figure.worst("x", [1.0, 4.0], "<=", 1.0).value == 4.0
    assert Figure.worst("x", [1.0, 4.0], ">=", 1.0).value == 1.0


def test_a_record_from_before_has_no_seeds():
    plain = {"name": "x", "value": 1.0, "op": "<=", "threshold": 2.0, "holds": True}
    assert Figure.from_dict(plain) == Figure("x", 1.0, "<=", 2.0)


@pytest.mark.parametrize("op", ["<=", ">="])
def test_a_figure_that_is_no_number_never_holds_and_becomes_null(op):
    figure = Figure("x", math.nan, op, 1.0)
    assert not figure.holds
    assert figure.to_dict()["value"] is None
    assert not Figure.from_dict(figure.to_dict()).holds


def test_one_figure_that_fails_makes_the_claim_fail():
    plain = RECORD.to_dict()
    plain["figures"][1]["value"] = 2.0
    assert not Record.from_dict(plain).holds


def test_saving_leaves_no_temporary_file(tmp_path):
    path = tmp_path / "claims" / "wcfm.json"
    RECORD.save(path)
    RECORD.save(path)
    assert [p.name for p in path.parent.iterdir()] == ["wcfm.json"]
    assert json.loads(path.read_text()) == RECORD.to_dict()


def test_the_spread_names_median_and_range():
    assert spread("W2", [3.0, 1.0, 2.0]) == "W2: median 2, from 1 to 3 over 3 seeds."
    assert spread("W2", [3.0]) == "W2: 3 with one seed."
