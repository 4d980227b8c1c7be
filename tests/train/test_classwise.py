"""Couplings across classes: what they do to the noise of a class, and who says so."""

from dataclasses import replace

import pytest
import torch

from rheos import core
from rheos.core import ExactOT, FlowMatching, Gibbs, Independent, PerCondition, Sinkhorn, Unbalanced
from rheos.data import Data, load
from rheos.nets import UNet
from rheos.train import Options, SymmFlow, fit
from rheos.train.checks import check
from rheos.train.classwise import across_classes, advice


def shift(law, n=256, batches=30):
    """How far the mean noise of a class is from zero, where two classes lie at -2 and 2."""
    law = law.prepare(torch.randn(2048, 1), 2.0 * torch.randn(2048, 1).sign(), {}, core.Draws(torch.arange(2048)))
    total, weight = 0.0, 0.0
    for k in range(batches):
        draws = core.Draws.training(0, k, n)
        label = (draws.uniform("label") < 0.5).long()
        x1 = (4.0 * label - 2.0)[:, None]
        pairs = law(draws.normal(x1, "noise"), x1, {"label": label}, draws)
        w = torch.ones(n, dtype=torch.float64) if pairs.weight is None else pairs.weight
        one = w * (pairs.cond["label"] == 1)
        total, weight = total + float((one * pairs.x0[:, 0]).sum()), weight + float(one.sum())
    return total / weight


def test_the_mean_noise_of_a_class_stays_zero_where_no_other_coupling_is_named():
    half_normal = (2 / torch.pi) ** 0.5  # all positive noise goes to the class on the right
    assert abs(shift(ExactOT()) - half_normal) < 0.03
    assert shift(Gibbs()) > 0.3
    assert shift(PerCondition(Gibbs())) > 0.3
    assert shift(PerCondition(Unbalanced(0.5, 1.0))) > 0.3
    assert abs(shift(PerCondition(Sinkhorn(epsilon=0.5)))) < 0.05
    for law in (Independent(), PerCondition(ExactOT()), PerCondition(Gibbs(half_steps=1))):
        assert abs(shift(law)) < 4 * (256 * 30 / 4) ** -0.5  # four standard errors of half the rows, for weights
        assert across_classes(law) is None


@pytest.mark.parametrize(
    ("law", "better"),
    [
        (ExactOT(), "PerCondition(ExactOT())"),
        (ExactOT(power=1.0), "PerCondition(ExactOT(power=1.0))"),
        (ExactOT(condition="label"), "PerCondition(ExactOT(condition='label'))"),  # without a price
        (PerCondition("exact-ot", name="mask"), "PerCondition(ExactOT())"),
        (Sinkhorn(0.5), "PerCondition(Sinkhorn(epsilon=0.5))"),
        (Sinkhorn(0.5, sampled="permutation"), "PerCondition(Sinkhorn(epsilon=0.5, sampled='permutation'))"),
        (Unbalanced(0.5, 1.0), "PerCondition(Sinkhorn(epsilon=0.5))"),
        (PerCondition(Unbalanced(0.5, 1.0)), "PerCondition(Sinkhorn(epsilon=0.5))"),
        (Gibbs(epsilon=2.0), "PerCondition(Gibbs(epsilon=2.0, half_steps=1))"),
        (Gibbs(half_steps=1), "PerCondition(Gibbs(half_steps=1))"),
        (PerCondition("gibbs"), "PerCondition(Gibbs(half_steps=1))"),
        (ExactOT(condition="label", beta=1.0), None),
        (PerCondition("exact-ot"), None),
        (Independent(), None),
    ],
)
def test_what_is_named_couples_inside_classes_and_is_not_refused_itself(law, better):
    assert across_classes(law) == better
    if better is not None:
        assert across_classes(eval(better, vars(core))) is None


def test_transport_over_classes_is_warned_of_once_and_only_where_the_network_is_given_them():
    digits = load("digits", limit=40)
    field = core.Field(UNet(1, width=8, multipliers=(1, 2), attention=(), classes=10))
    options = Options(batch=4, sample_every=0)
    with pytest.warns(RuntimeWarning, match=r"ExactOT over 10 classes.*PerCondition\(ExactOT\(\)\)") as said:
        fit(field, FlowMatching("exact-ot"), digits, steps=2, options=options, progress=False)
    assert len(said) == 1
    check(field, FlowMatching(PerCondition("exact-ot")), digits, 1, options)
    check(field, FlowMatching("gibbs"), digits, 1, options)
    blind = core.Field(UNet(1, width=8, multipliers=(1, 2), attention=()))
    check(blind, FlowMatching("exact-ot"), replace(digits, conditions=()), 1, options)


def test_a_sentence_is_had_for_weights_too_and_none_where_classes_are_no_condition():
    digits = load("digits", limit=40)
    assert "Gibbs over 10 classes" in advice(FlowMatching("gibbs"), digits)
    assert "PerCondition(Gibbs) over" in advice(FlowMatching(PerCondition("gibbs")), digits)
    assert advice(FlowMatching("gibbs"), Data(torch.zeros(4, 2))) is None
    assert advice(FlowMatching(), digits) is None
    assert advice(SymmFlow(), digits) is None
    assert advice(FlowMatching("exact-ot"), digits.where(3)) is None
