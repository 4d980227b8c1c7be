import math

import pytest
import torch

from rheos.core.draws import Draws, row_seeds
from rheos.core.errors import ConditionError, OptionError, ShapeError, UnknownOptionError
from rheos.core.sources import Dataset, FromCondition, FromSeed, FromSpace, Gaussian, Uniform, source
from rheos.core.spaces import Euclidean, UnitQuaternion

N = 4000
ROWS = torch.arange(30, dtype=torch.float32).reshape(10, 3)
SOURCES = [Gaussian(), Gaussian(2.0), Uniform(), Dataset(ROWS), FromSpace(Euclidean()), FromCondition("c")]
named = pytest.mark.parametrize("law", SOURCES, ids=lambda s: type(s).__name__)


@named
def test_a_part_of_a_batch_is_drawn_as_in_the_whole(law):
    draws, cond = Draws(row_seeds(0, 12)), {"c": torch.randn(12, 3)}
    whole = law(torch.empty(12, 3), cond, draws)
    index = torch.tensor([7, 2])
    assert torch.equal(law(torch.empty(2, 3), {"c": cond["c"][index]}, draws.select(index)), whole[index])


@named
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_source_takes_shape_and_dtype_from_the_data(law, dtype):
    x = law(torch.empty(5, 3, dtype=dtype), {"c": torch.zeros(5, 3)}, Draws(row_seeds(0, 5)))
    assert x.shape == (5, 3)
    assert x.dtype == dtype


@pytest.mark.parametrize("law", [Gaussian(), Uniform(), FromSpace(Euclidean())], ids=repr)
def test_the_parts_of_a_dict_are_drawn_apart(law):
    like = {"a": torch.empty(N, 1), "b": torch.empty(N, 1)}
    x = law(like, {}, Draws(row_seeds(0, N)))
    correlation = torch.corrcoef(torch.cat((x["a"], x["b"]), 1).T)[0, 1]
    assert abs(float(correlation)) < 4 / math.sqrt(N)


def test_moments_are_those_of_the_law():
    like, draws = torch.empty(N, 4, dtype=torch.float64), Draws(row_seeds(1, N))
    error = 4 / math.sqrt(4 * N)
    normal, uniform = Gaussian(3.0)(like, {}, draws), Uniform(-1.0, 3.0)(like, {}, draws)
    assert float(normal.mean()) == pytest.approx(0, abs=3 * error)
    assert float(normal.var()) == pytest.approx(9, rel=2 * error)
    assert float(uniform.mean()) == pytest.approx(1, abs=1.2 * error)
    assert float(uniform.var()) == pytest.approx(16 / 12, rel=error)
    assert float(uniform.min()) > -1
    assert float(uniform.max()) < 3


def test_a_data_set_gives_each_of_its_rows_equally_often():
    x = Dataset(ROWS)(torch.empty(N, 3), {}, Draws(row_seeds(0, N)))
    counts = torch.bincount((x[:, 0] / 3).long(), minlength=10)
    assert torch.equal(x, ROWS[(x[:, 0] / 3).long()])
    chi2 = float(((counts - N / 10).square() / (N / 10)).sum())
    assert chi2 < 27.9  # 0.999 quantile at 9 degrees of freedom


def test_a_dict_data_set_keeps_its_parts_together():
    data = {"a": torch.arange(10.0)[:, None], "b": torch.arange(10.0)[:, None] * 2}
    x = Dataset(data)({k: torch.empty(20, 1) for k in data}, {}, Draws(row_seeds(0, 20)))
    assert torch.equal(x["b"], 2 * x["a"])


def test_only_the_standard_normal_law_has_scores():
    assert Gaussian().gaussian
    assert FromSpace(Euclidean()).gaussian
    others = [Gaussian(2.0), Uniform(), Dataset(ROWS), FromCondition("c"), FromSpace(UnitQuaternion())]
    assert not any(s.gaussian for s in others)


def test_a_space_gives_points_on_itself():
    q = FromSpace(UnitQuaternion())(torch.empty(6, 2, 4, dtype=torch.float64), {}, Draws(row_seeds(0, 6)))
    assert torch.allclose(q.norm(dim=-1), torch.ones(6, 2, dtype=torch.float64))


def test_a_condition_column_must_be_there_and_fit():
    law, draws = FromCondition("low"), Draws(torch.arange(2))
    column = torch.randn(2, 3)
    assert torch.equal(law(torch.empty(2, 3), {"low": column}, draws), column)
    assert law.consumes == ("low",)
    assert FromCondition("low", keep=True).consumes == Gaussian().consumes == ()
    with pytest.raises(ConditionError, match="condition 'low', which the batch lacks; it has: label"):
        law(torch.empty(2, 3), {"label": column}, draws)
    with pytest.raises(ShapeError, match=r"shape \(2, 3\), the data \(2, 4\)"):
        law(torch.empty(2, 4), {"low": column}, draws)
    with pytest.raises(ShapeError, match=r"parts \['a', 'b'\]"):
        law({"a": torch.empty(2, 3), "b": torch.empty(2, 3)}, {"low": column}, draws)


def test_values_out_of_range_are_refused():
    with pytest.raises(OptionError, match="std must be positive and finite, got 0"):
        Gaussian(0.0)
    with pytest.raises(OptionError, match=r"finite low < high, got 1\.0 and 1\.0"):
        Uniform(1.0, 1.0)
    with pytest.raises(OptionError, match="at least one row"):
        Dataset(torch.empty(0, 3))
    with pytest.raises(ShapeError, match=r"Source rows have shape \(3,\), data rows \(2,\)"):
        Dataset(ROWS)(torch.empty(4, 2), {}, Draws(torch.arange(4)))
    with pytest.raises(OptionError, match="Draws of 4 rows asked for a source of 5 rows"):
        Uniform()(torch.empty(5, 2), {}, Draws(torch.arange(4)))


def test_sources_are_found_by_name():
    assert source("gaussian") == Gaussian()
    assert source("uniform") == Uniform()
    own = Dataset(ROWS)
    assert source(own) is own
    with pytest.raises(UnknownOptionError, match="did you mean 'gaussian'"):
        source("gausian")


def test_a_seed_brings_back_the_noise_that_draw_begins_with_whatever_rows_stand_beside_it():
    seed = torch.tensor([3, 2**52, 7])
    like = torch.empty(3, 2, 4)
    whole = FromSeed("row")(like, {"row": seed}, Draws(torch.arange(3)))
    assert torch.equal(whole, Draws(seed).normal(like, "source"))
    back = FromSeed("row")(like[:2], {"row": seed[[2, 0]]}, Draws(torch.arange(5, 7)))
    assert torch.equal(back, whole[[2, 0]])
    assert FromSeed("row").consumes == ("row",)
    assert not FromSeed().gaussian  # the noise belongs to its row


def test_a_column_that_holds_no_seeds_is_refused():
    like, draws = torch.empty(2, 3), Draws(torch.arange(2))
    with pytest.raises(ConditionError, match="the seed 'seed', which the batch lacks; it has: label"):
        FromSeed()(like, {"label": torch.zeros(2)}, draws)
    with pytest.raises(ConditionError, match=r"must be int64 \(2,\), got torch.float32"):
        FromSeed()(like, {"seed": torch.zeros(2)}, draws)
