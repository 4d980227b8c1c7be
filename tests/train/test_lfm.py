"""Flows of latents: path, cache, guidance, runs and the command line."""

import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from rheos import core
from rheos.cli import main
from rheos.core import Draws, GaussianMixtureField
from rheos.core.errors import ConditionError, OptionError, RunError
from rheos.data import About, Data, Functions, LatentCodec, encoded, load
from rheos.nets import MLP, Autoencoder, UNet
from rheos.sample import DormandPrince, draw, draw_solution
from rheos.train import LatentFlow, Options, autoencoder, codec_of, fit
from rheos.train import load as load_run
from rheos.train.lfm import latent_field

SHORT = Options(batch=16, lr=1e-3, save_every=2, log_every=2, sample_every=0, warmup=2, ema=0.9)


@pytest.fixture
def digits() -> Data:
    return load("digits", limit=64)


def same(name: str = "same") -> LatentCodec:
    return LatentCodec(Functions(lambda x: x, lambda z: z, name=name), 1.0)


def woken(net: nn.Module, seed: int = 0) -> nn.Module:
    """Zero-initialised layers were given weights, so that outputs say something."""
    g = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        p.data = 0.3 * torch.randn(p.shape, generator=g, dtype=p.dtype)
    return net


def test_the_variance_on_the_path_and_its_velocity_are_the_closed_forms_of_gaussian_latents():
    c, sigma = 2.0, 1e-5
    field = latent_field(MLP(1))
    t = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64)
    n = 40_000
    z = c * torch.randn(n, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x0 = torch.randn(n, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for clock in t:
        sample = field.path.sample(x0, z, clock.expand(n))
        variance = float(clock) ** 2 * c**2 + (1 - (1 - sigma) * float(clock)) ** 2
        assert abs(float(sample.xt.var()) / variance - 1) < 4 * (2 / n) ** 0.5  # four standard errors
        torch.testing.assert_close(sample.u, z - (1 - sigma) * x0, rtol=0, atol=1e-12)


def test_flow_matching_on_gaussian_latents_learns_the_analytic_velocity():
    class Line(nn.Module):
        """v(x, t) = a(t) x with a the best polynomial: the exact one is a(t) = (t c² - (1 - t)) / Var x_t."""

        conditions = frozenset()

        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(9, dtype=torch.float64))

        def forward(self, x, t):
            powers = torch.stack([torch.cos(k * torch.acos(2 * t - 1)) for k in range(9)], 1)
            return (powers @ self.w).reshape(-1, 1, 1, 1) * x

    codec = LatentCodec(Functions(lambda x: x / 4, lambda z: 4 * z, name="quarter"), scale=4.0)
    x = 1.5 * torch.randn(4096, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    pictures = Data(x, about=About(range=(-1.0, 1.0), delivers=(-1.0, 1.0)))  # delivered as they are
    field = latent_field(Line())
    options = replace(SHORT, batch=1024, lr=0.05, ema=0.99, save_every=0, clip=0.0)
    run = fit(field, core.FlowMatching(), encoded(pictures, codec), steps=250, options=options, progress=False)
    t = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    found = run.field(torch.ones(9, 1, 1, 1, dtype=torch.float64), t).flatten()
    variance = float(pictures.x.var())
    exact = (t * variance - (1 - t)) / (t**2 * variance + (1 - t) ** 2)
    assert float((found - exact).abs().max()) < 0.1  # 250 batches of 1024 rows


def test_a_flow_of_orthogonal_latents_is_the_flow_of_pixels_turned(digits):
    q = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    turn = Functions(
        lambda x: (x.flatten(1).double() @ q.T).reshape(x.shape).to(x),
        lambda z: (z.flatten(1).double() @ q).reshape(z.shape).to(z),
        name="turn",
    )

    class Turned(nn.Module):
        """The pixel network, seen from the latents."""

        conditions = frozenset()

        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, z, t):
            return turn.encode(self.net(turn.decode(z), t))

    class TurnedNoise(core.Source):
        """The pixels' noise, turned."""

        gaussian = True

        def __call__(self, like, cond, draws):
            return turn.encode(core.Gaussian()(like, cond, draws))

    data = replace(digits, conditions=())
    torch.manual_seed(0)
    net = MLP(64, hidden=16, depth=1)
    pixel = fit(latent_field(net), core.FlowMatching(), data, steps=6, options=SHORT, progress=False)
    torch.manual_seed(0)
    other = Turned(MLP(64, hidden=16, depth=1))
    latents = encoded(data, LatentCodec(turn, 1.0))
    latent = fit(
        latent_field(other), core.FlowMatching(source=TurnedNoise()), latents, steps=6, options=SHORT, progress=False
    )
    for a, b in zip(pixel.metrics(), latent.metrics(), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)  # float32 through two rotations
    x0 = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    x = draw(pixel.field, 4, steps=5, source=x0)
    z = draw(latent.field, 4, steps=5, source=turn.encode(x0))
    torch.testing.assert_close(latent.decode(z), x, rtol=0, atol=1e-4)


def test_every_step_sees_a_fresh_sample_and_the_same_step_the_same(digits):
    torch.manual_seed(0)
    net = Autoencoder(1, factor=2, width=8).eval().requires_grad_(False)
    latents = encoded(digits, LatentCodec(net).fit_scale(digits))
    rows = torch.arange(4)
    one, again, two = (latents.batch(rows, Draws.training(0, k, 4).fold("data")).x for k in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, two)


def test_guidance_of_one_is_none_and_of_zero_is_the_unconditional_flow_on_every_channel():
    field = latent_field(woken(UNet(4, width=8, multipliers=(1, 2), classes=3).double()))
    field.shape = (4, 4, 4)
    label = torch.tensor([0, 1, 2])
    flow = LatentFlow(field, same())
    plain = draw(field, 3, steps=3, label=label)
    assert torch.equal(flow.draw(3, steps=3, solver="heun", label=label), plain)
    none = draw(field, 3, steps=3)
    torch.testing.assert_close(flow.draw(3, steps=3, solver="heun", guidance=0.0, label=label), none, rtol=0, atol=1e-9)
    x, t = torch.randn(2, 4, 4, 4, dtype=torch.float64), 0.5
    guided = draw(field, 2, steps=[t, 1.0], solver="euler", source=x, guidance=3.0, label=label[:2])
    v, u = field(x, t, label=label[:2]), field(x, t)
    torch.testing.assert_close(guided, x + 0.5 * (3 * v - 2 * u), rtol=0, atol=1e-9)  # all four channels


def test_dopri5_counts_refused_steps_too(monkeypatch):
    field = GaussianMixtureField(means=[[4.0, 0.0], [-4.0, 0.0]], stds=[0.02, 0.02])
    asked, answer = [], field.answer

    def counting(query):
        asked.append(float(query.t))
        return answer(query)

    monkeypatch.setattr(field, "answer", counting)
    solution = LatentFlow(field, same()).solution(1, seed=1)
    assert solution.calls == len(asked)
    assert any(b < a for a, b in pairwise(asked))  # only after a refusal is an earlier time asked for
    assert sum(b < a for a, b in pairwise(asked)) * 6 < len(asked)


@pytest.fixture
def runs(tmp_path, digits) -> tuple[Path, Path]:
    """An autoencoder's run, and a run on its latents."""
    ae, latent = tmp_path / "ae", tmp_path / "latent"
    autoencoder(digits, net=Autoencoder(1, factor=2, width=8), steps=4, out=ae, options=SHORT, progress=False)
    data = load("digits", limit=64, codec=ae)
    torch.manual_seed(0)
    field = latent_field(UNet(4, width=8, multipliers=(1, 2), classes=10))
    fit(field, core.FlowMatching(), data, steps=4, out=latent, options=replace(SHORT, sample_every=2, sample_count=10),
        progress=False)  # fmt: skip
    return ae, latent


def test_a_run_on_latents_carries_its_codec_and_decodes_wherever_it_is_moved(runs, tmp_path):
    ae, latent = runs
    run = load_run(latent)
    assert run.value_range == (-1.0, 1.0)
    z = draw(run.field, 3, steps=2, label=1)
    x = run.decode(z)
    assert x.shape == (3, 1, 8, 8)
    assert (latent / "samples" / "step_000004.png").is_file()
    assert run.data().fingerprint == run.config["data"]["fingerprint"]
    shutil.rmtree(ae)
    moved = tmp_path / "moved"
    latent.rename(moved)
    again = load_run(moved)
    assert torch.equal(again.decode(z), x)
    assert again.data().fingerprint == run.config["data"]["fingerprint"]  # by its own copy of the codec
    published = load_run(again.save(tmp_path / "published"))
    assert torch.equal(published.decode(z), x)
    flow = LatentFlow.of(published)
    assert torch.equal(flow.draw(3, steps=2, solver="heun", label=1), x)


def test_a_run_on_latents_resumes_to_the_last_bit(runs, tmp_path):
    ae, _ = runs
    options = replace(SHORT, decay="constant")

    def train(out, steps, resume=False):
        torch.manual_seed(0)
        field = latent_field(UNet(4, width=8, multipliers=(1, 2), classes=10))
        data = load("digits", limit=64, flip=True, codec=ae)
        return fit(field, core.FlowMatching(), data, steps=steps, out=out, options=options, progress=False,
                   resume=resume)  # fmt: skip

    whole = train(tmp_path / "whole", 6)
    train(tmp_path / "cut", 2)
    cut = train(tmp_path / "cut", 6, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.raw.parameters(), cut.raw.parameters(), strict=True))
    assert whole.metrics() == cut.metrics()


