"""What schedulers' configurations mean, compared with the schedulers themselves."""

import math
from typing import Any

import diffusers
import pytest
import torch

from rheos.adapters import StepTable, semantics
from rheos.core import Linear
from rheos.core.errors import OptionError, TimeError, UnknownOptionError

STABLE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
TABLES = [
    diffusers.DDIMScheduler(),
    diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
    diffusers.PNDMScheduler(**STABLE),
    diffusers.EulerDiscreteScheduler(**STABLE, rescale_betas_zero_snr=True, prediction_type="v_prediction"),
    diffusers.DPMSolverMultistepScheduler(num_train_timesteps=50),
    diffusers.UniPCMultistepScheduler(trained_betas=[0.01, 0.02, 0.05, 0.3]),
    diffusers.DDIMScheduler(**STABLE, rescale_betas_zero_snr=True, prediction_type="v_prediction"),
]


@pytest.mark.parametrize("scheduler", TABLES, ids=lambda s: type(s).__name__)
def test_the_table_is_that_of_the_scheduler(scheduler: Any) -> None:
    law = semantics(scheduler).path.law
    assert isinstance(law, StepTable)
    ours = torch.tensor(law.alpha_bar, dtype=torch.float64)
    # theirs is a product of a thousand float32 factors: 1e-5; the last of a rescaled table is 0 or a rounded 2^-24
    torch.testing.assert_close(ours, scheduler.alphas_cumprod.double(), rtol=2e-5, atol=1e-9)


@pytest.mark.parametrize(("name", "kind"), [("epsilon", "noise"), ("sample", "data"), ("v_prediction", "v_prediction")])
def test_predictions_have_our_names(name: str, kind: str) -> None:
    assert semantics(diffusers.DDIMScheduler(prediction_type=name)).predicts == kind


def test_a_flow_is_linear_with_the_velocity_turned_round() -> None:
    flow = semantics(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0))
    assert isinstance(flow.path.law, Linear)
    assert (flow.predicts, flow.sign, flow.shift, flow.flow) == ("velocity", -1.0, 3.0, True)
    assert (flow.timestep(0.25), flow.time(750.0), flow.level(0.25)) == (750.0, 0.25, 0.75)
    assert float(flow.value(torch.ones(1))) == -1.0


def test_multistep_schedulers_are_flows_when_told_so() -> None:
    for kind in (diffusers.UniPCMultistepScheduler, diffusers.DPMSolverMultistepScheduler):
        flow = semantics(kind(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0))
        assert (flow.flow, flow.predicts, flow.sign, flow.shift) == (True, "velocity", -1.0, 5.0)


def test_an_inverted_clock_counts_time_and_predicts_our_velocity() -> None:
    mochi = semantics(diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True))
    assert (mochi.timestep(0.25), mochi.sign, mochi.time(250.0)) == (250.0, 1.0, 0.25)


def test_timesteps_of_a_table_are_whole_and_never_below_its_first_step() -> None:
    table = semantics(TABLES[0])
    assert [table.timestep(t) for t in (0.0, 0.5, 0.999, 1.0)] == [999.0, 499.0, 0.0, 0.0]
    times = torch.tensor([table.time(k) for k in range(1000)], dtype=torch.float64)
    assert torch.equal(table.timestep(times), torch.arange(1000).double())
    assert table.timestep(0.99951) == 0.0  # between the first step and the clean end


def test_noise_levels_invert() -> None:
    for meaning in (semantics(TABLES[0]), semantics({"_class_name": "FlowMatchEulerDiscreteScheduler"})):
        for t in (0.1, 0.5, 0.9995, 1.0):
            assert meaning.time_of_level(float(meaning.level(t))) == pytest.approx(t, abs=1e-12)


def test_a_shift_moves_the_grid_once() -> None:
    flow = semantics(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0))
    # sigma' = 3 sigma / (1 + 2 sigma) of 1, 2/3, 1/3
    assert [1 - t for t in flow.grid(3)] == pytest.approx([1, 6 / 7, 3 / 5, 0])
    assert flow.shifted([1.0, 2 / 3, 1 / 3]) == pytest.approx(flow.grid(3))
    assert flow.shifted([1.0, 2 / 3, 1 / 3, 0.0]) == pytest.approx(flow.grid(3))


