import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rheos.core import AffinePath, Draws, Field, GeodesicPath, UnitQuaternion, row_seeds
from rheos.core.errors import ConditionError, OptionError, ShapeError, TimeError, UnknownOptionError
from rheos.sample import CFG, Grid, draw, draw_solution, grid_for, solve
from strategies import gaussian, mixture, randn, untyped


@settings(max_examples=20)
@given(seeds=st.lists(st.integers(0, 9), min_size=4, max_size=4), batch=st.integers(1, 5))
def test_a_rows_sample_depends_on_its_own_seed_alone(seeds, batch):
    field = mixture(labels=True)
    whole = draw(field, 4, steps=3, seed=seeds, label=1)
    assert torch.equal(draw(field, 4, steps=3, seed=seeds, label=1, batch=batch), whole)
    for row, seed in enumerate(seeds):
        assert torch.equal(draw(field, 1, steps=3, seed=[seed], label=1)[0], whole[row])


def test_one_seed_makes_many_and_they_come_back():
    field = mixture()
    solution = draw_solution(field, 5, steps=3, seed=7)
    assert torch.equal(solution.seeds, row_seeds(7, 5))
    assert torch.equal(draw(field, 2, steps=3, seed=solution.seeds[3:]), solution.x[3:])
    other = draw(field, 5, steps=3, seed=8)
    assert not any(torch.equal(a, b) for a in solution.x for b in other)  # neighbouring seeds share no sample


def test_samples_have_the_law_of_the_data():
    field = mixture()
    x = draw(field, 4000, steps=30, solver="heun", seed=1)
    share = field.responsibilities(x.double()).mean(0)
    # standard errors 6e-3 to 8e-3
    assert float((share - torch.tensor([0.2, 0.5, 0.3])).abs().max()) < 0.03


@pytest.mark.parametrize(("path", "level"), [("linear", 1.0), ("gvp", 1.0), ("ve", 50.0), ("edm", 80.0)])
def test_the_source_has_the_noise_level_of_the_first_time(path, level):
    field = gaussian(path)
    solution = draw_solution(field, 3, steps=2, seed=5)
    noise = Draws(row_seeds(5, 3)).normal(torch.empty(3, 1), "source")
    torch.testing.assert_close(solution.source, level * noise, rtol=1e-6, atol=0)
    assert float(draw(field, 2000, steps=60, solver="dpm++2m").mean()) == pytest.approx(1.5, abs=0.05)


def test_on_a_space_the_source_is_the_spaces_own():
    sphere = Field(nn.Sequential(), GeodesicPath(UnitQuaternion()), shape=(4,))
    sphere.net.forward = lambda x, t: 0 * x[..., 1:]
    x = draw(sphere, 5, steps=2)
    torch.testing.assert_close(x.norm(dim=1), torch.ones(5))


def test_batches_add_up_in_the_solution():
    field = mixture(labels=True)
    options = {"steps": 4, "label": [0, 1, 0, 1, 1], "guidance": 2.0, "trace": True}
    whole = draw_solution(field, 5, **options)
    parts = draw_solution(field, 5, batch=2, **options)
    for name in ("x", "path", "source", "seeds"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-6, atol=1e-6)
    assert (parts.rows, whole.rows) == (5 * 2 * 8, 5 * 2 * 8)
    assert (parts.calls, whole.calls) == (3 * 8, 8)
    assert parts.times == whole.times


def test_a_number_guides_as_a_steer_does_and_one_is_free():
    field = mixture(labels=True)
    assert torch.equal(draw(field, 3, guidance=3.0, label=1), draw(field, 3, guidance=CFG(3.0), label=1))
    assert torch.equal(draw(field, 3, guidance=3.0, label=1), draw(field, 3, steers=[CFG(3.0)], label=1))
    free = draw_solution(field, 3, guidance=1.0, label=1, solver="euler", steps=6)
    assert (free.calls, free.rows) == (6, 18)


def test_a_given_source_is_where_the_flow_begins_also_from_the_data():
    field, x = mixture(), randn(3, 2)
    assert torch.equal(draw(field, 3, source=x, steps=4), solve(field, x, (0.0, 0.25, 0.5, 0.75, 1.0), "heun").x)
    noise = draw(field, 3, source=x, steps=(1.0, 0.5, 0.0), solver="rk4")
    assert torch.equal(noise, solve(field, x, (1.0, 0.5, 0.0), "rk4").x)


def test_the_grid_has_the_fields_shift_and_stays_where_the_field_is_finite():
    field = Field(nn.Identity(), shift=3.0)
    assert grid_for(field, 2) == (0.0, 0.25, 1.0)
    assert grid_for(field, (0.0, 0.4, 1.0)) == (0.0, 0.4, 1.0)
    assert grid_for(field, Grid(), 2) == (0.0, 0.5, 1.0)
    noise = Field(nn.Identity(), predicts="noise")
    assert grid_for(noise, 4) == (1e-3, 0.25, 0.5, 0.75, 1.0)
    assert grid_for(noise, (0.0, 1e-4, 0.5, 1.0)) == (1e-3, 0.5, 1.0)
    assert grid_for(noise, (1.0, 0.5, 0.0)) == (1.0, 0.5, 1e-3)
    data = Field(nn.Identity(), predicts="data")
    assert grid_for(data, (1.0, 0.5, 0.0)) == (1 - 1e-5, 0.5, 0.0)
    moved = gaussian("ve").on("linear")
    low, high = moved.finite
    grid = grid_for(moved, 400)
    assert grid[0] == low > 0.01
    assert grid[-1] == 1.0
    assert grid[-2] < high < 1.0


