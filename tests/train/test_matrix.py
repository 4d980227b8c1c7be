"""Every coupling with every path, time law, premetric and prediction: it trains, or it says in a sentence why not.

All pairs of choices occur, the other choices beside them in turn: some five hundred trainings of three steps.
"""

from itertools import combinations, product

import pytest
import torch

from rheos import core, nets
from rheos.core import Draws
from rheos.core.errors import RheosError

CHOICES = {
    "coupling": {
        "independent": core.Independent(),
        "exact": core.ExactOT(),
        "exact, conditions": core.ExactOT(condition="label", beta=1.0),
        "sinkhorn": core.Sinkhorn(0.5),
        "permutation": core.Sinkhorn(0.5, sampled="permutation"),
        "unbalanced": core.Unbalanced(0.5, mass=2.0),
        "gibbs": core.Gibbs(2.0),
        "by class": core.PerCondition(core.ExactOT()),
        "given": core.GivenPairs(),
    },
    "path": {
        **{name: core.AffinePath(name) for name in ("linear", "gvp", "vp", "sub-vp", "ve", "edm", "ddpm")},
        "bridge": core.NoisyPath(0.3),
        "tube": core.NoisyPath(0.1, "tube"),
        "quaternions": core.GeodesicPath(core.UnitQuaternion()),
    },
    "times": {
        **{name: name for name in ("uniform", "logit-normal", "stratified", "u-shape", "edm", "mode", "cosmap")},
        "antithetic": core.Antithetic("uniform"),
    },
    "premetric": {**{name: name for name in ("mse", "rmse", "l1", "huber")}, "pseudo-huber": core.PseudoHuber(0.03)},
    "predicts": {name: name for name in ("velocity", "data", "noise", "score", "v_prediction", "edm")},
}
REFUSED = {"path": ("bridge", "tube", "quaternions")}
"""Only these paths know fewer predictions than the others."""


def combinations_of_two():
    """All pairs of choices; what stands beside a pair rotates, so that it is not always the first."""
    names, seen, turn = list(CHOICES), set(), 0
    for a, b in combinations(names, 2):
        for x, y in product(CHOICES[a], CHOICES[b]):
            turn += 1
            row = {n: list(CHOICES[n])[(turn + 3 * k) % len(CHOICES[n])] for k, n in enumerate(names)} | {a: x, b: y}
            if tuple(row.values()) not in seen:
                seen.add(tuple(row.values()))
                yield row


def train(row):
    chosen = {n: CHOICES[n][v] for n, v in row.items()}
    torch.manual_seed(0)
    curved = row["path"] == "quaternions"
    net = nets.MLP(4, hidden=8, depth=1, classes=2)
    field = core.Field(net, chosen["path"], chosen["predicts"])
    pairs = row["coupling"] == "given"
    objective = core.FlowMatching(
        coupling=chosen["coupling"],
        times=chosen["times"],
        premetric=chosen["premetric"],
        source=core.FromCondition("x0") if pairs else core.FromSpace(core.UnitQuaternion()) if curved else "gaussian",
    )
    optimiser, x, label = torch.optim.Adam(field.parameters(), lr=1e-2), torch.randn(8, 4), torch.arange(8) % 2
    x = torch.nn.functional.normalize(x, dim=1) if curved else x
    cond = {"label": label} | ({"x0": torch.nn.functional.normalize(torch.randn(8, 4), dim=1)} if pairs else {})
    for step in range(3):
        plan = objective.prepare(field, x, cond, Draws.training(0, step, 8))
        optimiser.zero_grad()
        objective.loss(field, plan).value.backward()
        optimiser.step()
    return torch.stack([p.isfinite().all() for p in field.parameters()]).all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # small batches, so plans and weights warn
@pytest.mark.parametrize("coupling", CHOICES["coupling"])
def test_it_trains_or_refuses_with_a_sentence(coupling):
    refused = {}
    for row in combinations_of_two():
        if row["coupling"] != coupling:
            continue
        try:
            assert bool(train(row)), f"weights are not finite: {row}"
        except RheosError as error:
            refused[tuple(row.values())] = row, str(error)
    for row, text in refused.values():
        assert row["path"] in REFUSED["path"], (row, text)
        assert len(text) > 20
        assert text.rstrip().endswith((".", ")", "?"))


def test_all_pairs_of_choices_occur():
    rows = list(combinations_of_two())
    for a, b in combinations(CHOICES, 2):
        assert {(r[a], r[b]) for r in rows} == set(product(CHOICES[a], CHOICES[b]))
    assert len(rows) > 200
