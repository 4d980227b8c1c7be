"""Samples of a run begin where its training began, and are what its data are."""

from dataclasses import replace

import pytest
import torch

from rheos import core, nets
from rheos.core.errors import ConditionError, OptionError, UnknownOptionError
from rheos.data import load
from rheos.sample import draw
from rheos.train import Options, draw_run, fit
from rheos.train.suggestions import network_for

BRIEF = Options(batch=8, sample_every=0)


def run_of(objective, data, path="linear", **net):
    torch.manual_seed(0)
    field = core.Field(nets.MLP(data.shape[0], 8, 1, **net), path)
    return fit(field, objective, data, steps=1, options=BRIEF, progress=False)


def run_of_pictures(data):
    torch.manual_seed(0)
    return fit(core.Field(network_for(data)), core.FlowMatching(), data, steps=1, options=BRIEF, progress=False)


@pytest.fixture
def moons():
    return load("moons", limit=40)


def test_a_run_from_noise_draws_like_its_field(moons):
    run = run_of(core.FlowMatching(), moons)
    torch.testing.assert_close(run.draw(5, steps=3, seed=7), draw(run.field, 5, steps=3, seed=7))
    found = draw_run(run, 5, steps=3, solver="euler", batch=2)
    assert found.solution.rows == 15
    torch.testing.assert_close(found.x, draw(run.field, 5, steps=3, solver="euler"))


@pytest.mark.parametrize("source", [core.Uniform(), core.Gaussian(std=3.0)])
def test_another_source_is_begun_at(moons, source):
    run = run_of(core.FlowMatching(source=source), moons)
    start = source(torch.zeros(5, 2), {}, core.Draws(torch.arange(5)))
    torch.testing.assert_close(run.draw(5, steps=3, seed=list(range(5))), draw(run.field, 5, steps=3, source=start))


def test_a_source_has_the_level_of_its_paths_first_time(moons):
    run = run_of(core.FlowMatching(source="uniform"), moons, core.AffinePath(core.VE(sigma_max=4.0)))
    start = 4.0 * core.Uniform()(torch.zeros(5, 2), {}, core.Draws(torch.arange(5)))
    torch.testing.assert_close(run.draw(5, steps=3, seed=list(range(5))), draw(run.field, 5, steps=3, source=start))


def test_a_column_that_is_begun_at_has_to_be_given_unless_it_holds_noise(moons):
    x0 = torch.randn(40, 2)
    pairs = replace(moons, columns={"x0": x0}, conditions=("x0",))
    run = run_of(core.FlowMatching("given-pairs", source=core.FromCondition("x0")), pairs)
    torch.testing.assert_close(run.draw(3, x0=x0[:3], steps=2), draw(run.field, 3, steps=2, source=x0[:3]))
    with pytest.raises(ConditionError, match="begin at x0, so every sample needs it"):
        run.draw(3, steps=2)
    run = run_of(core.FlowMatching("given-pairs", source=core.FromCondition("x0", noise=True)), pairs)
    torch.testing.assert_close(run.draw(3, steps=2), draw(run.field, 3, steps=2))


def test_temperature_scales_the_noise_at_the_start(moons):
    for path in ("linear", core.AffinePath(core.VE(sigma_max=4.0))):
        run = run_of(core.FlowMatching(), moons, path)
        level = run.field.path.law.sigma(run.field.finite[0])
        noise = core.Draws(torch.arange(4)).normal(torch.zeros(4, 2), "source")
        wanted = draw(run.field, 4, steps=3, source=0.5 * level * noise)
        torch.testing.assert_close(run.draw(4, steps=3, temperature=0.5, seed=list(range(4))), wanted)
        cold = run.draw(4, steps=3, temperature=0.0)
        assert torch.equal(cold, cold[:1].expand(4, 2))
    with pytest.raises(OptionError, match="temperature must be 0 or positive"):
        run.draw(2, temperature=-1.0)
    run = run_of(core.FlowMatching(source="uniform"), moons)
    with pytest.raises(OptionError, match="no normal noise"):
        run.draw(2, temperature=0.5)


def test_held_out_rows_are_none_of_the_learned_ones(moons):
    assert run_of(core.FlowMatching(), moons).held_out() is None
    part = load("moons", limit=40, split=("train", 0.25, 3))
    held = run_of(core.FlowMatching(), part).held_out()
    both = torch.cat((part.x, held.x))
    assert len(held) == 10
    assert len(both.unique(dim=0)) == 40


def test_labels_may_be_named_and_one_caption_serves_all_rows():
    data = replace(load("digits", limit=60), about=load("digits").about)
    run = run_of_pictures(data)
    names = [data.class_names[k] for k in (3, 5)]
    torch.testing.assert_close(run.draw(2, label=names, steps=1), run.draw(2, label=[3, 5], steps=1))
    torch.testing.assert_close(run.draw(2, label=names[0], steps=1), run.draw(2, label=3, steps=1))
    with pytest.raises(UnknownOptionError, match="label 'ten'"):
        run.draw(2, label="ten")
    words = load("emoji", limit=40, size=8, embed="emoji", split=("train", 0.2, 0))
    run = run_of_pictures(words)
    one = run.draw(2, caption="red apple", steps=1, seed=[0, 1])
    torch.testing.assert_close(run.draw(2, caption=["red apple"], steps=1, seed=[0, 1]), one)
    torch.testing.assert_close(run.draw(2, caption=["red apple", "red apple"], steps=1, seed=[0, 1]), one)


def test_columns_are_checked(moons):
    run = run_of(
        core.FlowMatching(),
        moons,
        classes=moons.classes,
    )
    with pytest.raises(ConditionError, match="knows no captions"):
        run.draw(2, caption="a dog")
    with pytest.raises(ConditionError, match="label has 3 rows for 2"):
        run.draw(2, label=[0, 1, 0])
    with pytest.raises(ConditionError, match="Unknown condition or option colour"):
        run.draw(2, colour=1)
    run = run_of(core.FlowMatching(dropout=0.0), moons, classes=moons.classes)
    with pytest.raises(OptionError, match="needs a null branch"):
        run.draw(2, label=0, guidance=2.0)
