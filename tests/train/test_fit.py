"""What a step does, what a run leaves behind, and what is refused before the first step."""

import math
import sys
from dataclasses import dataclass, replace
from dataclasses import field as option

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from rheos import core, nets
from rheos.core.draws import Draws
from rheos.core.errors import ConditionError, DataError, NonFiniteError, OptionError, ShapeError
from rheos.data import About, Data, load
from rheos.train import Options, fit
from rheos.train.dist import Team
from rheos.train.engine import Engine

CPU = torch.device("cpu")


def _weights(module: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


# What a step does.


def test_one_step_is_adam_on_the_mean_loss_of_the_planned_batch(points, field):
    ours, by_hand = field(), field()
    options = Options(batch=16, lr=1e-2, warmup=0, decay="constant", clip=0.0, weight_decay=0.1)
    fit(ours, core.FlowMatching(), points, steps=1, options=options)
    optimiser = torch.optim.AdamW(
        [{"params": [p for p in by_hand.parameters() if p.ndim > 1], "weight_decay": 0.1},
         {"params": [p for p in by_hand.parameters() if p.ndim < 2], "weight_decay": 0.0}],
        lr=1e-2, betas=options.betas,
    )  # fmt: skip
    x1 = points.x[points.indices(0, 0, 16)]
    plan = core.FlowMatching().prepare(by_hand, x1, {}, Draws.training(0, 0, 16))
    xt = plan.t[:, None].float() * x1 + (1 - plan.t[:, None].float()) * plan.x0
    (by_hand.net(xt, plan.t.float()) - (x1 - plan.x0)).square().mean().backward()
    optimiser.step()
    torch.testing.assert_close(_weights(ours), _weights(by_hand), rtol=0, atol=1e-6)  # float32, other kernels


def test_the_same_seed_gives_the_same_run_and_another_seed_another(train, equal):
    one, two, other = train(seed=3), train(seed=3), train(seed=4)
    assert equal(one, two)
    assert not equal(one, other)


@pytest.mark.parametrize("coupling", ["independent", core.Gibbs(2.0), "exact-ot"])
@pytest.mark.parametrize("accumulate", [2, 3])
def test_accumulating_changes_nothing_but_the_order_of_sums(train, coupling, accumulate):
    whole = train(objective=core.FlowMatching(coupling))
    parts = train(objective=core.FlowMatching(coupling), accumulate=accumulate)
    # six float32 steps of rate 2e-3: rounding of sums, magnified by Adam's division
    torch.testing.assert_close(_weights(whole.raw), _weights(parts.raw), rtol=0, atol=2e-5)
    losses = [[line["loss"] for line in run.metrics()] for run in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_average_is_the_recursion_over_the_weights_of_every_step(tmp_path, train, field):
    run = train(tmp_path, ema=0.6, save_every=1, keep=10)
    average = _weights(field().double())
    for k in range(run.step):
        stored = load_file(tmp_path / "state" / f"step-{k + 1:07d}" / "model.safetensors")
        now = torch.cat([stored[n].double().flatten() for n, _ in run.field.net.named_parameters()])
        keep = min(0.6, (1 + k) / (10 + k))
        average = keep * average + (1 - keep) * now
    torch.testing.assert_close(_weights(run.field).double(), average, rtol=0, atol=1e-6)


def test_the_given_field_has_the_raw_weights_and_the_run_the_average(train, field):
    given = field()
    run = train(of=given)
    assert torch.equal(_weights(given), _weights(run.raw))
    assert not torch.equal(_weights(given), _weights(run.field))


def test_without_an_average_the_runs_field_has_the_raw_weights(tmp_path, train, field):
    given = field()
    run = train(tmp_path, of=given, ema=0.0)
    assert torch.equal(_weights(given), _weights(run.field))
    assert not (tmp_path / "ema.safetensors").exists()


def test_gradients_are_clipped_by_their_norm_over_all_weights(points, field):
    engine = Engine(field(), core.FlowMatching(), Options(batch=16, clip=0.01), Team(CPU), 10)
    norms = []
    engine.optimiser.register_step_pre_hook(
        lambda *_: norms.append(torch.stack([p.grad.norm() for p in engine.net.parameters()]).norm())
    )
    engine.step(0, points.batch(torch.arange(16)))
    assert norms[0] == pytest.approx(0.01, rel=1e-3)  # torch divides by norm + 1e-6
    assert engine.window.means()["grad_norm"] > 0.01


def test_a_step_reads_no_number_back_from_the_device(labelled, monkeypatch):
    reads = []
    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__"):
        real = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda *a, real=real, name=name, **k: reads.append(name) or real(*a, **k)
        )
    field = core.Field(nets.MLP(2, classes=3))
    engine = Engine(field, core.FlowMatching(), Options(batch=8), Team(CPU), 10)
    batch = labelled.batch(torch.arange(8))
    engine.step(0, batch)
    reads.clear()
    for step in range(1, 4):
        engine.step(step, batch)
    assert reads == []
    engine.window.means()
    assert reads == ["tolist"]  # one reading a line of the log


@pytest.mark.parametrize("predicts", ["velocity", "data"])
def test_the_loss_falls_and_the_field_is_the_exact_one_of_the_mixture(predicts):
    angle = torch.arange(3) * (2 * math.pi / 3)
    truth = core.GaussianMixtureField(2 * torch.stack((angle.cos(), angle.sin()), 1), [0.5, 0.5, 0.5])
    torch.manual_seed(0)
    x = truth.means[torch.randint(3, (20_000,))] + 0.5 * torch.randn(20_000, 2, dtype=torch.float64)
    net = nets.MLP(2, hidden=64, depth=3, activation="silu")
    objective, options = core.FlowMatching(times="stratified"), Options(batch=256, lr=1e-2)
    run = fit(core.Field(net, predicts=predicts), objective, Data(x.float()), steps=700, options=options)
    lines = run.metrics()
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
    t = torch.linspace(0.05, 0.9, 18, dtype=torch.float64).repeat(200)
    xt = t[:, None] * x[: len(t)] + (1 - t[:, None]) * torch.randn(len(t), 2, dtype=torch.float64)
    exact, learned = (f(xt, t) if predicts == "velocity" else f.data(xt, t) for f in (truth, run.field.double()))
    error = (learned - exact).square().mean() / exact.square().mean()
    assert error < 0.03  # three seconds of training: it measured 0.013 and 0.005 of the exact field's square


# What a run leaves behind.


def test_the_field_learns_the_shape_the_range_and_the_source_of_its_data(field):
    digits = load("digits")
    flow = core.Field(nets.UNet(1, width=8, multipliers=(1, 2), attention=(), classes=10))
    run = fit(flow, core.FlowMatching(core.PerCondition("exact-ot")), digits, steps=1, options=Options(batch=4))
    for f in (flow, run.field):
        assert (f.shape, f.value_range, f.gaussian) == ((1, 8, 8), (-1.0, 1.0), False)


def test_fit_leaves_torchs_generator_and_the_mode_of_the_field_alone(train, field):
    given = field().eval()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    run = train(of=given)
    assert torch.equal(before, torch.get_rng_state())
    assert not given.training
    assert not run.field.training
    assert not any(p.requires_grad for p in run.field.parameters())
    assert all(p.requires_grad for p in given.parameters())


def test_a_line_of_figures_is_the_mean_since_the_line_before(train):
    each = [line["loss"] for line in train(log_every=1).metrics()]
    lines = train(log_every=4).metrics()
    assert [line["step"] for line in lines] == [4, 6]
    assert [line["loss"] for line in lines] == pytest.approx([sum(each[:4]) / 4, sum(each[4:]) / 2], rel=1e-12)


def test_figures_of_the_coupling_are_logged(train):
    line = train(objective=core.FlowMatching(core.Gibbs())).metrics()[-1]
    assert 0.2 < line["ess"] < 0.8  # calibrated to a half
    assert line.keys() == {"step", "loss", "lr", "ess", "grad_norm"}


def test_the_bar_shows_speed_and_loss_when_asked_and_nothing_otherwise(points, field, capsys):
    options = Options(batch=8, log_every=1)
    fit(field(), core.FlowMatching(), points, steps=3, options=options)
    assert capsys.readouterr() == ("", "")
    fit(field(), core.FlowMatching(), points, steps=3, options=options, progress=True)
    seen = capsys.readouterr()
    assert seen.out == ""
    assert "3/3" in seen.err
    assert "steps/s, loss" in seen.err


def test_training_needs_neither_plots_nor_trackers_unless_asked(tmp_path):
    import subprocess

    code = (
        "import sys\nfrom rheos import core, data, nets, train\n"
        "d = data.load('moons', limit=50)\n"
        "train.fit(core.Field(nets.MLP(2)), core.FlowMatching(), d, steps=2, out='run',"
        " options=train.Options(batch=8, sample_every=0))\n"
        "print([m for m in ('matplotlib', 'PIL', 'rich', 'tensorboard', 'wandb', 'trackio', 'sklearn', 'pydantic')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# What goes wrong on the way.


@dataclass(frozen=True)
class Bad(core.FlowMatching):
    """A loss that is NaN from one step on, or whose gradient is."""

    at: int = 4
    gradient: bool = False
    count: list[int] = option(default_factory=list)

    def loss(self, field: core.Field, plan: core.Plan) -> core.Loss:
        loss = super().loss(field, plan)
        if not torch.is_grad_enabled():
            return loss
        self.count.append(1)
        if len(self.count) < self.at:
            return loss
        spoilt = loss.rows * 0 / 0 if not self.gradient else loss.rows + (loss.rows * 0).sqrt() * 0
        return loss._replace(rows=spoilt)


def test_a_nan_loss_stops_the_run_names_steps_and_rate_and_keeps_the_good_checkpoint(tmp_path, train):
    match = r"loss became NaN or infinite between steps 4 and 6. Lower lr=0.002.*last good checkpoint is in"
    with pytest.raises(NonFiniteError, match=match):
        train(tmp_path, steps=9, objective=Bad(at=5), log_every=3, save_every=3)
    assert sorted(f.name for f in tmp_path.glob("state/step-*")) == ["step-0000000", "step-0000003"]
    assert all(v.isfinite().all() for v in load_file(tmp_path / "model.safetensors").values())


def test_weights_that_are_nan_are_never_saved_even_if_the_loss_is_fine(tmp_path, train):
    with pytest.raises(NonFiniteError, match="weights became NaN or infinite before step 4 was over"):
        train(tmp_path, objective=Bad(at=4, gradient=True), save_every=2, log_every=6)
    assert all(v.isfinite().all() for v in load_file(tmp_path / "model.safetensors").values())
    assert max(f.name for f in tmp_path.glob("state/step-*")) == "step-0000002"


# What is refused before anything is done.


class Wrong(nn.Module):
    """A network of a user that multiplies shapes that do not fit."""

    def __init__(self, out: int = 2) -> None:
        super().__init__()
        self.layer = nn.Linear(3, out)

    def forward(self, x, t):
        return self.layer(x)


CLASSES = Data(torch.zeros(4, 2), {"label": torch.arange(4) % 2}, About("two", ("a", "b")))
PAIRS = core.FlowMatching("given-pairs", source=core.FromCondition("x0"))
PICTURES = Data(torch.zeros(4, 1, 8, 8, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"steps": 0}, OptionError, r"steps must be a whole number of at least 1, got 0"),
        ({"steps": 2.0}, OptionError, r"steps must be a whole number of at least 1, got 2.0"),
        ({"data": CLASSES}, ConditionError, r"data carry label, which the network does not take \(it takes: none\)"),
        ({"net": nets.MLP(2, classes=3)}, ConditionError, r"network takes label, which the data do not carry"),
        ({"data": CLASSES, "net": nets.MLP(2, classes=3)}, ConditionError, r"built for 3 classes, the data have 2"),
        ({"net": nets.MLP(3)}, ShapeError, r"made for samples of 3 numbers, got \(2,\)"),
        ({"net": nets.UNet(3), "data": PICTURES}, ShapeError, r"shape \(B, 3, height, width\), got \(2, 1, 8, 8\)"),
        ({"net": Wrong()}, ShapeError, r"network fails on two rows of the data, which have shape \(2,\)"),
        ({"net": nn.Identity()}, OptionError, r"no weights to train"),
        ({"objective": PAIRS}, ConditionError, r"'x0', which the batch lacks"),
        ({"options": Options(precision="fp16")}, OptionError, r"'fp16' needs a GPU, the field is on 'cpu'"),
        ({"range": (0.0, 1.0), "data": PICTURES,
          "net": nets.UNet(1)}, DataError, r"lives in the range \(0.0, 1.0\), the data deliver \(-1.0, 1.0\)"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("untyped")
def test_what_does_not_fit_is_refused_before_a_directory_is_made(tmp_path, points, changes, error, message):
    net = changes.get("net") or nets.MLP(2)
    flow = core.Field(net, value_range=changes.get("range"))
    out = tmp_path / "run"
    with pytest.raises(error, match=message):
        fit(
            flow,
            changes.get("objective") or core.FlowMatching(),
            changes.get("data") or points,
            steps=changes.get("steps", 2),
            out=out,
            options=changes.get("options") or Options(batch=4),
        )
    assert not out.exists()


def test_compiling_on_a_machine_without_a_compiler_is_refused(points, field, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(OptionError, match=r"compile=True needs a C\+\+ compiler"):
        fit(field(), core.FlowMatching(), points, steps=1, options=Options(compile=True))


def test_trackers_need_a_directory(points, field):
    with pytest.raises(OptionError, match="trackers tensorboard need a run directory"):
        fit(field(), core.FlowMatching(), points, steps=1, options=Options(trackers=("tensorboard",)))


def test_empty_data_are_refused_by_the_data():
    with pytest.raises(DataError, match="N ≥ 1"):
        Data(torch.zeros(0, 2))


def test_an_objective_whose_loss_is_one_number_is_refused(points, field):
    class Mean(core.FlowMatching):
        def loss(self, *args):
            loss = super().loss(*args)
            return replace_rows(loss)

    def replace_rows(loss):
        return loss._replace(rows=loss.rows.mean())

    with pytest.raises(ShapeError, match=r"losses of shape \(\) for 2 rows; it needs one a row"):
        fit(field(), Mean(), points, steps=1, options=Options(batch=4))


def test_unlabelled_training_on_labelled_data_is_asked_for_by_its_conditions(field):
    run = fit(field(), core.FlowMatching(), replace(CLASSES, conditions=()), steps=1, options=Options(batch=2))
    assert run.field.conditions == frozenset()
