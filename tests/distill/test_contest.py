"""A contest on networks that are tiny: what is compared, not who wins."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rheos import core, metrics, nets
from rheos.core.errors import OptionError, UnknownOptionError
from rheos.data import load
from rheos.distill import METHODS, ContestOptions, Recipe, contest
from rheos.distill.contenders import smaller

QUICK = Recipe(steps=2, solver="euler", chunk=32)


def test_all_methods_run_on_a_flow_with_labels_and_bake_its_guidance_in(tmp_path: Path) -> None:
    data = load("digits", limit=200)
    torch.manual_seed(0)
    net = nets.UNet(1, width=16, multipliers=(1, 2), attention=(), classes=10)
    field = core.Field(net, shape=data.shape, value_range=data.delivers)
    real = data.batch(torch.arange(200)).x
    told: list[str] = []

    def judge(x: Tensor, label: Tensor | None, part: str) -> dict[str, float]:
        told.append(part)
        assert label is not None
        return {"distance": metrics.sliced_wasserstein(x, real)}

    options = ContestOptions((2,), seconds=2.0, samples=20, guidance=2.0, teacher=QUICK)
    found = contest(field, judge, data, out=tmp_path, options=options, progress=False)
    lines = {e.method: e for e in found.entries}
    assert set(lines) == {"teacher", *METHODS}
    assert {e.method: e.error for e in found.entries if e.error} == {}
    assert lines["teacher"].calls == 4  # two steps, each with and without the label
    assert all(e.calls == 2 for e in found.entries if e.method != "teacher")
    assert lines["slimflow"].parameters < lines["teacher"].parameters
    assert found.best(2).method == min(found.entries[1:], key=lambda e: e.chosen_by).method
    assert told.count("choose") == told.count("report") == len(found.entries)
    assert (tmp_path / "winner-2" / "config.json").exists()


def test_a_smaller_network_has_half_the_width() -> None:
    net = smaller(nets.MLP(2, hidden=64, depth=2))
    assert net.config["hidden"] == 32  # type: ignore[index]
    with pytest.raises(OptionError, match="Linear has no width to halve"):
        smaller(nn.Linear(2, 2))


def test_options_that_make_no_contest_are_refused() -> None:
    for bad in ({"evaluations": ()}, {"evaluations": (1, 1)}, {"seconds": 0.0}, {"samples": 2}):
        with pytest.raises(OptionError):
            ContestOptions(**bad)  # type: ignore[arg-type]
    with pytest.raises(UnknownOptionError, match="did you mean 'reflow'"):
        ContestOptions(methods=("reflo",))


def test_a_second_contest_replaces_the_winner_and_a_failing_judge_ends_nothing(
    tmp_path: Path,
) -> None:
    data = load("moons", limit=200)
    torch.manual_seed(0)
    field = core.Field(nets.MLP(2, hidden=8, depth=1, time_features=8), shape=(2,))
    real = data.batch(torch.arange(200)).x

    def run(method: str) -> dict[str, object]:
        options = ContestOptions((1,), (method,), seconds=1.0, samples=20, teacher=QUICK)
        contest(
            field, lambda x, _, __: {"d": metrics.sliced_wasserstein(x, real)}, data, out=tmp_path, options=options,
            progress=False,
        )  # fmt: skip
        return json.loads((tmp_path / "winner-1" / "config.json").read_text())["field"]

    assert run("reflow")["kind"] == "Field"
    assert run("splitmeanflow")["kind"] == "FlowMapField"

    def blind(x: Tensor, label: Tensor | None, part: str) -> dict[str, float]:
        if x.shape[0] and not torch.equal(x, x.clamp(-1e-9, 1e-9)):
            return {"d": float("nan")}
        return {"d": 1.0}

    found = contest(field, blind, data, out=tmp_path / "b", progress=False,
                    options=ContestOptions((1,), ("reflow",), seconds=1.0, samples=20, teacher=QUICK))  # fmt: skip
    assert found.best(1) is None
    assert found.runs == {}
