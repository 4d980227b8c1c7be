import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from rheos import core, nets, sample, train
from rheos.core import Draws
from rheos.core.errors import ConditionError, OptionError, ShapeError, SourceNotGaussianError
from rheos.data import About, Data
from rheos.train import CrossFlow, CrossNet, Options, SourceLosses, crossflow

FLOW = core.FlowMatching(times="logit-normal", dropout=0.0)
ALONE = SourceLosses(contrastive=0.0, kl=0.0)


class Law(nets.SourceEncoder):
    """A fixed law, whatever the source says."""

    def __init__(self, mean=0.0, std=1.0, shape=(3,)):
        super().__init__({}, shape)
        self.mean, self.level = mean, 2 * math.log(std) if std else -math.inf

    def forward(self, source, mask=None):
        like = source.new_ones(len(source), *self.shape)
        return nets.Latent(self.mean * like, self.level * like)


class Exact(nn.Module):
    """The velocity between N(a, p^2) and N(b, q^2), independent of each other, coordinate by coordinate."""

    def __init__(self, a, p, b, q):
        super().__init__()
        self.law = a, p, b, q
        self.dummy = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x, t):
        a, p, b, q = self.law
        t = t[:, None]
        variance = (1 - t) ** 2 * p**2 + t**2 * q**2
        slope = (t * q**2 - (1 - t) * p**2) / variance
        return b - a + slope * (x - (1 - t) * a - t * b) + self.dummy


def small(dim=3, tower=True, spread=None, sigma_min=0.0, source=4, **net):
    torch.manual_seed(0)
    return crossflow.cross_field(
        nets.MLP(dim, **({"hidden": 8, "depth": 1, "classes": 1} | net)),
        nets.VectorEncoder(source, (dim,), hidden=8, depth=2),
        nets.VectorTower(dim, hidden=8, depth=2) if tower else None,
        spread=spread,
        sigma_min=sigma_min,
    )


def rows(n=64, dim=3, source=4, seed=1):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=g), {"embedding": torch.randn(n, source, generator=g)}


def plan_of(field, objective, n=64, **columns):
    x1, cond = rows(n)
    return objective.prepare(field, x1, {**cond, **columns}, Draws.training(0, 0, n))


# The latent and its losses


def test_the_variance_of_z0_is_the_one_that_the_encoder_says():
    net = CrossNet(nets.MLP(3), Law(mean=2.0, std=0.7))
    noise = Draws(torch.arange(40_000)).normal(torch.empty(40_000, 3, dtype=torch.float64))
    begun = net.start(torch.zeros(40_000, 1, dtype=torch.float64), None, noise)
    # the standard error of a variance is v sqrt(2 / n), of a mean sqrt(v / n); four of them
    assert abs(float(begun.z.var()) - 0.49) < 4 * 0.49 * math.sqrt(2 / 120_000)
    assert abs(float(begun.z.mean()) - 2.0) < 4 * 0.7 / math.sqrt(120_000)
    torch.testing.assert_close(begun.z, 2.0 + 0.7 * noise, rtol=1e-12, atol=1e-12)


# The objective


@pytest.mark.parametrize("detached", [False, True])
def test_the_flow_trains_the_encoder_unless_its_source_is_detached(detached):
    field = small(tower=False)
    objective = CrossFlow(flow=FLOW, losses=ALONE, detach_source=detached)
    objective.loss(field, plan_of(field, objective)).value.backward()
    gradients = [p.grad for p in field.net.encoder.parameters()]
    if detached:
        assert all(g is None for g in gradients)
    else:
        assert all(float(g.abs().max()) > 0 for g in gradients)


def test_gradients_reach_the_encoder_through_the_state_and_through_the_target():
    field = small(tower=False, classes=0)
    objective = CrossFlow(flow=FLOW, losses=ALONE, unconditional=0.0)
    plan = plan_of(field, objective)
    for p in field.net.net.parameters():
        p.data.zero_()  # a network that says zero: what is left is the target's part, u = z_1 - z_0
    objective.loss(field, plan).value.backward()
    begun = field.net.start(plan.cond["embedding"], None, plan.x0)
    bias = field.net.encoder.layers[-1].bias.grad[:3]
    torch.testing.assert_close(bias, 2 / 3 * (begun.z - plan.x1).mean(0).detach(), rtol=1e-5, atol=1e-6)


