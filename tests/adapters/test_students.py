"""Students of a pipeline: every method makes one, which is saved, loaded and drawn like any other."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipelines import TEXTS, rows
from rheos import train
from rheos.adapters import LatentField, from_diffusers
from rheos.core.errors import OptionError
from rheos.data import Data
from rheos.distill import (
    BellmanSearch,
    FlowMapLoss,
    PairStore,
    Recipe,
    Rectification,
    Slimming,
    Smaller,
    Stages,
    Straightening,
    boss,
    consistency,
    generate,
    instaflow,
    mdt_dist,
    progressive,
    rfpp,
    slimflow,
    splitmeanflow,
)
from rheos.sample import draw

N = 16
FEW = Recipe(steps=2, solver="euler", chunk=16)
QUICK: Any = {
    "options": train.Options(batch=8, ema=0.9, warmup=0, sample_every=0, save_every=0, decay="constant"),
    "progress": False,
}


@pytest.fixture(scope="module")
def field(sd3: nn.Module) -> LatentField:
    """Stable Diffusion 3 with an empty prompt."""
    return from_diffusers(sd3).set_null(**{name: 0.1 * value for name, value in rows(TEXTS, 1).items()})


@pytest.fixture(scope="module")
def pairs(field: LatentField, tmp_path_factory: pytest.TempPathFactory) -> PairStore:
    """A few of its samples."""
    return generate(field, tmp_path_factory.mktemp("pairs"), N, recipe=FEW, cond=rows(TEXTS, N))


@pytest.fixture(scope="module")
def data(pairs: PairStore) -> Data:
    """The samples alone."""
    found = pairs.data()
    return replace(found, conditions=tuple(n for n in found.conditions or () if n not in ("x0", "seed")))


Method = Callable[[LatentField, PairStore, Data, Path, float], train.Run]


def _instaflow(field: LatentField, pairs: PairStore, data: Data, out: Path, guidance: float) -> train.Run:
    how = Stages(pairs=N, steps=2, distil=2, polish=0, guidance=guidance, again=guidance, evaluations=2)
    how = replace(how, teacher=FEW, straight=FEW)
    return instaflow(field, rows(TEXTS, N), out=out, how=how, **QUICK)


def _rfpp(field: LatentField, pairs: PairStore, data: Data, out: Path, guidance: float) -> train.Run:
    own = generate(field, out / "own", N, recipe=replace(FEW, guidance=guidance), cond=rows(TEXTS, N))
    return rfpp(field, out=out / "run", pairs=own, steps=2, how=Rectification(loss="huber"), **QUICK)


def _slimflow(field: LatentField, pairs: PairStore, data: Data, out: Path, guidance: float) -> train.Run:
    how = Slimming(pairs=N, recipe=replace(FEW, guidance=guidance), steps=2, distil=2, loss="mse")
    return slimflow(field, Smaller(), rows(TEXTS, N), out=out, how=how, **QUICK)


def _boss(field: LatentField, pairs: PairStore, data: Data, out: Path, guidance: float) -> train.Run:
    how = Straightening(rows=N, search=BellmanSearch(anchors=4, rows=4, guidance=guidance))
    return boss(field, 2, steps=2, out=out, how=how, cond=rows(TEXTS, N), **QUICK)


def _adapted(field: LatentField, pairs: PairStore, data: Data, out: Path, guidance: float) -> train.Run:
    how = Straightening(rows=N, search=BellmanSearch(anchors=4, rows=4, guidance=guidance), lora=2)
    return boss(field, 2, steps=2, out=out, how=how, cond=rows(TEXTS, N), **QUICK)


METHODS: dict[str, Method] = {
    "instaflow": _instaflow,
    "rfpp": _rfpp,
    "slimflow": _slimflow,
    "boss": _boss,
    "boss with adapters": _adapted,
    "mdt_dist": lambda f, _, d, out, w: mdt_dist(f, d, steps=2, guidance=w, out=out, **QUICK),
    "splitmeanflow": lambda f, _, d, out, w: splitmeanflow(f, d, steps=2, guidance=w, out=out, **QUICK),
    "consistency": lambda f, _, d, out, w: consistency(f, d, steps=2, guidance=w, out=out, **QUICK),
    "progressive": lambda f, _, d, out, w: progressive(f, d, steps=2, start=4, guidance=w, out=out, **QUICK),
}


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_makes_a_student_whose_run_opens_by_itself(name, guidance, field, pairs, data, tmp_path):
    made = METHODS[name](field, pairs, data, tmp_path / "out", guidance)
    assert made.path is not None
    again = train.load(made.path)
    cond, steps = rows(TEXTS, 2), None if made.field.times else 2
    x = draw(again.field, 2, steps=steps, **cond)  # type: ignore[arg-type]
    assert torch.equal(x, draw(made.field, 2, steps=steps, **cond))  # type: ignore[arg-type]
    assert x.shape == (2, 4, 8, 8)
    assert bool(torch.isfinite(x).all())
    assert again.field.baked == made.field.baked
    if made.field.times is not None:  # for its own times, on trajectories that hold their guidance already
        with pytest.raises(OptionError, match="hold their guidance already"):
            draw(again.field, 2, guidance=2.0, **cond)  # type: ignore[arg-type]
        return
    assert again.field.baked == guidance
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        guided = draw(again.field, 2, steps=2, guidance=2.0, **cond)  # type: ignore[arg-type]
    assert len([w for w in told if "more of it overshoots" in str(w.message)]) == (guidance != 1.0)
    assert bool(torch.isfinite(guided).all())
    assert not torch.equal(guided, x)


def test_two_networks_of_a_pipeline_in_a_row_are_a_student_too(field, tmp_path):
    how = Stages(pairs=N, rounds=0, distil=2, polish=0, guidance=2.0, teacher=FEW, stacked=True)
    run = instaflow(field, rows(TEXTS, N), out=tmp_path, how=how, **QUICK)
    again = train.load(run.path)
    assert type(again.field.net).__name__ == "StackedVelocity"
    cond = rows(TEXTS, 2)
    assert torch.equal(draw(again.field, 2, **cond), draw(run.field, 2, **cond))  # type: ignore[arg-type]


@pytest.mark.parametrize("target", ["half", "jvp", "fd", "imf"])
def test_every_target_of_a_flow_map_trains_a_pipelines_network(target, field, data):
    run = splitmeanflow(field, data, steps=2, objective=FlowMapLoss(target, teacher=None), **QUICK)
    last = run.field.net.length.linear_2.weight  # type: ignore[union-attr]
    assert float(last.abs().max()) > 0  # was zero, so the second time is heard
    assert bool(torch.isfinite(draw(run.field, 2, steps=1, **rows(TEXTS, 2))).all())  # type: ignore[arg-type]


def test_a_student_that_was_interrupted_ends_as_one_that_was_not(field, data, tmp_path):
    def trained(place: str, steps: int) -> train.Run:
        return splitmeanflow(field, data, steps=steps, guidance=2.0, out=tmp_path / place, **QUICK)

    trained("stopped", 2)
    went_on, whole = trained("stopped", 4), trained("whole", 4)
    assert went_on.step == whole.step == 4
    for name, value in whole.raw.state_dict().items():
        assert torch.equal(went_on.raw.state_dict()[name], value), name
