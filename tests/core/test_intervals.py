"""Laws of intervals: ordered pairs, with the share of s = t and the marginals that they promise."""

import pytest
import torch

from rheos.core import Deployed, Draws, Dyadic, LogitNormal, TwoLaws, TwoTimes, row_seeds
from rheos.core.errors import OptionError, TimeError
from rheos.core.intervals import apart, intervals
from rheos.core.times import times

N = 20_000
LAWS = {
    "two times": TwoTimes("uniform", 0.5),
    "dyadic": Dyadic(4, 0.5),
    "two laws": TwoLaws("uniform", LogitNormal(1.0), 0.5),
    "deployed": Deployed("uniform", share=0.5, equal=0.5),
}


@pytest.mark.parametrize("name", LAWS)
def test_pairs_are_ordered_inside_the_unit_interval_and_half_of_them_are_equal(name):
    pair = LAWS[name].sample(N, Draws(row_seeds(0, N)))
    assert pair.dtype == torch.float64
    assert float(pair.min()) >= 0
    assert float(pair.max()) <= 1
    assert bool((pair[:, 0] <= pair[:, 1]).all())
    share = float((pair[:, 0] == pair[:, 1]).double().mean())
    assert abs(share - 0.5) < 4 * 0.5 / N**0.5  # four standard errors


@pytest.mark.parametrize("name", ["two times", "two laws", "deployed"])
def test_the_part_with_a_density_has_the_mass_of_the_rest(name):
    law = LAWS[name]
    edges = torch.linspace(0, 1, 401, dtype=torch.float64)
    mid = (edges[1:] + edges[:-1]) / 2
    grid = torch.stack(torch.meshgrid(mid, mid, indexing="ij"), -1)
    mass = float(law.density(grid).sum()) / 400**2
    expected = 0.5 * (0.5 if name == "deployed" else 1.0)
    assert abs(mass - expected) < 5e-3  # the diagonal's cells count whole


def test_dyadic_intervals_have_their_length_at_multiples_of_it():
    pair = Dyadic(4, 0.0).sample(1000, Draws(row_seeds(0, 1000)))
    length = pair[:, 1] - pair[:, 0]
    assert set(length.tolist()) == {1.0, 0.5, 0.25, 0.125}
    assert bool((pair[:, 0] % length == 0).all())
    assert not bool(Dyadic(4).density(pair).any())


def test_two_laws_follow_the_first_on_the_diagonal():
    pair = TwoLaws(LogitNormal(2.0), "uniform", 1.0).sample(N, Draws(row_seeds(0, N)))
    z = torch.logit(pair[:, 0])
    assert abs(float(z.mean()) - 2.0) < 4 / N**0.5
    assert torch.equal(pair[:, 0], pair[:, 1])


def test_deployed_intervals_come_in_their_share_of_the_rows_that_are_apart():
    law = Deployed("uniform", ((0.0, 1.0), (0.0, 0.5)), share=0.5, equal=0.0)
    pair = law.sample(N, Draws(row_seeds(0, N)))
    whole = float((pair == torch.tensor([0.0, 1.0])).all(1).double().mean())
    assert abs(whole - 0.25) < 4 * (0.25 * 0.75 / N) ** 0.5


def test_every_part_of_a_batch_has_its_share_of_equal_rows_and_the_mask_says_which():
    for law in LAWS.values():
        pair, far = apart(law, 64, Draws(row_seeds(0, 64)))
        assert torch.equal(far, pair[:, 0] < pair[:, 1])
        assert [int(far[k : k + 16].sum()) for k in range(0, 64, 16)] == [8] * 4
    _, far = apart(TwoTimes("uniform", 0.75), 8, Draws(row_seeds(0, 8)))
    assert far.tolist() == [True, False, False, False] * 2
    _, far = apart(TwoTimes("uniform", 1.0), 4, Draws(row_seeds(0, 4)))
    assert not bool(far.any())


def test_a_part_of_the_rows_has_the_times_that_it_has_in_the_whole():
    draws = Draws(row_seeds(0, 8))
    whole, _ = apart(TwoTimes("uniform", 0.5), 8, draws)
    part, _ = apart(TwoTimes("uniform", 0.5), 4, draws.select(slice(0, 4)))
    assert torch.equal(whole[:4], part)


def test_numbers_out_of_range_are_refused():
    with pytest.raises(OptionError, match="levels must be at least 1, got 0"):
        Dyadic(0)
    with pytest.raises(OptionError, match=r"equal is a share of rows in \[0, 1\], got 2"):
        Dyadic(equal=2.0)
    with pytest.raises(OptionError, match=r"share is a share of rows in \[0, 1\], got -1"):
        Deployed(share=-1.0)
    with pytest.raises(OptionError, match="steps needs at least one interval"):
        Deployed(steps=())
    with pytest.raises(TimeError, match=r"forwards inside \[0, 1\], got \(0.5, 0.5\)"):
        Deployed(steps=((0.0, 1.0), (0.5, 0.5)))
    with pytest.raises(OptionError, match="A flow map is trained on intervals"):
        intervals(times("uniform"))
