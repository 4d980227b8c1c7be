import json

import pytest
import torch

from rheos.commands.experiment import experiment, with_changes
from rheos.core.errors import OptionError
from rheos.train import load

SMALL = ("--set", "data.limit=200", "options.batch=8", "options.sample_every=0", "field.net.width=8")


def test_a_dry_run_prints_a_complete_description_and_makes_nothing(rheos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = rheos("train", "--data", "digits", "--dry-run", *SMALL)
    assert result.code == 0
    plain = json.loads(result.out)
    assert list(plain) == ["data", "field", "objective", "options", "steps"]
    assert plain["data"]["source"] == "digits"
    assert plain["data"]["split"] == ["train", 0.2, 0]
    assert plain["field"]["net"]["kind"] == "UNet"
    assert plain["field"]["net"]["classes"] == 10
    assert plain["options"]["batch"] == 8
    assert "M parameters predicts velocity given its label" in result.err
    assert list(tmp_path.iterdir()) == []


def test_what_a_dry_run_prints_is_what_config_reads(rheos, tmp_path):
    first = rheos("train", "--data", "moons", "--dry-run", "--set", "objective.coupling=gibbs", "options.lr=0.5")
    path = tmp_path / "c.json"
    path.write_text(first.out)
    again = rheos("train", "--config", path, "--dry-run")
    assert json.loads(again.out) == json.loads(first.out)
    assert json.loads(again.out)["objective"]["coupling"]["kind"] == "Gibbs"
    assert json.loads(again.out)["field"]["net"]["kind"] == "MLP"


def test_a_run_s_own_config_describes_another_run(rheos, digits_run):
    result = rheos("train", "--config", digits_run / "config.json", "--dry-run", "--steps", "7")
    assert json.loads(result.out)["steps"] == 7
    assert json.loads(result.out)["field"]["net"]["width"] == 8


def test_training_leaves_a_run_and_says_what_comes_next(rheos, tmp_path):
    out = tmp_path / "run"
    result = rheos("train", "--data", "digits", "--out", out, "--steps", "2", *SMALL)
    assert result.code == 0
    assert result.out == ""
    assert f"rheos sample {out}" in result.err
    assert load(out).step == 2


def test_with_json_standard_output_is_json_alone(rheos, tmp_path):
    result = rheos(
        "train", "--data", "moons", "--out", tmp_path / "r", "--steps", "2", "--json", "--set", "data.limit=99"
    )
    plain = json.loads(result.out)
    assert plain.keys() == {"run", "step", "loss", "seconds"}
    assert plain["step"] == 2


def test_a_run_is_never_overwritten_and_resumes_to_the_same_weights_as_in_one_go(rheos, tmp_path):
    words = ("--data", "moons", "--set", "data.limit=100", "options.decay=constant", "options.warmup=0")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert rheos("train", *words, "--out", whole, "--steps", "4").code == 0
    assert rheos("train", *words, "--out", parts, "--steps", "2").code == 0
    refused = rheos("train", *words, "--out", parts, "--steps", "4")
    assert refused.code == 2
    assert "holds a run already. Go on with it by --resume" in refused.err
    assert rheos("train", "--out", parts, "--steps", "4", "--resume").code == 0
    a, b = load(whole).field.state_dict(), load(parts).field.state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_equal_seeds_begin_with_equal_weights_and_others_with_others():
    given = {"data": {"source": "moons", "limit": 50}}
    weights = [
        torch.cat([p.flatten() for p in experiment(given, [f"options.seed={s}"]).field.parameters()]) for s in (3, 3, 4)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_change_leaves_the_given_description_alone():
    given = {"options": {"lr": 0.1}}
    assert with_changes(given, ["options.lr=0.2"]) == {"options": {"lr": 0.2}}
    assert given == {"options": {"lr": 0.1}}


def test_a_part_given_by_name_takes_options_of_its_own():
    changed = with_changes({"objective": {"coupling": "Gibbs"}}, ["objective.coupling.epsilon=0.5"])
    assert changed == {"objective": {"coupling": {"kind": "Gibbs", "epsilon": 0.5}}}


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("0.5", 0.5), ("true", True), ("True", True), ("none", None), ("adam", "adam"), ("[1, 2]", [1, 2])],
)
def test_values_are_json_where_they_can_be(text, value):
    assert with_changes({"options": {}}, [f"options.x={text}"]) == {"options": {"x": value}}


def test_a_foreign_entry_of_a_description_is_refused(tmp_path):
    from rheos.commands.experiment import read

    path = tmp_path / "c.json"
    path.write_text('{"data": {}, "feild": {}}')
    with pytest.raises(OptionError, match=r"entry 'feild' is unknown; did you mean 'field'"):
        read(path)
    path.write_text("[1]")
    with pytest.raises(OptionError, match="must hold an object with entries data, field"):
        read(path)
    path.write_text("{")
    with pytest.raises(OptionError, match="cannot be read as JSON"):
        read(path)


def test_a_description_cannot_name_code_to_import(tmp_path):
    with pytest.raises(OptionError, match="which a description cannot name"):
        experiment({"data": {"source": "moons"}}, ['options.trackers=["os:system"]'])
