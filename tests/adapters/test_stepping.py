"""Our solvers behind a scheduler's face: a pipeline's loop gives what `solve` gives, call for call."""

import sys
from pathlib import Path
from typing import Any, cast

import diffusers
import pytest
import torch
from torch import Tensor

from rheos.adapters import Semantics, as_diffusers
from rheos.adapters.stepping import RheosScheduler, rehearse, solver_from, solver_name
from rheos.core import GaussianMixtureField
from rheos.core.errors import MissingExtraError, OptionError, TimeError, UnknownOptionError
from rheos.sample import DDIM, HEUN, SOLVERS, RungeKutta, Tableau, UniPC, solve, solver

FLOW = diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0)
TABLE = diffusers.DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False)
ZERO = diffusers.DDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True, clip_sample=False)
MODELS = {"flow": FLOW, "table": TABLE, "zero snr": ZERO}
FIXED = [name for name, make in SOLVERS.items() if not (make().adaptive or make().kicks or make().stochastic)]


class Exact(GaussianMixtureField):
    """The exact field of two clusters where a scheduler's model lives, finite where that may be asked."""

    def __init__(self, meaning: Semantics) -> None:
        means = torch.tensor([[1.5, 0.0], [-1.0, 0.5]], dtype=torch.float64)
        super().__init__(means, [0.4, 0.6], path=meaning.path)
        self.meaning = meaning

    @property
    def finite(self) -> tuple[float, float]:
        return self.meaning.finite

    def output(self, x: Tensor, t: float) -> Tensor:
        """What the network would give."""
        value = self.path.convert(self(x, t), x, t, "velocity", self.meaning.predicts)
        return cast(Tensor, self.meaning.value(value))


def loop(scheduler: RheosScheduler, x: Tensor, start: int = 0, **options: Any) -> Tensor:
    """What every pipeline does; the exact field is asked at exact times, where a network has rounded timesteps."""
    field = Exact(scheduler.meaning)
    for k, timestep in enumerate(scheduler.timesteps[start:], start):
        t = scheduler._plan[k].t
        assert float(timestep) == pytest.approx(float(scheduler.meaning.timestep(t)), rel=1e-6)
        seen = scheduler.scale_model_input(x, timestep)
        x = scheduler.step(field.output(seen, t), timestep, x, return_dict=False, **options)[0]
    return x


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", FIXED)
def test_a_pipelines_loop_gives_what_solve_gives(name: str, model: str, noise: Tensor) -> None:
    scheduler = as_diffusers(name, MODELS[model])
    scheduler.set_timesteps(6)
    ours = solve(Exact(scheduler.meaning), noise, scheduler.times, name)
    # the only difference is a conversion to the network's prediction and back
    torch.testing.assert_close(loop(scheduler, noise), ours.x, rtol=0, atol=1e-9)
    assert len(scheduler.timesteps) == ours.calls


@pytest.mark.parametrize("name", [n for n in SOLVERS if SOLVERS[n]().stochastic and not SOLVERS[n]().kicks])
def test_noise_comes_from_the_generator_and_keeps_the_law(name: str) -> None:
    scheduler = as_diffusers(name, TABLE)
    start = torch.randn(4000, 2, dtype=torch.float64)
    results = []
    for seed in (0, 0, 1):
        scheduler.set_timesteps(60)
        results.append(loop(scheduler, start, generator=torch.Generator().manual_seed(seed)))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    if name != "renoise":  # which keeps no marginal
        # the mean is (0.25, 0.25); its standard error is 1.3 / sqrt(4000) = 0.02
        assert float((results[0].mean(0) - 0.25).abs().max()) < 0.06


def test_inner_evaluations_are_timesteps_of_their_own() -> None:
    heun = as_diffusers("heun")
    heun.set_timesteps(2)
    assert heun.timesteps.tolist() == [1000.0, 500.0, 500.0, 0.0]
    edm = as_diffusers("heun-edm")
    edm.set_timesteps(2)
    assert edm.timesteps.tolist() == [1000.0, 500.0, 500.0]
    rk4 = as_diffusers("rk4")
    rk4.set_timesteps(1)
    assert (rk4.timesteps.tolist(), rk4.order, len(rk4)) == ([1000.0, 500.0, 500.0, 0.0], 4, 1000)