def test_another_codec_is_another_run(runs, tmp_path, digits):
    _, latent = runs
    other = autoencoder(digits, net=Autoencoder(1, factor=2, width=8), steps=1, options=SHORT, progress=False)
    data = encoded(digits, codec_of(other))
    field = latent_field(UNet(4, width=8, multipliers=(1, 2), classes=10))
    options = replace(SHORT, sample_every=2, sample_count=10)
    with pytest.raises(RunError, match=r"another configuration: data\.fingerprint"):
        fit(field, core.FlowMatching(), data, steps=4, out=latent, options=options, progress=False, resume=True)


def test_a_flow_of_the_data_is_its_own_picture(digits):
    run = fit(latent_field(UNet(1, width=8, multipliers=(1, 2), classes=10)), core.FlowMatching(), digits, steps=1,
              options=SHORT, progress=False)  # fmt: skip
    x = torch.randn(2, 1, 8, 8)
    assert run.codec is None
    assert run.decode(x) is x
    assert run.value_range == run.field.value_range == (-1.0, 1.0)
    with pytest.raises(OptionError, match="flows in the data, not in latents"):
        LatentFlow.of(run)


def test_guidance_of_a_flow_without_dropped_labels_and_the_null_label_are_refused(digits):
    field = latent_field(UNet(1, width=8, multipliers=(1, 2), classes=10))
    run = fit(field, core.FlowMatching(dropout=0.0), digits, steps=1, options=SHORT, progress=False)
    with pytest.raises(OptionError, match=r"guidance 2 needs a null branch.*dropout=0"):
        run.check_guidance(2.0)
    run.check_guidance(1.0)
    with pytest.raises(OptionError, match=r"guidance 2 needs a null branch"):
        LatentFlow(run.field, same(), guided=False).draw(2, guidance=2.0, label=1)
    flow = LatentFlow(run.field, same())
    with pytest.raises(ConditionError, match="label 10 is the null label of 10 classes"):
        flow.draw(1, label=10)
    with pytest.raises(ConditionError, match=r"label must lie in 0 \.\. 9"):
        flow.draw(1, label=11)


