"""Symmetries of a teacher, and pairs that are moved together."""

import math

import pytest
import torch
from tests.strategies import randn

from rheos.core import AnnealedPairs, Draws, ExactOT, GaussianMixtureField, GivenPairs, config, row_seeds
from rheos.core.errors import ConditionError, OptionError, ShapeError
from rheos.distill import Flip, QuarterTurns, Together, equivariance_gap
from rheos.distill.groups import check_equivariant

SYMMETRIC = GaussianMixtureField(
    means=torch.tensor([[2.0, -1.0], [-1.0, 2.0]], dtype=torch.float64), stds=[0.4, 0.4], weights=[0.5, 0.5]
)
"""Mirrored to itself by exchanging the two coordinates."""
LOPSIDED = GaussianMixtureField(
    means=torch.tensor([[2.0, -1.0], [-1.0, -2.0]], dtype=torch.float64), stds=[0.4, 0.4], weights=[0.5, 0.5]
)


def flow(x):
    """Equivariant under any permutation of a row's elements."""
    return torch.sinh(x) + x.mean(-1, keepdim=True)


@pytest.mark.parametrize(
    ("group", "shape"), [(Flip(), (3,)), (Flip(-2), (1, 4, 3)), (QuarterTurns(), (2, 3, 3))], ids=repr
)
def test_elements_compose_to_the_identity_and_keep_the_numbers(group, shape):
    x = randn(5, *shape)
    assert torch.equal(group.act(x, 0), x)
    for k in range(1, group.order):
        moved = group.act(x, k)
        assert not torch.equal(moved, x)
        assert torch.equal(moved.flatten(1).sort().values, x.flatten(1).sort().values)
        for _ in range(group.order - 1):
            moved = group.act(moved, k)
        assert torch.equal(moved, x)


def test_pairs_of_an_equivariant_flow_are_closed_under_joint_moves_and_not_under_moves_of_one_side():
    x0 = randn(64, 3)
    moved = Together(Flip())(x0, flow(x0), {}, Draws(row_seeds(0, 64)))
    torch.testing.assert_close(moved.x1, flow(moved.x0), rtol=0, atol=1e-14)
    one_sided = (moved.x1 - flow(x0)).abs().amax(1)
    share = float((one_sided > 1e-6).double().mean())
    assert abs(share - 0.5) < 4 * math.sqrt(0.25 / 64)


def test_each_row_is_moved_by_its_own_element_equally_often():
    n = 4000
    x = torch.arange(4.0).reshape(1, 1, 2, 2).expand(n, 1, 2, 2).contiguous()
    corner = Together(QuarterTurns())(x, x, {}, Draws(row_seeds(3, n))).x0[:, 0, 0, 0]
    for value in range(4):
        assert abs(float((corner == value).double().mean()) - 0.25) < 4 * math.sqrt(3 / 16 / n)


def test_a_row_is_moved_alike_whatever_its_neighbours_and_named_conditions_move_too():
    x0, x1 = randn(10, 1, 4, 4), randn(10, 1, 4, 4, seed=1)
    cond = {"concat": x1 + 1, "label": torch.arange(10)}
    couple, draws = Together(Flip(), conditions=("concat",)), Draws(row_seeds(0, 10))
    whole = couple(x0, x1, cond, draws)
    assert torch.equal(whole.cond["concat"], whole.x1 + 1)
    assert torch.equal(whole.cond["label"], cond["label"])
    part = torch.tensor([8, 1])
    again = couple(x0[part], x1[part], {k: v[part] for k, v in cond.items()}, draws.select(part))
    assert torch.equal(again.x0, whole.x0[part])


def test_pairs_are_moved_first_and_annealed_then():
    x0 = randn(12, 3)
    draws = Draws.training(0, 5, 12)
    inner = AnnealedPairs("linear", over=10)
    both = Together(Flip(), inner)(x0, flow(x0), {}, draws)
    moved = Together(Flip(), GivenPairs())(x0, flow(x0), {}, draws)
    assert torch.equal(both.x0, inner(moved.x0, moved.x1, {}, draws).x0)
    assert torch.equal(both.x1, moved.x1)
    assert both.logs["beta"] == 0.5


def test_the_gap_is_nothing_for_a_symmetric_flow_and_about_one_for_unrelated_samples():
    assert equivariance_gap(SYMMETRIC, Flip()) < 1e-20
    assert 0.3 < equivariance_gap(LOPSIDED, Flip()) < 3
    assert check_equivariant(SYMMETRIC, Flip()) < 1e-20
    with pytest.raises(OptionError, match=r"not equivariant under Flip\(axis=-1\).*Leave the group out"):
        check_equivariant(LOPSIDED, Flip())


def test_a_conditional_teacher_is_asked_under_its_conditions():
    # each class sits on one side, so mirroring leads to the other class: no symmetry of the conditional flow
    sided = GaussianMixtureField([[2.0, -1.0], [-1.0, 2.0]], [0.4, 0.4], labels=[0, 1])
    label = torch.arange(40) % 2
    with pytest.raises(OptionError, match="not equivariant"):
        check_equivariant(sided, Flip(), {"label": label})


def test_it_is_written_and_read_as_plain_values():
    for couple in (Together(Flip(-2)), Together(QuarterTurns(), AnnealedPairs(0.5), ("concat",))):
        assert config.load(config.dump(couple)) == couple
    assert Together(Flip(), AnnealedPairs(1.0)).gaussian


def test_bad_options_say_what_came():
    with pytest.raises(OptionError, match="axis counts from the end"):
        Flip(1)
    with pytest.raises(OptionError, match="would re-couple data that come in pairs"):
        Together(Flip(), ExactOT())
    with pytest.raises(ConditionError, match="moves the condition 'concat'"):
        Together(Flip(), conditions=("concat",))(randn(2, 3), randn(2, 3), {}, Draws(row_seeds(0, 2)))
    with pytest.raises(ShapeError, match="square pictures"):
        QuarterTurns().act(randn(2, 1, 3, 4), 1)
    field = GaussianMixtureField([[0.0]], [1.0])
    field.shape = None
    with pytest.raises(OptionError, match="does not know the shape"):
        equivariance_gap(field, Flip())
