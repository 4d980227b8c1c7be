import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rheos.core import AffinePath, Field, GaussianMixtureField, GeodesicPath, Query, UnitQuaternion
from rheos.core.errors import OptionError, SourceNotGaussianError
from rheos.sample import solve
from strategies import SCHEDULES, gaussian, mixture, randn

PATHS = list(SCHEDULES.values())


@given(native=st.sampled_from(PATHS), target=st.sampled_from(PATHS), t=st.floats(0.05, 0.95))
def test_a_moved_field_is_the_field_of_the_other_path_where_both_see_the_noise_level(native, target, t):
    if not native.lam(1e-3) < target.lam(t) < native.lam(1 - 1e-3):
        return
    moved, expected = mixture(AffinePath(native)).on(AffinePath(target)), mixture(AffinePath(target))
    x = randn(4, 2) * float(target.alpha(t) + target.sigma(t))
    for kind in ("velocity", "data", "noise", "score", "v_prediction", "edm"):
        q = Query(x, torch.full((4,), t).double(), (t, 1.0), {}, kind)
        a, b = moved.answer(q).value, expected.answer(q).value
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6 * float(b.abs().max()))


@pytest.mark.parametrize(
    ("native", "target"), [("vp", "linear"), ("linear", "gvp"), ("linear", "vp"), ("gvp", "linear")]
)
def test_a_converted_model_carries_a_sample_to_the_same_end(native, target):
    field = mixture(native)
    moved = field.on(target)
    low, high = max(0.02, moved.finite[0]), min(0.98, moved.finite[1])
    start, c = field.path.change(moved.path, low)
    stop, d = field.path.change(moved.path, high)
    x = randn(6, 2)
    a = solve(moved, x, [low + (high - low) * k / 200 for k in range(201)], "rk4").x
    b = solve(field, x * c, [start + (stop - start) * k / 200 for k in range(201)], "rk4").x
    torch.testing.assert_close(a * d, b, rtol=1e-5, atol=1e-5)


def test_a_changed_path_keeps_conditions_shape_and_source():
    field = mixture(labels=True)
    field.gaussian = False
    moved = field.on("gvp")
    x = randn(3, 2)
    label = torch.tensor([0, 1, 2])
    assert moved.conditions == {"label"}
    assert moved.shape == (2,)
    torch.testing.assert_close(moved(x, 0.5), moved(x, 0.5, label=torch.full((3,), 2)))
    assert not torch.equal(moved(x, 0.5), moved(x, 0.5, label=label))
    with pytest.raises(SourceNotGaussianError):
        moved.score(x, 0.5)


def test_moving_twice_is_moving_once():
    field, x = gaussian("vp"), randn(3, 1)
    assert torch.equal(field.on("gvp").on("linear")(x, 0.5), field.on("linear")(x, 0.5))


def test_only_affine_paths_with_a_time_a_row_can_be_changed():
    with pytest.raises(OptionError, match="this field lives on GeodesicPath"):
        Field(nn.Identity(), GeodesicPath(UnitQuaternion())).on("linear")
    with pytest.raises(OptionError, match="not one a variable"):
        gaussian().on("gvp").answer(Query({"a": randn(1, 1)}, {"a": 0.5}, (0.5, 1.0), {}))


@pytest.mark.parametrize("native", ["linear", "gvp", "vp", "sub-vp", "ve", "edm", "ddpm"])
@pytest.mark.parametrize("target", ["linear", "gvp", "vp", "ve"])
def test_the_ends_of_time_have_finite_estimates(native, target):
    """Beyond the native path's noise levels the nearest level answers."""
    field = GaussianMixtureField(means=[[1.0, 0.0]], stds=[0.5], path=native).on(target)
    x = torch.ones(3, 2, dtype=torch.float64)
    for t in (0.0, 1.0, torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)):
        assert field(x, t).isfinite().all()
        assert field.data(x, t).isfinite().all()
