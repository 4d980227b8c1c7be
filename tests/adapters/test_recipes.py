"""Schedulers of diffusers against our solvers, on an exact field: same start, same grid, same result."""

from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from rheos.adapters import Semantics, from_scheduler
from rheos.core import GaussianMixtureField
from rheos.core.errors import OptionError, UnknownOptionError
from rheos.sample import solve

STABLE: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
FLOW: dict[str, Any] = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
CLEAN: dict[str, Any] = {**STABLE, "clip_sample": False}
LEADING: dict[str, Any] = {**STABLE, "timestep_spacing": "leading", "steps_offset": 1}
EARLY: dict[str, Any] = {"final_sigmas_type": "sigma_min", "lower_order_final": False}  # at zero noise they give NaN

SAME = {
    "flow euler": diffusers.FlowMatchEulerDiscreteScheduler(),
    "flow euler, shift": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    "flow euler, karras": diffusers.FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True),
    "flow euler, exponential": diffusers.FlowMatchEulerDiscreteScheduler(use_exponential_sigmas=True),
    "flow euler, beta": diffusers.FlowMatchEulerDiscreteScheduler(use_beta_sigmas=True),
    "flow euler, terminal": diffusers.FlowMatchEulerDiscreteScheduler(shift_terminal=0.1),
    "flow euler, inverted": diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
    "flow heun": diffusers.FlowMatchHeunDiscreteScheduler(shift=2.0),
    "flow dpm++2m": diffusers.DPMSolverMultistepScheduler(**FLOW, flow_shift=2.0),
    "flow dpm++2m, heun": diffusers.DPMSolverMultistepScheduler(**FLOW, solver_type="heun"),
    "flow unipc": diffusers.UniPCMultistepScheduler(**FLOW, flow_shift=3.0),
    "ddim": diffusers.DDIMScheduler(**CLEAN, timestep_spacing="trailing"),
    "ddim, leading": diffusers.DDIMScheduler(**CLEAN, steps_offset=1, set_alpha_to_one=False),
    "ddim, v": diffusers.DDIMScheduler(
        **CLEAN, timestep_spacing="trailing", prediction_type="v_prediction", rescale_betas_zero_snr=True
    ),
    "ddim, data": diffusers.DDIMScheduler(**CLEAN, prediction_type="sample"),
    "euler": diffusers.EulerDiscreteScheduler(**LEADING),
    "euler, linspace": diffusers.EulerDiscreteScheduler(**STABLE),
    "euler, karras": diffusers.EulerDiscreteScheduler(**STABLE, use_karras_sigmas=True),
    "dpm++1": diffusers.DPMSolverMultistepScheduler(**LEADING, solver_order=1),
    "dpm++2m": diffusers.DPMSolverMultistepScheduler(**LEADING),
    "dpm++2m, cosine": diffusers.DPMSolverMultistepScheduler(
        beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-5.1, prediction_type="v_prediction"
    ),
    "dpm++2m, karras": diffusers.DPMSolverMultistepScheduler(**STABLE, use_karras_sigmas=True),
    "dpm++3m": diffusers.DPMSolverMultistepScheduler(**STABLE, solver_order=3, lower_order_final=False),
    "unipc": diffusers.UniPCMultistepScheduler(**STABLE),
    "unipc, bh1": diffusers.UniPCMultistepScheduler(**STABLE, **EARLY, solver_type="bh1"),
    "unipc3": diffusers.UniPCMultistepScheduler(**STABLE, **EARLY, solver_order=3),
    "deis1": diffusers.DEISMultistepScheduler(**STABLE, solver_order=1),
}


def field_for(meaning: Semantics) -> GaussianMixtureField:
    """The exact field of two clusters on the path of a scheduler's model."""
    means = torch.tensor([[1.5, 0.0], [-1.0, 0.5]], dtype=torch.float64)
    return GaussianMixtureField(means, [0.4, 0.6], path=meaning.path)


def run(scheduler: Any, noise: Tensor, n: int) -> Tensor:
    """A scheduler's own loop on the exact field, the network being exact at the scheduler's noise levels."""
    meaning = from_scheduler(scheduler, approximate=True).semantics
    field = field_for(meaning)
    scheduler.set_timesteps(n)
    x = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    for i, k in enumerate(scheduler.timesteps):
        if hasattr(scheduler, "sigmas"):
            level = float(scheduler.sigmas[i])
            if type(scheduler) is diffusers.FlowMatchHeunDiscreteScheduler and not scheduler.state_in_first_order:
                level = float(scheduler.sigmas[i + 1])  # its levels stand in pairs, shifted by one
            t = meaning.time_of_level(level)
        else:
            t = float(meaning.time(float(k)))
        seen = x
        if type(scheduler) is diffusers.EulerDiscreteScheduler:
            seen = scheduler.scale_model_input(x, k)
        kind = meaning.predicts
        value = {"velocity": field, "noise": field.noise, "data": field.data}.get(kind)
        out = value(seen, t) if value else field.path.convert(field(seen, t), seen, t, "velocity", kind)
        x = scheduler.step(meaning.value(out), k, x, return_dict=False)[0].to(noise.dtype)
    return x