def test_the_command_line_trains_an_autoencoder_a_flow_of_its_latents_and_draws_pictures(tmp_path, capsys):
    from PIL import Image

    folder = tmp_path / "pictures"
    digits = load("digits", limit=40)
    for i in range(40):
        where = folder / digits.class_names[int(digits.columns["label"][i]) % 2]
        where.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.x[i, 0].numpy()).save(where / f"{i}.png")
    small = ["options.batch=8", "options.sample_every=0"]
    ae, latent = tmp_path / "ae", tmp_path / "latent"
    assert main(["train", "--data", str(folder), "--out", str(ae), "--steps", "2", "--set", "objective=Autoencoding",
                 "field.net.width=8", *small]) == 0  # fmt: skip
    told = capsys.readouterr().err
    assert "Autoencoder with" in told
    assert f"--set data.codec={ae}" in told
    assert main(["train", "--data", str(folder), "--out", str(latent), "--steps", "2", "--set", f"data.codec={ae}",
                 "data.flip=true", "field.net.width=8", "field.path.schedule.sigma_min=1e-5", *small]) == 0  # fmt: skip
    shutil.rmtree(ae)
    assert main(["train", "--resume", "--out", str(latent), "--steps", "3"]) == 0
    assert main(["sample", str(latent), "--n", "3", "--steps", "2", "--guidance", "2"]) == 0
    with Image.open(latent / "drawn" / "000001.png") as picture:
        assert picture.size == (8, 8)
    assert main(["eval", str(latent), "--n", "20", "--steps", "1", "--json"]) == 0
    capsys.readouterr()
    assert main(["sample", str(latent), "--n", "2", "--steps", "1", "--format", "npz"]) == 0
    import numpy as np

    assert np.load(latent / "drawn" / "samples.npz")["x"].shape == (2, 1, 8, 8)


def test_sampling_an_autoencoder_is_refused_with_the_way_out(runs, capsys):
    ae, _ = runs
    assert main(["sample", str(ae), "--n", "1", "--steps", "1"]) != 0
    assert "is an autoencoder, no flow" in capsys.readouterr().err


def test_the_solution_of_a_latent_flow_tells_its_network_calls():
    field = GaussianMixtureField(means=[[1.0, 0.0]], stds=[0.5])
    flow = LatentFlow(field, same())
    assert flow.solution(2, steps=3, solver="euler").calls == 3
    assert flow.solution(2).calls == draw_solution(field, 2, steps=1, solver=DormandPrince(rtol=1e-5, atol=1e-5)).calls
