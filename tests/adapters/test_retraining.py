"""Networks of diffusers as the beginning of a student: what their raw output means from then on."""

import copy

import pytest
import torch
from tests.strategies import randn
from torch import nn

from rheos.adapters import LatentField, from_diffusers
from rheos.adapters.calls import UNetCall
from rheos.adapters.latent import Network
from rheos.adapters.semantics import semantics
from rheos.sample import draw_solution

diffusers = pytest.importorskip("diffusers")


def test_a_unet_of_diffusers_is_asked_by_its_own_clock_and_its_output_is_the_velocity(plain_unet):
    unet = plain_unet
    teacher = from_diffusers(unet, diffusers.DDIMScheduler())
    student = teacher.as_velocity()
    x = randn(2, 3, 8, 8).float()
    with torch.no_grad():
        for t in (0.0, 0.25, 1.0):
            raw = unet(x, torch.full((2,), 1000.0 * (1 - t)), return_dict=False)[0]
            torch.testing.assert_close(student(x, t), raw, rtol=0, atol=1e-6)
    assert student.net.model is not unet
    asked = []
    student.net.model.register_forward_pre_hook(lambda module, inputs: asked.append(float(inputs[1][0])))
    assert draw_solution(student, 1, steps=1, solver="euler").calls == 1
    assert asked == [1000.0]
    flow = from_diffusers(unet, {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0})
    torch.testing.assert_close(flow.as_velocity()(x, 0.25), flow(x, 0.25), rtol=0, atol=0)
    assert flow.as_velocity().shift == 1.0


def test_copies_of_a_pipelines_field_share_the_pipeline():
    class Pipeline:
        def __deepcopy__(self, memo):
            raise AssertionError("copied")

    meaning = semantics({"_class_name": "DDIMScheduler"})
    field = LatentField(Network(nn.Linear(1, 1), UNetCall(), meaning), Pipeline(), (1,))
    copied = copy.deepcopy(field)
    assert copied.pipeline is field.pipeline
    assert copied.net.model is not field.net.model
    assert torch.equal(copied.net.model.weight, field.net.model.weight)