def test_no_call_is_wasted_and_the_end_has_no_noise() -> None:
    scheduler = as_diffusers("euler", diffusers.FlowMatchEulerDiscreteScheduler())
    scheduler.set_timesteps(2)
    assert scheduler.sigmas.tolist() == [1.0, 0.5, 0.0]
    table = as_diffusers("ddim", TABLE)
    table.set_timesteps(4)
    assert table.timesteps.tolist() == [999.0, 749.0, 499.0, 249.0]
    assert float(table.sigmas[-1]) == 0.0


def test_given_sigmas_are_shifted_and_given_timesteps_are_not() -> None:
    scheduler = as_diffusers("euler", diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0))
    scheduler.set_timesteps(sigmas=[1.0, 0.5])
    assert scheduler.sigmas.tolist() == pytest.approx([1.0, 0.75, 0.0])
    scheduler.set_timesteps(timesteps=[1000.0, 500.0])
    assert scheduler.sigmas.tolist() == [1.0, 0.5, 0.0]


def test_the_shift_by_size_follows_mu() -> None:
    peer = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    scheduler = as_diffusers("euler", peer)
    scheduler.set_timesteps(4, sigmas=[1.0, 0.75, 0.5, 0.25], mu=0.9)
    peer.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=0.9)
    torch.testing.assert_close(scheduler.sigmas, peer.sigmas)
    scheduler.set_timesteps(4, mu=0.9)
    torch.testing.assert_close(scheduler.sigmas, peer.sigmas)
    assert scheduler.config["base_shift"] == 0.5
    static = as_diffusers("euler", FLOW)
    static.set_timesteps(2, mu=0.9)  # Flux's pipeline gives it whatever the scheduler is
    assert static.sigmas.tolist() == pytest.approx([1.0, 2 / 3, 0.0])


def test_a_loop_may_begin_in_the_middle(noise: Tensor) -> None:
    for begin in (True, False):
        scheduler = as_diffusers("heun", FLOW)
        scheduler.set_timesteps(6)
        if begin:
            scheduler.set_begin_index(4)
        found = loop(scheduler, noise, start=4)
        expected = solve(Exact(scheduler.meaning), noise, scheduler.times[2:], "heun").x
        torch.testing.assert_close(found, expected)
        assert scheduler.step_index == len(scheduler.timesteps)
        assert scheduler.begin_index == 4


