"""Reflow, distillation of the straightened flow, and the pipeline around them."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.strategies import gaussian, randn, untyped
from torch import nn

from rheos.core import MSE, Draws, Field, GaussianMixtureField, config, row_seeds
from rheos.core.errors import ConditionError, DataError, OptionError, RheosError, ShapeError, UnknownOptionError
from rheos.distill import (
    PairStore,
    Recipe,
    SegmentStore,
    StackedVelocity,
    Stages,
    generate,
    given_pairs,
    instaflow,
    low_rank,
    paths,
    reflow,
    same_teacher,
    transfer,
)  # fmt: skip
from rheos.distill.kit import check_teacher, known, start_of
from rheos.nets import MLP
from rheos.sample import draw, draw_solution, solve
from rheos.train import Options, load

M, C = 1.5, 0.3


class Reflowed(nn.Module):
    """The optimal reflow of z -> m + c z: v = m + (c - 1) (x - t m) / (1 - t + t c)."""

    conditions: frozenset[str] = frozenset()

    def __init__(self) -> None:
        super().__init__()
        self.m, self.c = (nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (M, C))

    def forward(self, x, t):
        t = t[:, None]
        return self.m + (self.c - 1) * (x - t * self.m) / (1 - t + t * self.c)


# --- theory -----------------------------------------------------------------------------------------------------------


def test_the_flow_to_a_gaussian_is_its_affine_map_and_reflow_makes_it_straight():
    z = randn(64, 1)
    teacher = gaussian("linear", M, C)
    end = solve(teacher, z, [k / 200 for k in range(201)], "rk4").x
    torch.testing.assert_close(end, M + C * z, rtol=0, atol=1e-8)  # Runge-Kutta 4 with 200 steps
    field = Field(Reflowed(), shape=(1,))
    once = solve(field, z, [0.0, 1.0], "euler").x
    torch.testing.assert_close(once, end, rtol=0, atol=1e-8)
    assert paths(field, 32).straightness < 1e-25
    assert paths(teacher, 32).straightness > 1e-2


def test_a_straight_field_is_a_fixed_point_of_reflow():
    x0 = randn(256, 1).float()
    data = given_pairs(x0, M + C * x0)
    options = Options(batch=64, optimiser="adam", lr=1e-4, ema=0.0, sample_every=0, save_every=0, log_every=1)
    run = reflow(Field(Reflowed(), shape=(1,)), data, steps=3, options=options, progress=False)
    # its loss is S = 0, up to the rounding of float32 pairs; Adam then moves by that rounding, 1e-4 a step at most
    assert run.metrics()[0]["loss"] < 1e-12
    assert float(run.field.net.m) == pytest.approx(M, abs=4e-4)


def test_reflow_keeps_the_marginal_and_lowers_straightness_and_no_convex_cost_grows(tmp_path):
    teacher = GaussianMixtureField([[-1.5, 0.5], [1.5, -0.5]], [0.4, 0.4])
    pairs = generate(teacher, tmp_path / "p", 1500, recipe=Recipe(steps=20))
    torch.manual_seed(0)
    start = Field(MLP(2, hidden=32, depth=2, activation="silu"), shape=(2,))
    options = Options(batch=128, lr=5e-3, sample_every=0, save_every=0, log_every=1000, ema=0.98)
    straight = reflow(start, pairs, steps=300, options=options, progress=False).field
    before, after = paths(teacher, 400, powers=(1.0, 2.0)), paths(straight, 400, powers=(1.0, 2.0))
    assert after.straightness < 0.3 * before.straightness
    # a learned flow misses the marginal a little: 5 % of the cost, and 0.15 of means and covariances of unit size
    assert all(after.costs[p] <= 1.05 * before.costs[p] for p in before.costs)
    a, b = (x.double() for x in (before.x1, after.x1))
    assert float((a.mean(0) - b.mean(0)).abs().max()) < 0.15
    assert float((torch.cov(a.T) - torch.cov(b.T)).abs().max()) < 0.3


def test_independent_pairs_cost_most_and_the_flows_own_pairs_less():
    report = paths(gaussian("linear", M, C), 2000, steps=100)
    # E (x1 - x0)^2 is m^2 + (1 - c)^2 for the map m + c z, and m^2 + 1 + c^2 for independent pairs
    assert report.costs[2.0] == pytest.approx(M**2 + (1 - C) ** 2, rel=0.1)
    assert report.costs[2.0] < M**2 + 1 + C**2
    with pytest.raises(OptionError, match="convex for exponents of at least 1"):
        paths(gaussian(), 4, powers=(0.5,))


# --- guidance ---------------------------------------------------------------------------------------------------------

TWO = GaussianMixtureField([[-2.0, 0.0], [2.0, 0.0]], [0.5, 0.5], labels=[0, 1])


@pytest.mark.parametrize(("scale", "label"), [(1.0, 1), (0.0, 2)])
def test_triplets_with_a_of_one_are_conditional_and_of_zero_unconditional(tmp_path, scale, label):
    ones = {"label": torch.ones(8, dtype=torch.int64)}
    store = generate(TWO, tmp_path / "p", 8, recipe=Recipe(steps=8, guidance=scale), cond=ones, class_names=("l", "r"))
    same = draw(TWO, 8, steps=8, solver="heun", seed=store.column("seed"), label=label)
    torch.testing.assert_close(store.column("x1").double(), same.double(), rtol=0, atol=1e-5)


def test_guidance_is_baked_a_student_in_one_call_makes_what_the_guided_flow_makes(tmp_path):
    teacher = gaussian_pair()
    torch.manual_seed(1)
    flow = Field(MLP(1, hidden=32, depth=2, activation="silu", classes=2), shape=(1,))
    label = torch.arange(600) % 2
    how = Stages(pairs=600, rounds=0, distil=250, polish=0, guidance=1.5, teacher=Recipe(steps=20, solver="heun"))
    options = Options(batch=64, lr=1e-2, ema=0.9, sample_every=0, save_every=0, log_every=1000)
    pairs = generate(teacher, tmp_path / "p", 600, recipe=how.recipe(teacher, 0, 0), cond={"label": label},
                     class_names=("left", "right"))  # fmt: skip
    from rheos.distill import distil

    student = distil(flow, pairs, steps=how.distil, options=options, progress=False).field
    guided = draw(teacher, 200, steps=20, solver="heun", guidance=1.5, seed=9, label=label[:200])
    solution = draw_solution(student, 200, seed=9, label=label[:200])
    assert solution.calls == 1
    error = float((solution.x.double() - guided.double()).square().mean())
    plain = draw(teacher, 200, steps=20, solver="heun", seed=9, label=label[:200])
    assert error < 0.1 * float((plain - guided).double().square().mean())


def gaussian_pair() -> GaussianMixtureField:
    return GaussianMixtureField([[-1.0], [1.0]], [0.6, 0.6], labels=[0, 1])


# --- other paths ------------------------------------------------------------------------------------------------------


def test_off_the_linear_path_the_raw_output_becomes_the_velocity():
    torch.manual_seed(0)
    net = MLP(2, hidden=8, depth=1)
    noise = Field(net, "vp", "noise", shape=(2,), shift=3.0)
    student = noise.as_velocity()
    x, t = randn(3, 2).float(), torch.tensor([0.0, 0.3, 0.9])
    assert torch.equal(student(x, t), net(x, t))
    assert (student.predicts, student.shift, student.shape) == ("velocity", 1.0, (2,))
    assert student.net is not net
    linear = Field(net, shift=2.0)
    assert torch.equal(linear.as_velocity()(x, t), net(x, t))
    assert torch.equal(noise.on("linear").as_velocity()(x, t), net(x, t))
    data = Field(net, predicts="data", shape=(2,))
    assert torch.equal(start_of(data)(x, t), data(x, t))  # on the linear path nothing is reinterpreted

    class Own(Field):
        pass

    with pytest.raises(OptionError, match="Own cannot start a student"):
        Own(net, "vp", "noise").as_velocity()


# --- a difference that moves over, and two networks in a row ---------------------------------------------------------


def test_a_difference_of_nothing_is_the_identity_and_all_of_it_turns_the_base_into_the_custom_model():
    torch.manual_seed(0)
    base, custom = MLP(2, hidden=8, depth=1), MLP(2, hidden=8, depth=1)
    student = Field(MLP(2, hidden=8, depth=1))
    still = transfer(student, custom, base, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(still.parameters(), student.parameters(), strict=True))
    assert still.net is not student.net
    moved = transfer(Field(base), custom, base)
    for name, value in moved.net.state_dict().items():
        torch.testing.assert_close(value, custom.state_dict()[name])
    half = transfer(student, custom, base, 0.5).net.state_dict()
    for name, value in student.net.state_dict().items():
        expected = value + 0.5 * (custom.state_dict()[name] - base.state_dict()[name])
        torch.testing.assert_close(half[name], expected)


def test_lora_factors_are_a_custom_model():
    torch.manual_seed(0)
    base = MLP(2, hidden=8, depth=1)
    down, up = randn(2, 3).float(), randn(8, 2, seed=1).float()
    custom = low_rank(base, {"first.weight": (down, up)}, scale=0.5)
    expected = base.first.weight.detach() + 0.5 * up @ down
    torch.testing.assert_close(transfer(Field(base), custom, base).net.first.weight.detach(), expected)
    with pytest.raises(OptionError, match=r"'last\.weight', which the base model has not"):
        low_rank(base, {"last.weight": (down, up)})
    with pytest.raises(ShapeError, match=r"makes \(8, 2\)"):
        low_rank(base, {"first.weight": (down[:, :2], up)})


def test_weights_that_do_not_fit_are_refused():
    base = MLP(2, hidden=8, depth=1)
    student = Field(MLP(2, hidden=8, depth=1))
    with pytest.raises(OptionError, match="'x', which the base model has not"):
        transfer(student, {"x": torch.zeros(1)}, base)
    with pytest.raises(ShapeError, match=r"shapes \(\(1,\), \(8,\), \(8,\)\)"):
        transfer(student, {"first.bias": torch.zeros(1)}, base)


def test_two_networks_in_a_row_begin_as_the_first_and_learn_with_both():
    torch.manual_seed(0)
    one = MLP(2, hidden=8, depth=1, classes=3)
    stacked = StackedVelocity(one)
    x, t, label = randn(4, 2).float(), torch.rand(4), torch.arange(4) % 3
    assert torch.equal(stacked(x, t, label=label), one(x, t, label=label))
    assert torch.equal(stacked.null("label", 2), one.null("label", 2))
    nn.init.ones_(stacked.gate)
    inner = x + one(x, t, label=label)
    torch.testing.assert_close(stacked(x, t, label=label), stacked.second(inner, t, label=label))
    stacked(x, t, label=label).sum().backward()
    assert all(p.grad is not None for p in stacked.parameters())
    again = config.load(config.dump(stacked))
    again.load_state_dict(stacked.state_dict())
    assert torch.equal(again(x, t, label=label), stacked(x, t, label=label))
    with pytest.raises(OptionError, match="must take the conditions"):
        StackedVelocity(one, MLP(2))


# --- the pipeline -----------------------------------------------------------------------------------------------------

OPTIONS = Options(batch=16, sample_every=0, save_every=4, log_every=4)
HOW = Stages(pairs=48, steps=4, distil=4, polish=4, loss="huber", teacher=Recipe(steps=4, chunk=16),
             straight=Recipe(steps=4, solver="euler", chunk=16))  # fmt: skip


def labelled() -> Field:
    torch.manual_seed(3)
    return Field(MLP(2, hidden=8, depth=1, classes=2), shape=(2,))


def weights(run) -> torch.Tensor:
    return torch.cat([p.flatten() for p in run.field.parameters()])


def test_every_stage_lies_below_out_with_its_guidance(tmp_path):
    out = tmp_path / "i"
    run = instaflow(labelled(), out=out, how=replace(HOW, rounds=2), options=OPTIONS, progress=False)
    stores = [PairStore(out / f"pairs-{k}") for k in range(3)]
    assert [s.about["recipe"]["guidance"] for s in stores] == [3.0, 1.5, 1.5]
    assert len({s.about["recipe"]["seed"] for s in stores}) == 3
    assert load(out / "reflow-1").objective.dropout == 0.1
    assert load(out / "distil").objective.parts.premetric == MSE()
    assert run.field.times == (0.0, 1.0)
    assert draw_solution(run.field, 4, label=1).calls == 1
    with pytest.raises(OptionError, match="Leave it out"):
        draw(run.field, 4, label=1, guidance=1.5)


def test_an_interrupted_pipeline_ends_like_an_uninterrupted_one(tmp_path):
    whole = instaflow(labelled(), out=tmp_path / "a", how=HOW, options=OPTIONS, progress=False)
    for name in ("distil", "polish", "pairs-1"):
        shutil.rmtree(tmp_path / "a" / name)
    again = instaflow(labelled(), out=tmp_path / "a", how=HOW, options=OPTIONS, progress=False)
    memory = instaflow(labelled(), how=HOW, options=OPTIONS, progress=False)
    assert torch.equal(weights(again), weights(whole))
    assert torch.equal(weights(memory), weights(whole))


def test_a_student_of_k_steps_learns_on_lines_or_on_segments_of_the_flow(tmp_path):
    how = replace(HOW, evaluations=2, polish=0)
    line = instaflow(labelled(), how=how, options=OPTIONS, progress=False)
    out = tmp_path / "c"
    chord = instaflow(labelled(), out=out, how=replace(how, targets="chord"), options=OPTIONS, progress=False)
    assert line.field.times == chord.field.times == (0.0, 0.5, 1.0)
    store = SegmentStore(out / "segments-1")
    assert store.times == (0.0, 0.5, 1.0)
    assert store.about["recipe"]["guidance"] == 1.5
    assert not torch.equal(weights(line), weights(chord))


def test_a_stacked_student_starts_as_the_flow_and_is_twice_as_large():
    how = replace(HOW, rounds=0, polish=0)
    plain = instaflow(labelled(), how=how, options=OPTIONS, progress=False)
    stacked = instaflow(labelled(), how=replace(how, stacked=True), options=OPTIONS, progress=False)
    assert isinstance(stacked.field.net, StackedVelocity)
    assert weights(stacked).numel() == 2 * weights(plain).numel() + 1


def test_pictures_are_polished_by_features_and_other_samples_are_not(tmp_path):
    torch.manual_seed(0)
    digits = Field(MLP(64, hidden=8, depth=1), shape=(1, 8, 8), value_range=(-1.0, 1.0))
    how = replace(HOW, loss="auto", distil=2, polish=2)
    run = instaflow(digits, how=how, options=OPTIONS, progress=False)
    assert type(run.objective.parts.premetric).__name__ == "Perceptual"
    plain = instaflow(labelled(), how=how, options=OPTIONS, progress=False)
    assert plain.objective.parts.premetric == MSE()


def test_given_triplets_are_used_and_those_of_another_scale_refused(tmp_path):
    teacher = labelled()
    store = generate(teacher, tmp_path / "p", 48, recipe=HOW.recipe(teacher, 0, 0), class_names=("a", "b"))
    out = tmp_path / "i"
    instaflow(teacher, out=out, how=HOW, pairs=store, options=OPTIONS, progress=False)
    assert not (out / "pairs-0").exists()
    same_teacher(teacher, store)
    other = tmp_path / "scaled"
    shutil.copytree(tmp_path / "p", other)
    scaled = PairStore(other)
    scaled._maps["x1"][:] = 0.18215 * scaled._maps["x1"]
    with pytest.raises(DataError, match=r"differ by 82 % and have 0\.182 times its scale.*same autoencoder"):
        instaflow(teacher, how=HOW, pairs=scaled, options=OPTIONS)


@untyped
def test_a_network_alone_is_no_teacher():
    with pytest.raises(OptionError, match="Run or a Field is wanted, got MLP"):
        instaflow(MLP(2))


def test_bad_input_is_refused_before_any_work(tmp_path):
    with pytest.raises(OptionError, match="know the shape"):
        instaflow(Field(MLP(2)), how=HOW)
    text = Field(MLP(2, embedding=3), shape=(2,))
    with pytest.raises(RheosError, match="need the conditions embedding"):
        instaflow(text, how=HOW)
    triplets = given_pairs(randn(64, 2).float(), randn(64, 2, seed=1).float())
    with pytest.raises(ConditionError, match="The network takes embedding, which the data do not carry"):
        reflow(text, triplets, steps=1)
    with pytest.raises(OptionError, match="steps must be at least 1, got 0"):
        draw(labelled(), 2, steps=0)
    grey = Field(MLP(64), shape=(1, 8, 8), value_range=(-1.0, 1.0))
    with pytest.raises(ShapeError, match=r"LPIPS looks at colour pictures.*What remains: a feature net"):
        instaflow(grey, how=replace(HOW, loss="lpips"), options=OPTIONS)

    class Noise(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(()))

        def forward(self, x, t):
            return self.w * x

    with pytest.raises(OptionError, match="seems to predict noise"):
        check_teacher(Field(Noise(), shape=(2,)))
    check_teacher(gaussian("linear", M, C))
    check_teacher(Field(Noise(), "vp", "noise", shape=(2,)))
    assert list(Path(tmp_path).iterdir()) == []


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"pairs": 0}, "pairs must be at least 1"),
        ({"rounds": -1}, "rounds must be at least 0"),
        ({"evaluations": 0}, "evaluations must be at least 1"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\)"),
        ({"evaluations": 3, "targets": "chord"}, "a multiple of them in straight.steps, got 25"),
    ],
)
def test_stages_out_of_range_are_refused(bad, words):
    with pytest.raises(OptionError, match=words):
        Stages(**bad)


def test_unknown_names_of_stages_are_refused():
    with pytest.raises(UnknownOptionError, match="begin 'row' is unknown; did you mean 'raw'"):
        Stages(begin="row")
    with pytest.raises(UnknownOptionError, match="targets 'chords' is unknown"):
        Stages(targets="chords")


def test_guidance_is_five_for_text_three_for_labels_and_none_without_conditions():
    text, plain = Field(MLP(2, embedding=3)), Field(MLP(2))
    assert [Stages().recipe(f, 0, 0).guidance for f in (text, labelled(), plain)] == [5.0, 3.0, 1.0]
    assert [Stages().recipe(f, 1, 0).guidance for f in (text, labelled(), plain)] == [1.5, 1.5, 1.0]
    assert Stages(guidance=6.0).recipe(text, 0, 0).guidance == 6.0


def test_reflow_reads_the_noise_of_stored_seeds(tmp_path):
    teacher = gaussian("linear", M, C)
    store = generate(teacher, tmp_path / "p", 32, recipe=Recipe(steps=4, noise="seed"))
    data, source = known(store)
    rows = data.batch(torch.arange(4))
    x0 = source(rows.x, rows.cond, Draws(row_seeds(0, 4)))
    torch.testing.assert_close(x0, store.column("x0")[:4].to(x0))
    assert reflow(Field(MLP(1), shape=(1,)), store, steps=1, options=OPTIONS, progress=False).step == 1
