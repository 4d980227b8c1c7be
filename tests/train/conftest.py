"""A small field, small data, and runs on them."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rheos import core, nets
from rheos.data import About, Data, load
from rheos.train import Options, Run, fit

OPTIONS = Options(batch=16, lr=2e-3, save_every=2, log_every=2, sample_every=0, keep=9, ema=0.9, warmup=2)


@pytest.fixture
def points() -> Data:
    """A hundred points in the plane."""
    return load("moons", limit=100)


@pytest.fixture
def labelled() -> Data:
    """Points with three classes."""
    x = load("moons", limit=90).x
    return Data(x, {"label": torch.arange(90) % 3}, About("labelled", ("a", "b", "c")))


@pytest.fixture
def field() -> Callable[..., core.Field]:
    """Makes the same small field every time."""

    def make(seed: int = 0, **options: Any) -> core.Field:
        torch.manual_seed(seed)
        return core.Field(nets.MLP(2, hidden=16, depth=2, **options))

    return make


@pytest.fixture
def train(points: Data, field: Callable[..., core.Field]) -> Callable[..., Run]:
    """Trains a small field with small options, which keywords replace."""

    def run(
        out: Path | None = None,
        steps: int = 6,
        *,
        objective: Any = None,
        data: Data | None = None,
        of: core.Field | None = None,
        resume: bool = False,
        **options: Any,
    ) -> Run:
        return fit(
            field() if of is None else of,
            objective or core.FlowMatching(),
            points if data is None else data,
            steps=steps,
            out=out,
            options=replace(OPTIONS, **options),
            resume=resume,
            progress=False,
        )

    return run


def same(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    """Whether two sets of tensors are equal to the last bit."""
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


@pytest.fixture
def equal() -> Callable[[Run, Run], bool]:
    """Whether two runs have the same weights, averages and figures, to the last bit."""

    def compare(a: Run, b: Run) -> bool:
        weights = all(same(x.state_dict(), y.state_dict()) for x, y in ((a.field, b.field), (a.raw, b.raw)))
        return weights and a.metrics() == b.metrics() and a.step == b.step

    return compare


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing to disk protects against power cuts, which tests do not have."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture
def untyped(request: pytest.FixtureRequest) -> None:
    """For tests of wrong types, or of compiling: with types checked at every call, our own error comes too late."""
    if request.config.getoption("jaxtyping_packages", default=None):
        pytest.skip("types are checked at every call")