def test_with_a_standard_normal_encoder_the_objective_is_plain_flow_matching():
    torch.manual_seed(0)
    net = nets.MLP(3, hidden=8, depth=1)
    field = core.Field(CrossNet(net, Law()), core.AffinePath("linear"), gaussian=False)
    objective = CrossFlow(flow=FLOW, losses=ALONE, unconditional=0.0)
    ours = objective.loss(field, plan_of(field, objective))
    x1, _ = rows()
    plain = core.Field(net)
    theirs = FLOW.loss(plain, FLOW.prepare(plain, x1, {}, Draws.training(0, 0, 64)))
    assert torch.equal(ours.rows, theirs.rows)
    assert torch.equal(ours.weight, theirs.weight)


def test_the_loss_is_the_sum_of_its_parts_with_their_weights():
    field = small()
    parts = {"contrastive": 0.5, "kl": 0.25}
    plan = plan_of(field, objective := CrossFlow(flow=FLOW, losses=SourceLosses(**parts)))
    found = objective.loss(field, plan)
    total = found.logs["loss_flow"] + sum(w * found.logs[name] for name, w in parts.items())
    torch.testing.assert_close(found.value, total)
    assert 0 <= found.logs["contrastive_accuracy"] <= 1
    assert found.logs["clamped"] == 0


def test_slices_of_a_plan_have_the_rows_of_the_whole_where_nothing_is_contrasted():
    field = small(tower=False)
    objective = CrossFlow(flow=FLOW, losses=SourceLosses(contrastive=0.0))
    plan = plan_of(field, objective)
    whole = objective.loss(field, plan)
    halves = [objective.loss(field, plan.slice(k, k + 32)) for k in (0, 32)]
    torch.testing.assert_close(whole.rows, torch.cat([h.rows for h in halves]))
    torch.testing.assert_close(whole.value, halves[0].value + halves[1].value)


def test_reconstruction_is_the_error_of_the_source_read_from_its_latent():
    torch.manual_seed(0)
    decoder = nn.Linear(3, 4)
    net = CrossNet(nets.MLP(3, classes=1), nets.VectorEncoder(4, (3,)), decoder=decoder, spread=0.0)
    field = core.Field(net, gaussian=False)
    objective = CrossFlow(flow=FLOW, losses=SourceLosses(contrastive=0.0, kl=0.0, reconstruction=2.0))
    plan = plan_of(field, objective)
    found = objective.loss(field, plan)
    source = plan.cond["embedding"]
    expected = (decoder(net.encoder(source).mean) - source).square().mean()
    torch.testing.assert_close(found.logs["reconstruction"], expected.detach())
    torch.testing.assert_close(found.value, found.logs["loss_flow"] + 2 * expected)


