"""Whether samples follow what they were asked for, as `rheos eval` says it."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from rheos import load
from rheos.cli import main
from rheos.commands.yardstick import Yardstick

TRAIN = ("--steps", "1", "--set", "options.batch=8", "options.sample_every=0", "field.net.width=8")


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    out = tmp_path_factory.mktemp("captioned") / "run"
    about = ("data.embed=emoji", "data.limit=150", "data.size=16")
    assert main(["train", "--data", "emoji", "--out", str(out), *TRAIN, *about]) == 0
    return out


def test_the_held_out_pictures_themselves_are_found_by_their_captions(captioned):
    yard = Yardstick(load(captioned))
    n = len(yard.real)
    index = torch.arange(2 * n) % n
    x = torch.cat((yard.real, torch.zeros_like(yard.real)))  # of two samples for a row the first counts
    found = yard.follows(x, index, {"embedding"})
    assert found.rows == n
    assert found.top1 == 1.0
    assert found.chance1 == pytest.approx(1 / n)
    assert yard.follows(yard.real.roll(1, 0), torch.arange(n), {"embedding"}).top1 < 0.2
    assert yard.follows(x[:3], torch.zeros(3, dtype=torch.int64), {"embedding"}) is None


def test_samples_of_captions_are_looked_for_among_held_out_pictures(rheos, captioned):
    words = ("eval", captioned, "--n", "40", "--steps", "1", "--guidance", "2")
    real, line = json.loads(rheos(*words, "--json").out)["lines"]
    held = len(Yardstick(load(captioned)).real)
    assert held == 30
    assert "retrieval" not in real
    told = line["retrieval"]
    assert told["rows"] == held
    assert told["chance1"] == pytest.approx(1 / held)
    assert told["chance5"] == pytest.approx(5 / held)
    assert line["network_calls"] == 2
    assert 0 <= line["recognised"] <= 1  # by the class of the caption's row
    shown = " ".join(rheos(*words).out.split())
    assert "30 held-out rows has the caption that they were drawn for; 3.33% and 16.67% by chance" in shown


def test_rows_of_one_condition_stand_for_each_other_and_numbers_are_compared_without_a_net(rheos, tmp_path):
    kind = np.arange(60) % 2
    x = (np.stack((kind, np.arange(60) / 600), 1)).astype(np.float32)
    np.savez(tmp_path / "two.npz", x=x, embedding=np.eye(2, dtype=np.float32)[kind])
    out = tmp_path / "run"
    about = ("options.batch=8", 'data.conditions=["embedding"]', "data.range=raw")
    result = rheos("train", "--data", tmp_path / "two.npz", "--out", out, "--steps", "1", "--set", *about)
    assert result.code == 0, result.err
    yard = Yardstick(load(out))
    n, own = len(yard.real), yard.data.columns["embedding"].argmax(1)
    other = torch.stack([yard.real[own == own[k]].roll(1, 0)[0] for k in range(n)])  # any row of the same kind
    found = yard.follows(other, torch.arange(n), {"embedding"})
    shares = torch.bincount(own).double() / n
    assert found.top1 == 1.0
    assert found.chance1 == pytest.approx(float(shares.square().sum()))
    shown = " ".join(rheos("eval", out, "--n", "20", "--steps", "1").out.split())
    assert "No feature net ships" in shown
    assert f"of {n} held-out rows has the caption" in shown


def test_a_flow_of_labels_alone_is_not_looked_for(rheos, digits_run):
    result = rheos("eval", digits_run, "--n", "20", "--steps", "1", "--json")
    assert all("retrieval" not in line for line in json.loads(result.out)["lines"])


def test_of_one_held_out_row_it_is_said_that_nothing_can_be_told(rheos, tmp_path):
    out = tmp_path / "run"
    about = ("data.embed=emoji", "data.size=16", "data.limit=20")
    assert rheos("train", "--data", "emoji", "--out", out, *TRAIN, *about).code == 0
    result = rheos("eval", out, "--n", "20", "--steps", "1", "--json")
    assert result.code == 0
    assert "4 rows held out, so the figures say little" in result.err
    assert "compared with training rows" in result.err  # of four rows a manifold has no neighbours
    told = json.loads(result.out)
    assert (told["held_out"], told["real_rows"], told["lines"][1]["retrieval"]["rows"]) == (False, 16, 4)
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    for k in range(9):
        Image.new("RGB", (8, 8), (20 * k, 0, 0)).save(tmp_path / f"{k}.png")
        (tmp_path / f"{k}.txt").write_text("abcdefghi"[k], encoding="utf-8")
    about = ("data.embed=letters:2", "data.size=8", "field.net.net.dim=16", "field.net.net.depth=1")
    result = rheos("train", "--data", tmp_path, "--out", tmp_path / "few", *TRAIN[:-1], *about)
    assert result.code == 0, result.err
    result = rheos("eval", tmp_path / "few", "--n", "20", "--steps", "1")
    shown = " ".join(result.out.split())
    assert "1 row held out" in result.err
    assert "to 1 held-out row; smaller" in shown
    assert "follow their caption is not measured" in shown