def test_mu_lies_on_the_line_of_the_configuration() -> None:
    flow = semantics(diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True))
    assert (flow.mu(256), flow.mu(4096)) == pytest.approx((0.5, 1.15))
    assert flow.shift_for(1.15) == pytest.approx(math.exp(1.15))
    linear = semantics(diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type="linear"))
    assert linear.shift_for(2.0) == 2.0


@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_dynamic_shift_and_terminal_agree_with_the_scheduler(kind: str) -> None:
    peer = diffusers.FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, shift_terminal=0.1, time_shift_type=kind
    )
    levels = [1.0, 0.8, 0.5, 0.2]
    peer.set_timesteps(sigmas=levels, mu=0.7)
    ours = [1 - t for t in semantics(peer).shifted(levels, mu=0.7)]
    assert ours == pytest.approx(peer.sigmas.tolist(), abs=1e-6)  # float32 there
    assert 1 - semantics(peer).grid(5, mu=0.7)[-2] == pytest.approx(0.1)


def test_a_uniform_grid_of_a_table_is_the_trailing_spacing() -> None:
    peer = diffusers.DDIMScheduler(timestep_spacing="trailing")
    table = semantics(peer)
    for n in (1, 4, 7, 50):
        peer.set_timesteps(n)
        assert [table.timestep(t) for t in table.grid(n)[:-1]] == peer.timesteps.tolist()


def test_what_has_no_meaning_here_is_refused() -> None:
    with pytest.raises(UnknownOptionError, match="FlowMatchEulerDiscreteScheduler"):
        semantics({"_class_name": "FlowMatchEuler"})
    with pytest.raises(UnknownOptionError, match="EDMEulerScheduler"):
        semantics(diffusers.EDMEulerScheduler())
    with pytest.raises(UnknownOptionError, match="beta_schedule 'sigmoid'"):
        semantics(diffusers.DDPMScheduler(beta_schedule="sigmoid"))
    with pytest.raises(UnknownOptionError, match="prediction_type"):
        semantics({"_class_name": "DDIMScheduler", "prediction_type": "eps"})
    with pytest.raises(OptionError, match="Set both"):
        semantics(diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction"))
    with pytest.raises(OptionError, match="learned variance"):
        semantics(diffusers.DDPMScheduler(variance_type="learned_range"))
    with pytest.raises(OptionError, match="timestep_type='continuous'"):
        semantics(diffusers.EulerDiscreteScheduler(timestep_type="continuous", prediction_type="v_prediction"))
    with pytest.raises(OptionError, match="cannot start from pure noise"):
        semantics(diffusers.DDIMScheduler(rescale_betas_zero_snr=True))
    with pytest.raises(OptionError, match="got int"):
        semantics(3)


def test_shifts_by_size_are_given_where_they_mean_something() -> None:
    static = semantics(diffusers.FlowMatchEulerDiscreteScheduler())
    dynamic = semantics(diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True))
    with pytest.raises(OptionError, match="does not depend"):
        static.grid(4, mu=0.5)
    with pytest.raises(OptionError, match="does not depend"):
        static.mu(4)
    with pytest.raises(OptionError, match="give mu"):
        dynamic.grid(4)
    with pytest.raises(OptionError, match="does not depend"):
        semantics(TABLES[0]).grid(4, mu=0.5)


def test_grids_that_are_none_are_refused() -> None:
    with pytest.raises(OptionError, match="1 to that many, got 1001"):
        semantics(TABLES[0]).grid(1001)
    with pytest.raises(TimeError, match="monotone"):
        semantics(diffusers.FlowMatchEulerDiscreteScheduler()).shifted([0.5, 0.8])


def test_a_flow_that_predicts_noise_begins_where_that_says_something() -> None:
    peer = diffusers.UniPCMultistepScheduler(use_flow_sigmas=True)
    flow = semantics(peer)
    assert (flow.flow, flow.predicts, flow.sign, flow.finite) == (True, "noise", 1.0, (1e-3, 1.0))
    assert flow.grid(2) == (1e-3, 0.5, 1.0)
    assert semantics(diffusers.DDIMScheduler(prediction_type="sample")).finite[1] == pytest.approx(0.999)