@pytest.mark.parametrize("model", MODELS)
def test_added_noise_is_the_path(model: str, noise: Tensor) -> None:
    peer, scheduler, data = MODELS[model], as_diffusers("euler", MODELS[model]), torch.ones_like(noise)
    if model == "flow":
        timesteps = peer.timesteps[50::60]  # shifted, not whole
        expected = peer.scale_noise(data, timesteps, noise)
    else:
        timesteps = torch.linspace(100, 900, len(noise)).long()
        expected = peer.add_noise(data, noise, timesteps)
    torch.testing.assert_close(scheduler.add_noise(data, noise, timesteps), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(scheduler.scale_noise(data, timesteps[:1], noise)[0], expected[0], rtol=0, atol=1e-6)


def test_a_state_moved_between_steps_is_stepped_from(noise: Tensor) -> None:
    scheduler = as_diffusers("dpm++2m", FLOW)
    scheduler.set_timesteps(3)
    field, x = Exact(scheduler.meaning), noise
    method = solver("dpm++2m").bind(scheduler.meaning.path, (0.0, 1.0))
    s = method.init(noise)
    for k, timestep in enumerate(scheduler.timesteps):
        t = scheduler.times[k]
        x = x + 0.1  # as inpainting does
        s = method.start(method.move(s, x), t, scheduler.times[k + 1])
        s = method.tell(s, field.data(x, t))
        x = scheduler.step(field.output(x, t), timestep, x).prev_sample
        torch.testing.assert_close(x, s["x"])


def test_a_half_precision_state_is_kept_in_full_between_calls() -> None:
    scheduler = as_diffusers("euler", FLOW)
    scheduler.set_timesteps(1000)
    x = torch.zeros(1, 1, dtype=torch.bfloat16)
    for timestep in scheduler.timesteps:
        x = scheduler.step(torch.full_like(x, -1.0), timestep, x).prev_sample
        assert x.dtype == torch.bfloat16
    # the steps, 0.001 each or less, would be lost near 1 in bf16, whose spacing is 0.008 there
    assert float(x) == 1.0


def test_a_configuration_comes_back(tmp_path: Path, noise: Tensor) -> None:
    scheduler = as_diffusers(UniPC(order=3), TABLE)
    scheduler.save_pretrained(tmp_path)
    again = RheosScheduler.from_pretrained(tmp_path)
    for one in (scheduler, again):
        one.set_timesteps(5)
    assert again.solver == scheduler.solver
    assert torch.equal(loop(scheduler, noise), loop(again, noise))
    assert as_diffusers("euler", again).meaning == scheduler.meaning  # ours may be replaced too


def test_solvers_have_names() -> None:
    assert solver_name(RungeKutta(tableau=HEUN)) == "heun"
    assert solver_name(DDIM(eta=0.5)) == {"name": "ddim", "eta": 0.5}
    for name in SOLVERS:
        assert solver_from(solver_name(solver(name))) == solver(name)


def test_a_spacing_of_the_schedulers_own_must_be_chosen() -> None:
    peer = diffusers.DPMSolverMultistepScheduler(use_karras_sigmas=True)
    with pytest.raises(OptionError, match="use_karras_sigmas=True"):
        as_diffusers("dpm++2m", peer)
    scheduler = as_diffusers("dpm++2m", peer, spacing="edm")
    scheduler.set_timesteps(8)
    assert float(scheduler.timesteps[0]) == 999.0
    assert bool((scheduler.timesteps.diff() < 0).all())


def test_misuse_is_an_error_that_says_the_way_out(noise: Tensor) -> None:
    with pytest.raises(UnknownOptionError, match="did you mean 'heun'"):
        as_diffusers("huen")
    with pytest.raises(OptionError, match="chooses its own steps"):
        as_diffusers("dopri5")
    if "churn" in SOLVERS:
        with pytest.raises(OptionError, match="a pipeline cannot"):
            as_diffusers("churn")
    scheduler = as_diffusers("heun")
    with pytest.raises(OptionError, match="Call set_timesteps"):
        scheduler.step(noise, 1000.0, noise)
    with pytest.raises(OptionError, match="needs num_inference_steps"):
        scheduler.set_timesteps()
    with pytest.raises(OptionError, match="not both"):
        scheduler.set_timesteps(sigmas=[1.0], timesteps=[1000.0])
    with pytest.raises(OptionError, match="2 values were given for num_inference_steps=3"):
        scheduler.set_timesteps(3, sigmas=[1.0, 0.5])
    with pytest.raises(TimeError, match="from noise to data"):
        scheduler.set_timesteps(timesteps=[500.0, 900.0])
    scheduler.set_timesteps(2)
    with pytest.raises(OptionError, match="No step begins at timestep 3"):
        scheduler.step(noise, 3, noise)
    scheduler.set_begin_index(1)
    with pytest.raises(OptionError, match="is inside a step"):
        scheduler.step(noise, 500.0, noise)
    scheduler.set_timesteps(1)
    x = scheduler.step(noise, 1000.0, noise).prev_sample
    with pytest.raises(OptionError, match="in the middle of a step"):
        scheduler.step(noise, 0.0, x + 1)
    x = scheduler.step(noise, 0.0, x).prev_sample
    with pytest.raises(OptionError, match="All steps are taken"):
        scheduler.step(noise, 0.0, x)


def test_a_method_without_a_name_cannot_be_written_down() -> None:
    own = Tableau("own", 2, ((), (0.75,)), (1 / 3, 2 / 3), (0.0, 0.75))
    with pytest.raises(OptionError, match="none of the named solvers"):
        as_diffusers(RungeKutta(tableau=own))


def test_without_diffusers_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rheos.adapters.stepping", None)
    with pytest.raises(MissingExtraError, match=r"rheos\[diffusers\]"):
        as_diffusers("euler")


def test_the_rehearsal_lists_what_is_asked() -> None:
    plan = rehearse(solver("heun"), (0.0, 0.5, 1.0))
    assert [(e.interval, e.stage, e.t) for e in plan] == [(0, 0, 0.0), (0, 1, 0.5), (1, 0, 0.5), (1, 1, 1.0)]
