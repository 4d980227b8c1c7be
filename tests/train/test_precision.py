"""Half precision and compilation change the arithmetic of the network, and nothing else."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from rheos import core, nets
from rheos.core.draws import Draws
from rheos.train import Options, fit, load
from rheos.train.dist import Team
from rheos.train.engine import Engine

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile builds C++ on a CPU")


class Watching(nn.Module):
    """Remembers the times and types that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.times: list[torch.Tensor] = []
        self.kinds: list[torch.dtype] = []

    def forward(self, x, t):
        out = self.layer(x)
        if self.training:
            self.times.append(t.detach().clone())
            self.kinds += [x.dtype, out.dtype]
        return out


@pytest.mark.parametrize("half", ["autocast", "weights"])
def test_a_bf16_network_sees_the_times_that_were_drawn_to_1e_6(points, half):
    net = Watching() if half == "autocast" else Watching().bfloat16()
    field = core.Field(net, shift=3.0)
    options = Options(batch=16, precision="bf16" if half == "autocast" else "fp32")
    fit(field, core.FlowMatching(times="logit-normal"), points, steps=3, options=options)
    assert torch.bfloat16 in net.kinds
    for step, seen in enumerate(net.times):
        drawn = core.ShiftedTime(core.LogitNormal(), 3.0).sample(16, Draws.training(0, step, 16).fold("times"))
        assert seen.dtype == torch.float32
        torch.testing.assert_close(seen.double(), drawn, rtol=0, atol=1e-6)
    assert len(net.times) == 3


def test_bf16_keeps_weights_averages_and_losses_in_float32_and_learns_the_same(tmp_path, train):
    half, single = train(tmp_path, steps=40, precision="bf16", lr=1e-2), train(steps=40, lr=1e-2)
    assert {p.dtype for f in (half.raw, half.field, load(tmp_path).field) for p in f.parameters()} == {torch.float32}
    losses = [[line["loss"] for line in run.metrics()] for run in (half, single)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)  # bf16 has three digits


def test_bf16_runs_resume_to_the_last_bit(tmp_path, train, equal):
    whole = train(tmp_path / "whole", precision="bf16", decay="constant")
    train(tmp_path / "cut", steps=4, precision="bf16", decay="constant")
    assert equal(whole, train(tmp_path / "cut", precision="bf16", decay="constant", resume=True))


def test_fp16_scales_the_loss_skips_steps_that_overflow_and_remembers_the_scale(points, field):
    flow, options = field(), Options(batch=16, precision="fp16", lr=1e-3, warmup=0)
    engine = Engine(flow, core.FlowMatching(), options, Team(torch.device("cpu")), 10)  # fit asks for a GPU
    engine._scaler.load_state_dict({**engine._scaler.state_dict(), "scale": 2.0**24})
    before = [p.detach().clone() for p in flow.parameters()]
    engine.step(0, points.batch(torch.arange(16)))  # times 2^24 the gradients are infinite in half precision
    assert all(torch.equal(a, b) for a, b in zip(before, flow.parameters(), strict=True))
    assert engine._scaler.get_scale() == 2.0**23
    for step in range(1, 12):
        engine.step(step, points.batch(torch.arange(16)))
    assert not torch.equal(before[0], next(flow.parameters()))
    assert engine.finite()
    again = Engine(field(), core.FlowMatching(), options, Team(torch.device("cpu")), 10)
    again.resume(engine.checkpoint(12, 0.0), Path("nowhere"))
    assert again._scaler.get_scale() == engine._scaler.get_scale() < 2.0**23
    for e in (engine, again):
        e.step(12, points.batch(torch.arange(16)))
    assert all(torch.equal(a, b) for a, b in zip(engine.net.parameters(), again.net.parameters(), strict=True))


@needs_compiler
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.usefixtures("untyped")
def test_a_compiled_run_learns_the_same_under_the_same_names(tmp_path, train, field):
    given = field()
    compiled, eager = train(tmp_path, of=given, compile=True, sample_every=6), train()
    assert compiled.raw.state_dict().keys() == eager.raw.state_dict().keys()
    for name, value in eager.raw.state_dict().items():
        # fused kernels sum in another order; six float32 steps of rate 2e-3
        torch.testing.assert_close(compiled.raw.state_dict()[name], value, rtol=0, atol=2e-5)
    assert given.net._compiled_call_impl is None  # what is left is a plain network
    assert load(tmp_path).step == 6


def test_the_optimiser_takes_a_network_of_doubles(train, field):
    run = train(of=field().double())
    assert {p.dtype for p in run.field.parameters()} == {torch.float64}


def test_networks_that_keep_channels_last_come_back_channels_last(tmp_path):
    from rheos.data import load as load_data

    torch.manual_seed(0)
    flow = core.Field(nets.UNet(1, width=8, multipliers=(1, 2), attention=(), classes=10))
    options = Options(batch=4, sample_every=0, save_every=1)
    whole = fit(flow, core.FlowMatching(), load_data("digits"), steps=3, options=options, out=tmp_path)
    first, again = flow.net.enter.weight, load(tmp_path).field.net.enter.weight
    assert first.stride() == again.stride() == whole.field.net.enter.weight.stride()
