"""A second time for a pipeline's network, and its students as plain values and weights."""

import copy
import json
from typing import Any

import pytest
import torch
from torch import nn

from pipelines import FAMILIES, TEXTS, adapted, rows
from rheos.adapters import LatentField, from_diffusers
from rheos.core import FlowMapField, config
from rheos.distill import FlowMapLoss, student
from rheos.distill.mdt_dist import transport
from rheos.distill.retimed import retimed


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_a_flow_map_begins_as_its_teacher_to_the_last_bit_wherever_a_jump_ends(name, request):
    field, x, cond = adapted(name, request)
    made = student(field, baked=2.0).eval()
    assert isinstance(made, FlowMapField)
    assert made.baked == 2.0
    s = torch.tensor([0.1, 0.7001], dtype=torch.float64)
    expected = field(x, s, **cond)
    for t in (s, s + 0.2, torch.ones(2, dtype=torch.float64)):
        assert torch.equal(made.average(x, s, t, **cond), expected)
    g = torch.Generator().manual_seed(2)
    for p in made.net.length.parameters():  # type: ignore[union-attr]
        p.add_(torch.randn(p.shape, generator=g))
    near, far = (made.average(x, s, t, **cond) for t in (s, torch.ones(2, dtype=torch.float64)))
    assert float((near - far).abs().max()) > 1e-4
    assert torch.equal(field(x, s, **cond), expected)  # the teacher hears nothing


def test_a_flow_map_keeps_an_embedded_guidance_in_its_null_branch(flux: nn.Module) -> None:
    field = from_diffusers(flux, shape=(4, 4, 4)).set_null(**rows(TEXTS, 1))
    cond = {**rows(TEXTS, 2), "embedded_guidance": torch.tensor([2.0, 5.0])}
    for made in (student(field), transport(field)):
        null = made.null(cond)
        assert torch.equal(null["embedded_guidance"], cond["embedded_guidance"])
        assert torch.equal(null["pooled_projections"], rows(TEXTS, 1)["pooled_projections"].expand(2, -1))


def clone(field: Any) -> Any:
    """Through a file's plain values and weights."""
    made = config.load(json.loads(json.dumps(config.dump(field), allow_nan=False)))
    made.load_state_dict(field.state_dict())
    assert config.dump(made) == config.dump(field)
    return made.eval()


@pytest.mark.parametrize("make", [lambda f: f, LatentField.as_velocity, student, transport, retimed])
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_a_field_and_its_students_come_back_from_plain_values_and_weights(name, make, request):
    field, x, cond = adapted(name, request)
    before = make(field).eval()
    after = clone(before)
    assert type(after) is type(before)
    assert (after.path, after.predicts, after.shift) == (before.path, before.predicts, before.shift)
    assert torch.equal(after(x, 0.3, **cond), before(x, 0.3, **cond))


def test_what_a_student_was_told_is_kept(sd3: nn.Module) -> None:
    field = from_diffusers(sd3).set_null(**rows(TEXTS, 1))
    field.times, field.shift, field.value_range, field.baked = (0.0, 0.5, 1.0), 2.0, (-3.0, 3.0), 4.0
    after = clone(field)
    assert (after.times, after.shift, after.value_range, after.baked) == ((0.0, 0.5, 1.0), 2.0, (-3.0, 3.0), 4.0)
    for name, value in rows(TEXTS, 1).items():
        assert torch.equal(after.net.null(name, 1), value)
        assert torch.equal(student(after).net.null(name, 1), value)


def test_forward_mode_goes_through_the_attention_of_a_pipeline(sd3: nn.Module) -> None:
    made = student(from_diffusers(copy.deepcopy(sd3).double())).eval()
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in made.net.length.parameters():  # type: ignore[union-attr]
            p.add_(0.1 * torch.randn(p.shape, generator=g))
    x = torch.randn(2, 4, 8, 8, generator=g, dtype=torch.float64)
    v = torch.randn(2, 4, 8, 8, generator=g, dtype=torch.float64)
    cond = {name: value.double() for name, value in rows(TEXTS, 2).items()}
    s, t = torch.tensor([0.1, 0.4], dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    loss = FlowMapLoss("jvp")
    slope = loss._how(lambda a, b: made.between(a, b, t, cond), x, s, v, end=t)
    h = 1e-4  # a tenth of the network's own timestep, which it knows to 6e-5
    with torch.no_grad():
        there, here = (made.between(x + k * h * v, s + k * h, t, cond) for k in (1, -1))
    near = (there - here) / (2 * h)
    assert float((slope - near).norm() / near.norm()) < 0.01
