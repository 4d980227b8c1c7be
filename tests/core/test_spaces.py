import math

import pytest
import roma
import torch
from hypothesis import given
from scipy.spatial.transform import Rotation

from rheos.core import Draws, Euclidean, Product, UnitQuaternion, row_seeds
from rheos.core.errors import OptionError, ShapeError
from rheos.core.spaces import conjugate, multiply, normalise, quaternion_exp, quaternion_log
from strategies import batches, randn, seeds

S3 = UnitQuaternion()


def rotations(n, seed=0):
    return normalise(randn(n, 3, 4, seed=seed))


def xyzw(q):
    """The order that roma and scipy use."""
    return torch.cat((q[..., 1:], q[..., :1]), -1)


@given(x=batches())
def test_flat_space_adds_and_subtracts(x):
    flat, y = Euclidean(), x.cos()
    torch.testing.assert_close(flat.move(x, flat.diff(x, y)), y, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(flat.distance(x, y), (x - y).flatten(1).norm(dim=1), rtol=1e-12, atol=0)


@given(seed=seeds)
def test_products_logarithms_and_exponentials_agree_with_roma_and_scipy(seed):
    p, q = rotations(4, seed), rotations(4, seed + 1)
    torch.testing.assert_close(xyzw(multiply(p, q)), roma.quat_product(xyzw(p), xyzw(q)), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(quaternion_log(q), roma.unitquat_to_rotvec(xyzw(q)), rtol=1e-10, atol=1e-10)
    vector = quaternion_log(q)
    oracle = torch.from_numpy(Rotation.from_rotvec(vector.reshape(-1, 3).numpy()).as_matrix())
    turned = Rotation.from_quat(xyzw(quaternion_exp(vector)).reshape(-1, 4).numpy()).as_matrix()
    torch.testing.assert_close(torch.from_numpy(turned), oracle, rtol=1e-10, atol=1e-10)


@given(seed=seeds)
def test_walking_along_the_difference_arrives_and_the_distance_is_its_length(seed):
    x, y = rotations(3, seed), rotations(3, seed + 1)
    v = S3.diff(x, y)
    assert v.shape == (3, 3, 3)
    arrived = S3.move(x, v)
    assert float((1 - (arrived * y).sum(-1).abs()).max()) < 1e-12  # the same rotation, up to the sign
    torch.testing.assert_close(S3.distance(x, y), v.flatten(1).norm(dim=1), rtol=1e-12, atol=0)
    assert float(v.norm(dim=-1).max()) <= math.pi + 1e-9
    torch.testing.assert_close(S3.distance(x, y), S3.distance(y, x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(S3.diff(x, -y), v, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [0.0, 1e-9, 1e-5, 9.9e-5, 1.1e-4, 1e-3, 1.0, 3.0])
def test_logarithm_and_exponential_are_inverse_at_every_size_and_differentiable_at_zero(size):
    v = size * torch.nn.functional.normalize(randn(5, 3), dim=-1)
    v.requires_grad_(True)
    back = quaternion_log(quaternion_exp(v))
    torch.testing.assert_close(back, v, rtol=1e-10, atol=1e-15)
    (slope,) = torch.autograd.grad(back.sum(), v)
    torch.testing.assert_close(slope, torch.ones_like(v), rtol=1e-6, atol=1e-6)


def test_the_inverse_of_a_rotation_undoes_it():
    q = rotations(5)
    one = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64).expand(5, 3, 4)
    torch.testing.assert_close(multiply(q, conjugate(q)), one, rtol=0, atol=1e-14)


def test_random_rotations_are_uniform_and_keyed_by_row():
    draws = Draws(row_seeds(0, 20000))
    q = S3.random(torch.empty(20000, 4, dtype=torch.float64), draws, "q")
    torch.testing.assert_close(q.norm(dim=-1), torch.ones(20000, dtype=torch.float64))
    # of the uniform law on the sphere: E q = 0, E q q^T = 1 / 4; standard errors 3.5e-3 and 2e-3
    assert float(q.mean(0).abs().max()) < 4 * 3.5e-3
    assert float((q.T @ q / 20000 - torch.eye(4) / 4).abs().max()) < 4 * 2e-3
    part = S3.random(torch.empty(3, 4, dtype=torch.float64), draws.select(slice(5, 8)), "q")
    assert torch.equal(part, q[5:8])


@given(seed=seeds)
def test_a_product_is_its_factors(seed):
    space = Product({"x": Euclidean(), "q": S3})
    a = {"x": randn(2, 3, seed=seed), "q": rotations(2, seed)}
    b = {"x": randn(2, 3, seed=seed + 1), "q": rotations(2, seed + 1)}
    v = space.diff(a, b)
    arrived = space.move(a, v)
    torch.testing.assert_close(arrived["x"], b["x"], rtol=1e-14, atol=1e-14)
    assert float(S3.distance(arrived["q"], b["q"]).max()) < 1e-6
    squares = Euclidean().distance(a["x"], b["x"]) ** 2 + S3.distance(a["q"], b["q"]) ** 2
    torch.testing.assert_close(space.distance(a, b), squares.sqrt(), rtol=1e-12, atol=0)
    assert torch.equal(space.transport(a, b, v)["x"], v["x"])


def test_points_and_tangents_of_a_wrong_shape_are_refused():
    with pytest.raises(ShapeError, match=r"four numbers \(w, x, y, z\) on the last axis, got shape \(2, 3\)"):
        S3.diff(randn(2, 3), randn(2, 3))
    with pytest.raises(ShapeError, match=r"three numbers on the last axis, got shape \(2, 4\)"):
        S3.move(randn(2, 4), randn(2, 4))
    with pytest.raises(OptionError, match="at least one space"):
        Product({})
    with pytest.raises(ShapeError, match=r"has the parts \['x'\], the state has a tensor"):
        Product({"x": Euclidean()}).move(randn(2), {"x": randn(2)})
