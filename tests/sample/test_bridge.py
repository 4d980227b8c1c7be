import math

import pytest
import torch
from torch import nn

from rheos.core import AffinePath, Field, NoisyPath
from rheos.core.errors import OptionError
from rheos.sample import BridgeDrift, Brownian, draw, solve
from strategies import randn

M0, S0, M1, S1, SIGMA = -1.0, 0.8, 2.0, 0.4, 0.7


class Exact(nn.Module):
    """The velocity or the score of two independent Gaussians joined by bridges."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.weight = kind, nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, x, t):
        t = t[:, None]
        variance = ((1 - t) * S0) ** 2 + (t * S1) ** 2 + SIGMA**2 * t * (1 - t)
        off = x - ((1 - t) * M0 + t * M1)
        if self.kind == "score":
            return -off / variance
        rate = -2 * (1 - t) * S0**2 + 2 * t * S1**2 + SIGMA**2 * (1 - 2 * t)
        return M1 - M0 + rate / (2 * variance) * off


def fields():
    path = NoisyPath(SIGMA)
    return Field(Exact("velocity"), path, gaussian=False), Field(Exact("score"), path, "score", gaussian=False)


GRID = [1e-3 + (1 - 2e-3) * k / 200 for k in range(201)]


def test_the_ode_and_the_bridge_lead_to_the_same_law():
    flow, score = fields()
    x = M0 + S0 * randn(20_000, 1)
    for end in (
        solve(flow, x, GRID, "heun").x,
        solve(BridgeDrift(flow, score), x, GRID, Brownian(sigma=SIGMA), seed=1).x,
    ):
        assert float(end.mean()) == pytest.approx(M1, abs=2e-2)
        assert float(end.std()) == pytest.approx(S1, abs=2e-2)


def test_walked_backwards_it_leads_to_the_source():
    flow, score = fields()
    x = M1 + S1 * randn(20_000, 1)
    drift = BridgeDrift(flow, score, backwards=True)
    end = solve(drift, x, GRID[::-1], Brownian(sigma=SIGMA), seed=1).x
    assert float(end.mean()) == pytest.approx(M0, abs=3e-2)
    assert float(end.std()) == pytest.approx(S0, abs=3e-2)


def test_paths_of_the_bridge_are_those_of_a_brownian_motion():
    """The quadratic variation is sigma^2."""
    flow, score = fields()
    told = solve(BridgeDrift(flow, score), randn(500, 1), GRID, Brownian(sigma=SIGMA), trace=True)
    variation = told.path.diff(dim=0).square().sum(0).mean()
    assert float(variation) == pytest.approx(SIGMA**2, rel=0.1)


def test_fields_that_make_no_bridge_are_refused():
    flow, score = fields()
    with pytest.raises(OptionError, match="Both fields of a bridge live on one NoisyPath"):
        BridgeDrift(flow, Field(Exact("score"), NoisyPath(0.1), "score"))
    with pytest.raises(OptionError, match="Both fields of a bridge live on one NoisyPath"):
        BridgeDrift(Field(Exact("velocity"), AffinePath()), score)
    with pytest.raises(OptionError, match="sigma must be positive"):
        Brownian(sigma=-1.0)
    with pytest.raises(OptionError, match="lives on NoisyPath"):
        draw(flow, 2, shape=(1,), solver="ddim")
    assert math.isfinite(float(draw(flow, 2, shape=(1,), solver="heun").sum()))