def test_the_loss_of_an_exact_velocity_is_the_variance_that_pairs_leave():
    a, p, b, q = -1.0, 0.5, 2.0, 1.5
    field = core.Field(CrossNet(Exact(a, p, b, q), Law(a, p)), gaussian=False)
    n = 20_000
    x1 = b + q * torch.randn(n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    objective = CrossFlow(flow=FLOW, losses=ALONE, unconditional=0.0)
    plan = objective.prepare(field, x1, {"embedding": x1.new_zeros(n, 1)}, Draws.training(0, 0, n))
    t = plan.t
    left = p**2 + q**2 - (t * q**2 - (1 - t) * p**2) ** 2 / ((1 - t) ** 2 * p**2 + t**2 * q**2)
    gap = objective.loss(field, plan).rows.detach() - left
    assert abs(float(gap.mean())) < 4 * float(gap.std()) / math.sqrt(n)  # four standard errors


# The indicator


@pytest.mark.parametrize("chosen", [[1, 0, 1, 1, 0], [0, 0, 0], [1, 1]])
def test_permuting_targets_keeps_them_as_a_set_and_moves_every_chosen_one(chosen):
    chosen = torch.tensor(chosen, dtype=torch.bool)
    index, kept = crossflow.permuted(chosen)
    own = torch.arange(len(chosen))
    assert torch.equal(index.sort().values, own)
    assert torch.equal(index != own, chosen)
    assert torch.equal(kept, chosen)


def test_one_unconditional_row_alone_is_turned_back():
    index, kept = crossflow.permuted(torch.tensor([False, True, False]))
    assert index.tolist() == [0, 1, 2]
    assert not kept.any()


def test_unconditional_rows_get_each_others_targets_and_the_callers_tensor_stays():
    field = small()
    x1, cond = rows()
    before = x1.clone()
    plan = CrossFlow(unconditional=0.5).prepare(field, x1, cond, Draws.training(0, 0, 64))
    moved = (plan.x1 != x1).any(1)
    assert torch.equal(x1, before)
    assert torch.equal(moved, plan.cond["indicator"].bool())
    assert 16 < int(moved.sum()) < 48  # four standard deviations of a fair coin
    assert torch.equal(plan.x1[moved].sort(0).values, x1[moved].sort(0).values)


def test_what_is_contrasted_is_the_own_target_also_of_unconditional_rows():
    field = small()
    x1, cond = rows()
    objective = CrossFlow(flow=FLOW, losses=SourceLosses(kl=0.0), unconditional=0.9)
    plan = objective.prepare(field, x1, cond, Draws.training(0, 0, 64))
    begun = field.net.start(cond["embedding"], None, plan.x0)
    expected, _ = crossflow.contrast(begun.z, field.net.tower(x1), field.net.log_scale)
    found = objective.loss(field, plan)
    torch.testing.assert_close(found.logs["contrastive"], expected.mean().detach())


def test_a_guidance_of_one_costs_one_call_a_step_and_equals_none():
    field = small()
    z = crossflow.start(field, torch.randn(5, 4))
    plain = sample.draw_solution(field, 5, steps=4, solver="euler", source=z, indicator=0)
    one = sample.draw_solution(field, 5, steps=4, solver="euler", source=z, indicator=0, guidance=1.0)
    two = sample.draw_solution(field, 5, steps=4, solver="euler", source=z, indicator=0, guidance=2.0)
    assert (one.calls, one.rows, two.rows) == (4, 20, 40)
    assert torch.equal(plain.x, one.x)
    assert torch.equal(one.x, crossflow.flow(field, z, steps=4))


def test_guidance_goes_from_the_unconditional_through_the_conditional_velocity():
    field = small()
    z = crossflow.start(field, torch.randn(5, 4))
    t = torch.zeros(5)
    yes, no = (field(z, t, indicator=torch.full((5,), k)) for k in (0, 1))
    found = crossflow.flow(field, z, steps=[0.0, 1.0], guidance=7.0)
    torch.testing.assert_close(found, z + no + 7.0 * (yes - no), rtol=1e-4, atol=1e-4)


# Sampling


def test_the_sampler_carries_one_gaussian_to_the_other_exactly():
    a, p, b, q = -1.0, 0.5, 2.0, 1.5
    field = core.Field(CrossNet(Exact(a, p, b, q), Law(a, p)), gaussian=False)
    source = torch.zeros(100, 1)
    z = crossflow.start(field, source, seed=3)
    x = crossflow.flow(field, z, steps=100, solver="rk4")
    torch.testing.assert_close(x, b + q / p * (z - a), rtol=1e-5, atol=1e-5)  # fourth order: 100 steps leave 1e-6
    assert torch.equal(x, crossflow.generate(field, source, seed=3, steps=100, solver="rk4"))
    adaptive = crossflow.flow(field, z, steps=4, solver="dopri5")
    torch.testing.assert_close(adaptive, x, rtol=1e-3, atol=1e-3)  # the method's own tolerance


def test_ten_words_and_no_spread_give_at_most_ten_pictures():
    field = small(spread=0.0)
    source = torch.randn(10, 4, generator=torch.Generator().manual_seed(0)).repeat(20, 1)
    x = crossflow.generate(field, source, steps=3)
    assert len(torch.unique(x.round(decimals=4), dim=0)) == 10
    assert len(torch.unique(crossflow.generate(small(), source, steps=3), dim=0)) == 200


def test_a_fixed_spread_is_noise_around_the_mean():
    field = small(spread=0.25)
    source = torch.randn(2000, 4)
    z, mean = (crossflow.start(field, source, temperature=t) for t in (1.0, 0.0))
    assert abs(float((z - mean).std()) - 0.25) < 4 * 0.25 / math.sqrt(2 * 6000)


def test_a_row_depends_on_its_own_seed_alone():
    field = small()
    source = torch.randn(6, 4)
    seeds = torch.arange(6)
    whole = crossflow.generate(field, source, seed=seeds, steps=3)
    part = crossflow.generate(field, source[2:4], seed=seeds[2:4], steps=3)
    torch.testing.assert_close(whole[2:4], part)


def test_the_published_euler_evaluates_at_both_ends_and_steps_by_one_nth():
    class Clock(nn.Module):
        def __init__(self):
            super().__init__()
            self.seen, self.w = [], nn.Parameter(torch.zeros(1, dtype=torch.float64))

        def forward(self, x, t):
            self.seen.append(float(t[0]))
            return torch.ones_like(x) * t[:, None]

    clock = Clock()
    field = core.Field(CrossNet(clock, Law(0.0, 1.0)), gaussian=False)
    z = torch.zeros(1, 3, dtype=torch.float64)
    x = crossflow.flow(field, z, steps=5, solver=crossflow.AheadEuler(steps=5))
    assert clock.seen == pytest.approx([0, 0.25, 0.5, 0.75, 1.0])
    torch.testing.assert_close(x, torch.full_like(z, 0.5))  # the honest method ends at 0.4


# Training


def data(n=40):
    g = torch.Generator().manual_seed(0)
    label = torch.arange(n) % 4
    source = torch.eye(4)[label]
    x = (2 * source[:, :3] + 0.1 * torch.randn(n, 3, generator=g)).contiguous()
    columns = {"embedding": source, "label": label}
    return Data(x, columns, About("words", tuple("abcd")), conditions=("embedding",))


def test_a_run_with_encoder_average_and_config_comes_back_from_disk(tmp_path):
    objective = CrossFlow(losses=SourceLosses(contrastive=0.1))
    options = Options(batch=16, sample_every=0, save_every=3, log_every=2, ema=0.9)
    run = train.fit(small(), objective, data(), steps=6, out=tmp_path, options=options, progress=False)
    back = train.load(tmp_path)
    source = torch.eye(4)
    assert torch.equal(crossflow.generate(run.field, source), crossflow.generate(back.field, source))
    assert core.config.load(run.config["objective"], name="objective") == objective
    assert back.field.gaussian is False
    raw, average = (train.load(tmp_path, weights=w).field.net.encoder.state_dict() for w in ("raw", "ema"))
    assert all(not torch.equal(raw[n], average[n]) for n in raw)  # the average is of the encoder too
    further = train.fit(small(), objective, data(), steps=6, out=tmp_path / "b", options=options, progress=False)
    assert further.metrics() == run.metrics()


def test_training_moves_words_to_their_targets():
    run = train.fit(
        small(hidden=32), CrossFlow(losses=SourceLosses(contrastive=0.1, kl=0.01), flow=FLOW), data(), steps=400,
        options=Options(batch=64, lr=1e-2, sample_every=0, log_every=100), progress=False,
    )  # fmt: skip
    source = torch.eye(4).repeat_interleave(50, 0)
    x = crossflow.generate(run.field, source, steps=20)
    wanted = 2 * source[:, :3]
    # zero for all would give 1: three of the four words lie two away in one of three numbers
    assert float((x - wanted).square().mean()) < 0.3


def test_pictures_on_the_way_begin_at_encoded_sources(tmp_path):
    x = torch.randint(0, 256, (16, 1, 8, 8), dtype=torch.uint8)
    pictures = Data(x, {"embedding": torch.randn(16, 4)}, conditions=("embedding",))
    torch.manual_seed(0)
    field = crossflow.cross_field(nets.MLP(64, classes=1), nets.VectorEncoder(4, (1, 8, 8)), nets.VectorTower(64))
    train.fit(
        field, CrossFlow(), pictures, steps=2, out=tmp_path, progress=False,
        options=Options(batch=8, sample_every=2, sample_count=4, log_every=1),
    )  # fmt: skip
    assert [p.name for p in (tmp_path / "samples").glob("*.png")] == ["step_000002.png"]


def test_targets_flow_in_an_autoencoders_latents_and_come_back_decoded():
    class Halves:
        def encode(self, x):
            return x / 2

        def decode(self, z):
            return 2 * z

    net = CrossNet(nets.MLP(3), Law(), autoencoder=Halves(), latent_scale=3.0)
    field = core.Field(net, gaussian=False)
    plan = plan_of(field, CrossFlow(losses=ALONE, unconditional=0.0))
    torch.testing.assert_close(plan.x1, 1.5 * rows()[0])
    torch.testing.assert_close(net.decode(plan.x1), rows()[0])


def test_several_resolutions_share_the_loss_by_their_weights():
    torch.manual_seed(0)
    inner = nets.MultiRes(1, 8, stages=2, dim=16, width=8, depth=1, blocks=1, heads=2)
    field = crossflow.cross_field(inner, Law(shape=(1, 8, 8)), sigma_min=0.0)
    x1 = torch.randn(6, 1, 8, 8)
    objective = CrossFlow(flow=FLOW, losses=ALONE, unconditional=0.0)
    plan = objective.prepare(field, x1, {"embedding": torch.zeros(6, 1)}, Draws.training(0, 0, 6))
    found = objective.loss(field, plan)  # the heads start at zero, so the losses are the targets' squares
    u = plan.x1 - plan.x0
    coarse, fine = functional.avg_pool2d(u, 2).square().mean(), u.square().mean()
    torch.testing.assert_close(found.value, 0.5 * coarse + fine)
    torch.testing.assert_close(found.logs["loss_scale_0"], coarse)


# Bad input


def test_scores_and_their_solvers_are_refused():
    field = small()
    with pytest.raises(SourceNotGaussianError, match="gaussian=False"):
        crossflow.generate(field, torch.randn(2, 4), solver="sde")
    assert CrossFlow.gaussian is False


def test_drawing_without_a_source_is_refused():
    with pytest.raises(OptionError, match=r"begin at encoded sources, which rheos.train.crossflow.generate"):
        sample.draw(small(), 2, shape=(3,), indicator=0)


def test_a_source_of_another_size_than_the_target_is_refused():
    field = crossflow.cross_field(nets.MLP(3, classes=1), nets.VectorEncoder(4, (5,)), nets.VectorTower(3))
    with pytest.raises(ShapeError, match=r"latents have shape \(5,\), the target \(3,\)"):
        CrossFlow().loss(field, plan_of(field, CrossFlow()))


def test_contrast_of_one_row_is_refused():
    field = small()
    plan = plan_of(field, CrossFlow(), n=4)
    with pytest.raises(OptionError, match="at least two rows"):
        CrossFlow().loss(field, plan.slice(0, 1))


def test_identical_prompts_are_refused_before_training():
    same = replace(data(), columns={"embedding": torch.ones(40, 4), "label": torch.zeros(40).long()})
    with pytest.raises(OptionError, match="All sources are the same"):  # and no number of rows that were drawn again
        train.fit(small(), CrossFlow(), same, steps=1, progress=False)


def test_faint_features_are_warned_of():
    x1, cond = rows()
    faint = {"embedding": 0.1 * cond["embedding"]}
    with pytest.warns(RuntimeWarning, match="T5's are multiplied by 10"):
        CrossFlow().calibrate(x1, faint, Draws.training(0, 0, 64))
    tokens = torch.zeros(4, 3, 2)
    tokens[:, 0] = torch.randn(4, 2)
    mask = torch.tensor([[True, False, False]]).expand(4, -1)  # padding does not count
    CrossFlow(mask="m").calibrate(x1, {"embedding": tokens, "m": mask}, Draws.training(0, 0, 4))


def test_a_mask_called_like_its_source_is_taken_by_itself_and_a_named_one_must_be_there():
    x1, cond = rows(4)
    draws, mask = Draws.training(0, 0, 4), torch.ones(4, 1, dtype=torch.bool)
    assert CrossFlow().asks == ("embedding",)
    assert CrossFlow().calibrate(x1, cond, draws).asks == ("embedding",)
    found = CrossFlow().calibrate(x1, {**cond, "embedding_mask": mask}, draws)
    assert found.asks == ("embedding", "embedding_mask")
    assert CrossFlow("a").consumes == ("a", "a_mask")
    assert CrossFlow(mask=None).consumes == ("embedding",)
    field = small()
    for objective in (found, CrossFlow(mask="m")):
        with pytest.raises(ConditionError, match="which the batch lacks"):
            objective.starts(field, x1, cond, draws)


def test_guidance_without_a_trained_indicator_is_refused():
    with pytest.raises(OptionError, match="Guidance needs an indicator"):
        crossflow.generate(small(classes=0), torch.randn(2, 4), guidance=2.0)
    for field, objective in ((small(), CrossFlow(unconditional=0.0)), (small(classes=0), CrossFlow())):
        with pytest.raises(OptionError, match="Guidance needs both"):
            train.fit(field, objective, data(), steps=1, progress=False)


def test_log_variances_beyond_the_bounds_are_cut_and_reported():
    net = CrossNet(nets.MLP(3), Law(std=1e30))
    begun = net.start(torch.zeros(2, 1), None, torch.ones(2, 3))
    torch.testing.assert_close(begun.z, torch.full((2, 3), math.exp(10.0)))
    assert begun.clamped.tolist() == [1.0, 1.0]
    low = CrossNet(nets.MLP(3), Law(std=0.0)).start(torch.zeros(2, 1), None, torch.ones(2, 3))
    torch.testing.assert_close(low.z, torch.full((2, 3), math.exp(-15.0)))


def test_parts_that_do_not_go_together_are_refused():
    x1, cond = rows(8)
    draws = Draws.training(0, 0, 8)
    with pytest.raises(OptionError, match="no tower"):
        CrossFlow().prepare(small(tower=False), x1, cond, draws)
    with pytest.raises(OptionError, match="without a tower"):
        CrossFlow(losses=ALONE).prepare(small(), x1, cond, draws)
    with pytest.raises(OptionError, match="no decoder"):
        CrossFlow(losses=SourceLosses(reconstruction=1.0)).prepare(small(), x1, cond, draws)
    with pytest.raises(ConditionError, match="'embedding', which the batch lacks"):
        CrossFlow().prepare(small(), x1, {}, draws)
    with pytest.raises(ShapeError, match="ends in a tensor"):
        CrossFlow().prepare(small(), {"a": x1}, cond, draws)
    with pytest.raises(OptionError, match="needs a field of a CrossNet"):
        CrossFlow().prepare(core.Field(nets.MLP(3)), x1, cond, draws)


def test_shared_out_weights_are_refused():
    field, (x1, cond) = small(), rows(8)
    field.net.set_reshard_after_forward = lambda: None  # what FSDP gives a module
    with pytest.raises(OptionError, match="parallel='ddp'"):
        CrossFlow().prepare(field, x1, cond, Draws.training(0, 0, 8))


def test_options_out_of_range_are_refused():
    with pytest.raises(OptionError, match="unconditional must lie"):
        CrossFlow(unconditional=1.0)
    with pytest.raises(OptionError, match="dropout=0"):
        CrossFlow(flow=core.FlowMatching())
    with pytest.raises(OptionError, match="weight kl"):
        SourceLosses(kl=-1.0)
    with pytest.raises(OptionError, match="form 'cube'"):
        SourceLosses(form="cube")
    with pytest.raises(OptionError, match="spread is None"):
        CrossNet(nets.MLP(3), Law(), spread=-1.0)
    with pytest.raises(OptionError, match="latent_scale"):
        CrossNet(nets.MLP(3), Law(), latent_scale=0.0)
    with pytest.raises(OptionError, match="classes=1"):
        CrossNet(nets.MLP(3, classes=4), Law())
    with pytest.raises(OptionError, match="several"):
        CrossNet(nets.MLP(3), Law()).scales(torch.zeros(1, 3), torch.zeros(1))
    with pytest.raises(OptionError, match="at least 2"):
        crossflow.AheadEuler(steps=1)
