import pytest
import torch
from torch import nn

from rheos.claims import instaflow
from rheos.claims.teacher import bench
from rheos.core import Field

TINY = instaflow.Budget(teacher=4, pairs=64, reflow=4, distil=(2, 3), rows=40)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    measured, data = instaflow.Found(), bench()
    instaflow.measure(measured, data, TINY, 0, tmp_path_factory.mktemp("claim"), lambda line: None)
    instaflow.measure_classes(measured, data.net, TINY, 0, lambda line: None)
    return measured


def test_a_tiny_run_has_every_figure_that_the_card_asks_for(found):
    figures = {f.name: f for f in instaflow.figures(found, TINY, quick=False)}
    limits = [f.threshold for f in figures.values()]
    # S a fifth, distances at one and two steps a quarter, two costs, an error a budget, classes
    assert limits == [0.2, 0.25, 0.25, 1.0, 1.0, 0.5, 0.5, 0.95]
    ratio = found.mean("S of 2-RF") / found.mean("S of the teacher")
    assert figures["straightness S, 2-RF / teacher"].value == ratio


def test_a_quick_run_asks_for_the_direction_only(found):
    assert {f.threshold for f in instaflow.figures(found, TINY, quick=True)} == {1.0, 0.7}


class Constant(nn.Module):
    def __init__(self, v):
        super().__init__()
        self.v = v

    def forward(self, x, t):
        return torch.full_like(x, self.v)


def test_the_error_of_a_student_is_the_mean_square_of_an_element():
    flow, student = (Field(Constant(v), shape=(3,)) for v in (1.0, 1.5))
    assert instaflow.error(flow, flow, rows=8) < 1e-12
    assert instaflow.error(student, flow, rows=8) == pytest.approx(0.25, rel=1e-5)


def test_samples_of_the_first_seed_make_the_picture(found):
    assert all(x.shape == (32, 1, 8, 8) for x in found.pictures.values())
    assert instaflow._picture(found.pictures).startswith(b"\x89PNG")