@pytest.mark.parametrize("name", SAME)
def test_a_scheduler_is_reproduced(name: str, noise: Tensor) -> None:
    scheduler, n = SAME[name], 10
    recipe = from_scheduler(scheduler)
    assert recipe.differences == ()
    ours = solve(field_for(recipe.semantics), recipe.start(noise, n), recipe.times(n), recipe.solver)
    # its coefficients are float32, and a conversion from noise divides by alpha_0 = 0.07 at the first step
    torch.testing.assert_close(ours.x, run(scheduler, noise, n), rtol=0, atol=1e-5)


def test_heun_spends_one_call_less_than_two_a_step() -> None:
    recipe = from_scheduler(SAME["flow heun"])
    field = field_for(recipe.semantics)
    assert solve(field, torch.randn(1, 2).double(), recipe.times(5), recipe.solver).calls == 9


def test_deis_is_near_and_says_in_what_it_differs(noise: Tensor) -> None:
    scheduler = diffusers.DEISMultistepScheduler(**STABLE)
    recipe = from_scheduler(scheduler, approximate=True)
    assert "log rho" in recipe.differences[0]
    ours = solve(field_for(recipe.semantics), recipe.start(noise, 40), recipe.times(40), recipe.solver)
    # both are of order 2 at 40 steps, with different constants
    torch.testing.assert_close(ours.x, run(scheduler, noise, 40), rtol=0, atol=0.05)


def test_the_grid_is_the_schedulers_own_waste_and_all() -> None:
    levels = [1 - t for t in from_scheduler(diffusers.FlowMatchEulerDiscreteScheduler()).times(2)]
    assert levels == pytest.approx([1.0, 0.001, 0.0])  # linspace(1, 0.001, N), then 0
    levels = [1 - t for t in from_scheduler(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)).times(2)]
    # the last level, shifted at construction and again: 3 s / (1 + 2 s) of 0.001 twice
    assert levels[1] == pytest.approx(0.0089, abs=1e-4)
    given = from_scheduler(diffusers.FlowMatchEulerDiscreteScheduler()).times(sigmas=[1.0, 0.5])
    assert [1 - t for t in given] == pytest.approx([1.0, 0.5, 0.0])


def test_a_level_that_repeats_is_left_out() -> None:
    recipe = from_scheduler(diffusers.DDIMScheduler(**CLEAN, set_alpha_to_one=False))  # its last call stands still
    assert len(recipe.times(10)) == 10
    flow = from_scheduler(diffusers.DEISMultistepScheduler(**FLOW, solver_order=1))  # never reaches zero noise
    assert [1 - t for t in flow.times(2)] == pytest.approx([0.999, 0.4995], abs=1e-4)


def test_a_scheduler_whose_jumps_miss_its_timesteps_is_refused() -> None:
    recipe = from_scheduler(diffusers.DDIMScheduler(**CLEAN, timestep_spacing="linspace"))
    with pytest.raises(OptionError, match="never asks for"):
        recipe.times(10)


@pytest.mark.parametrize(
    ("scheduler", "what"),
    [
        (diffusers.DDIMScheduler(), "clip_sample=True"),
        (diffusers.DDPMScheduler(**CLEAN), "comes from a generator"),
        (diffusers.DDPMScheduler(**CLEAN, variance_type="fixed_large"), "variance_type='fixed_large'"),
        (diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), "comes from a generator"),
        (diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"), "comes from a generator"),
        (diffusers.DPMSolverMultistepScheduler(thresholding=True), "thresholding=True"),
        (diffusers.DPMSolverMultistepScheduler(solver_order=3), "below 15 steps"),
        (diffusers.DPMSolverMultistepScheduler(final_sigmas_type="sigma_min"), "first order although"),
        (diffusers.UniPCMultistepScheduler(disable_corrector=[0]), "disable_corrector"),
        (diffusers.UniPCMultistepScheduler(predict_x0=False), "predict_x0=False"),
        (diffusers.UniPCMultistepScheduler(solver_order=3), "last but one"),
    ],
)
def test_what_differs_is_said_and_may_be_accepted(scheduler: Any, what: str) -> None:
    with pytest.raises(OptionError, match=what):
        from_scheduler(scheduler)
    assert what in "; ".join(from_scheduler(scheduler, approximate=True).differences)


def test_schedulers_without_a_counterpart_are_refused() -> None:
    with pytest.raises(OptionError, match="No solver of rheos is PNDMScheduler"):
        from_scheduler(diffusers.PNDMScheduler())
    with pytest.raises(OptionError, match="No solver of rheos is DPMSolverMultistepScheduler"):
        from_scheduler(diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", solver_order=3))
    with pytest.raises(UnknownOptionError, match="EDMEulerScheduler"):
        from_scheduler(diffusers.EDMEulerScheduler())
    with pytest.raises(OptionError, match="scheduler object"):
        from_scheduler({"_class_name": "DDIMScheduler"})


def test_a_table_changed_by_hand_is_noticed() -> None:
    scheduler = diffusers.DDIMScheduler(**CLEAN)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod**2
    with pytest.raises(OptionError, match="changed by hand"):
        from_scheduler(scheduler)