def test_a_moved_field_draws_the_data_of_the_original():
    for native, target in (("vp", "linear"), ("linear", "gvp"), ("ve", "linear")):
        x = draw(gaussian(native).on(target), 2000, steps=40, seed=2)
        assert float(x.mean()) == pytest.approx(1.5, abs=0.04)
        assert float(x.std()) == pytest.approx(0.3, abs=0.03)


def test_the_state_has_the_dtype_of_the_network_or_float32():
    class Still(nn.Module):
        def __init__(self, dtype):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1, dtype=dtype))

        def forward(self, x, t):
            return 0 * x

    for dtype, expected in (
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
    ):
        assert draw(Field(Still(dtype), shape=(2,)), 2, steps=1).dtype == expected


def test_sampling_is_evaluation_and_the_training_mode_is_put_back_even_after_an_error():
    class Moody(nn.Module):
        def forward(self, x, t):
            assert not self.training
            if float(x.abs().max()) > 100:
                raise ZeroDivisionError
            return 0 * x

    field = Field(Moody(), shape=(2,)).train()
    draw(field, 2, steps=1)
    assert field.training
    with pytest.raises(ZeroDivisionError):
        draw(field, 2, steps=1, source=torch.full((2, 2), 1e3))
    assert field.training


class Classy(nn.Module):
    conditions = frozenset({"label"})
    config = {"classes": 3}  # noqa: RUF012

    def forward(self, x, t, label):
        return 0 * x + label[:, None]

    def null(self, name, rows):
        return torch.full((rows,), 3)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda f: draw(f, 0), OptionError, "n must be at least 1, got 0"),
        pytest.param(lambda f: draw(f, 2.5), OptionError, r"n must be an integer, got 2\.5", marks=untyped),
        (lambda f: draw(f, 2, batch=0), OptionError, "batch must be at least 1, got 0"),
        (lambda f: draw(f, 2, steps=0), OptionError, "steps must be at least 1, got 0"),
        (lambda f: draw(f, 2, steps=(0.0, 20.0)), TimeError, "got 20"),
        (lambda f: draw(f, 2, steps=Grid()), OptionError, r"steps=Grid\(...\)\(20\)"),
        (lambda f: draw(f, 2, steps=(1.0, 0.0)), OptionError, "from data to noise; give the data.*source=x"),
        (lambda f: draw(f, 2, solver="huen"), UnknownOptionError, "did you mean 'heun'"),
        (
            lambda f: draw(f, 2, sovler="heun"),
            ConditionError,
            "Unknown condition or option sovler.*Did you mean solver",
        ),
        (lambda f: draw(f, 2, guidence=2.0), ConditionError, "this network takes: label. Did you mean guidance"),
        (lambda f: draw(f, 3, label=[0, 1]), ConditionError, "label has 2 rows for 3 samples"),
        (lambda f: draw(f, 2, label="seven"), ConditionError, "label must be numbers"),
        (lambda f: draw(f, 2, label=4), ConditionError, r"label must lie in 0 .. 2, got 4"),
        (lambda f: draw(f, 2, label=-1), ConditionError, r"label must lie in 0 .. 2, got -1"),
        (lambda f: draw(Field(nn.Identity()), 2), OptionError, r"Give it: shape=\(3, 32, 32\)"),
        (lambda f: draw(Field(nn.Identity(), shape=(2,)), 2, guidance=2.0), OptionError, "needs a conditional field"),
        (lambda f: draw(f, 2, source=torch.zeros(3, 2)), ShapeError, "source has 3 rows for n = 2"),
        (lambda f: draw(f, 2, seed=[1, 2, 3]), OptionError, "seed has 3 values for 2 rows"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_a_way_out(call, error, said):
    with pytest.raises(error, match=said):
        call(Field(Classy(), shape=(2,)))


def test_conditions_are_repeated_or_taken_row_by_row_and_none_is_absent():
    field = Field(Classy(), AffinePath(), shape=(1,))
    start = torch.zeros(3, 1)

    def run(**cond):
        return draw(field, 3, steps=1, solver="euler", source=start, **cond).flatten().tolist()

    assert run(label=2) == [2, 2, 2]
    assert run(label=[0, 1, 2]) == [0, 1, 2]
    assert run(label=torch.tensor([1])) == [1, 1, 1]
    assert run() == run(label=None) == run(label=3) == [3, 3, 3]
    assert math.isclose(sum(run(label=[0, 1, 2])), 3)
