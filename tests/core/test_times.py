import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rheos.core import schedules
from rheos.core.base import TimeDistribution
from rheos.core.draws import Draws, row_seeds
from rheos.core.errors import OptionError, TimeError, UnknownOptionError
from rheos.core.times import (
    Antithetic,
    BetaTime,
    CosMap,
    EDMTime,
    LogitNormal,
    ModeTime,
    PerVariable,
    PiecewiseTime,
    ShiftedTime,
    Stratified,
    TwoTimes,
    UniformTime,
    UShape,
    shifted,
    times,
)

LAWS = [
    UniformTime(),
    LogitNormal(),
    LogitNormal(-0.7, 0.4),
    UShape(),
    UShape(1.0, clip=0.0),
    UShape(4.0, clip=0.05),
    EDMTime(),
    EDMTime(schedule="gvp"),
    EDMTime(schedule="vp"),
    EDMTime(schedule="edm"),
    EDMTime(mean=0.5, schedule="ve"),
    EDMTime(std=3.0, schedule=schedules.Linear(sigma_min=0.1)),
    ShiftedTime("uniform", 3.0),
    ShiftedTime(LogitNormal(), 0.3),
    ModeTime(),
    ModeTime(-0.6),
    CosMap(),
    BetaTime(2.0, 1.5),
    BetaTime(1.0, 3.0),
    PiecewiseTime((0.0, 0.2, 0.5, 1.0), (1.0, 0.0, 3.0)),
    Stratified("u-shape"),
    Antithetic("logit-normal"),
]
named = pytest.mark.parametrize("law", LAWS, ids=repr)
DENSE = 400_001
KNOTS = torch.linspace(0, 1, DENSE, dtype=torch.float64)


def distribution(law):
    """The distribution function on KNOTS, by the midpoint rule."""
    middle = 0.5 * (KNOTS[1:] + KNOTS[:-1])
    return torch.cat((torch.zeros(1, dtype=torch.float64), law.density(middle).cumsum(0) / (DENSE - 1)))


@named
def test_the_density_integrates_to_one(law):
    # U(4, clip=0.05) and the blocks jump between knots: an error of a density times a cell, 2e-5 at most
    assert float(distribution(law)[-1]) == pytest.approx(1.0, abs=3e-5)


@named
def test_the_density_is_one_over_the_slope_of_the_quantile(law):
    u = torch.linspace(0.013, 0.987, 61, dtype=torch.float64)
    h = 1e-6
    slope = (law.quantile(u + h) - law.quantile(u - h)) / (2 * h)
    assert torch.allclose(law.density(law.quantile(u)) * slope, torch.ones_like(u), rtol=1e-6)


@named
def test_the_density_vanishes_outside_and_is_finite_at_the_ends_of_the_unit_interval(law):
    assert not law.density(torch.tensor([-0.1, 1.1], dtype=torch.float64)).any()
    assert law.density(torch.tensor([0.0, 1.0])).isfinite().all()
    assert law.density(torch.tensor([0.5])).dtype == torch.float64


@named
def test_quantiles_increase_and_stay_inside_at_the_extremes_of_the_uniform_numbers(law):
    u = torch.cat(
        (torch.tensor([2.0**-54]), torch.linspace(1e-9, 1 - 1e-9, 999), torch.tensor([1 - 2.0**-53]))
    ).double()
    t = law.quantile(u)
    assert bool((t.diff() >= -1e-15).all())
    assert bool(((t >= 0) & (t <= 1)).all())
    assert t.dtype == torch.float64


@named
def test_samples_pass_kolmogorov_and_smirnov(law):
    n = 4000
    t = law.sample(n, Draws(row_seeds(5, n))).sort().values
    cell = t * (DENSE - 1)
    low = cell.floor().clamp(max=DENSE - 2).long()
    F = distribution(law)
    F = F[low] + (F[low + 1] - F[low]) * (cell - low)
    steps = torch.arange(n, dtype=torch.float64) / n
    distance = float(torch.maximum((F - steps).abs(), (F - steps - 1 / n).abs()).max())
    assert distance < 1.95 / math.sqrt(n)  # 0.001 level


@pytest.mark.parametrize("law", [law for law in LAWS if not isinstance(law, Stratified | Antithetic)], ids=repr)
def test_a_row_keeps_its_time_when_the_batch_is_cut(law):
    draws = Draws(row_seeds(0, 9))
    index = torch.tensor([6, 1])
    assert torch.equal(law.sample(2, draws.select(index)), law.sample(9, draws)[index])


@settings(max_examples=25, deadline=None, derandomize=True)
@given(n=st.integers(1, 200), seed=st.integers(0, 2**40))
def test_stratified_times_fall_one_into_each_stratum(n, seed):
    draws = Draws(row_seeds(seed, n))
    for law in (UniformTime(stratified=True), Stratified("uniform")):
        t = law.sample(n, draws)
        assert (t * n).floor().sort().values.tolist() == list(range(n))


def test_stratified_times_come_in_random_order_and_each_row_keeps_the_law():
    rows = torch.stack([UniformTime(True).sample(4, Draws.training(0, step, 4)) for step in range(2000)])
    assert float(rows[:, 0].mean()) == pytest.approx(0.5, abs=4 * math.sqrt(1 / 12 / 2000))
    assert float(rows[:, 0].var()) == pytest.approx(1 / 12, rel=0.1)


def test_stratified_times_have_less_variance_in_their_mean():
    means = [
        torch.stack([law.sample(64, Draws.training(1, step, 64)).mean() for step in range(200)]).var()
        for law in (UniformTime(True), UniformTime())
    ]
    assert means[0] < means[1] / 500  # n^-3 / 12 against n^-1 / 12: a factor of 4096


def test_shifting_keeps_the_strata():
    t = ShiftedTime(UniformTime(True), 3.0).sample(50, Draws(row_seeds(0, 50)))
    back = 3 * t / (1 - t + 3 * t)
    assert (back * 50).floor().sort().values.tolist() == list(range(50))


def test_antithetic_neighbours_mirror_each_other():
    t = Antithetic(LogitNormal()).sample(7, Draws(row_seeds(0, 7)))
    assert torch.allclose(t[0:6:2] + t[1:6:2], torch.ones(3, dtype=torch.float64), rtol=1e-12)
    assert torch.equal(t[6], LogitNormal().sample(7, Draws(row_seeds(0, 7)))[6])


def test_the_u_shape_has_the_values_of_its_card():
    law = UShape(4.0, clip=0.0)
    p = law.density(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    assert p.tolist() == pytest.approx([2.0746, 0.5514, 2.0746], abs=5e-5)
    assert float(p[0]) == pytest.approx(2 * (1 + math.exp(4)) / (math.exp(4) - 1), rel=1e-12)
    middle = 0.5 * (KNOTS[1:] + KNOTS[:-1])
    assert float((law.density(middle) * (middle - 0.5).square()).mean()) == pytest.approx(0.115671, abs=1e-6)
    assert torch.allclose(UShape(1e-6, clip=0.0).quantile(KNOTS), KNOTS, atol=1e-9)
    ends = UShape().quantile(torch.tensor([0.0, 1.0]))
    assert ends.tolist() == pytest.approx([1e-5, 1 - 1e-5], rel=1e-12)


def test_the_u_shape_is_the_flipped_exponential_of_the_paper():
    # t = ln(1 + u (e^a - 1)) / a, or 1 - t with probability one half
    u = torch.linspace(1e-6, 1 - 1e-6, 200_001, dtype=torch.float64)
    t = (1 + u * math.expm1(4)).log() / 4
    both = torch.cat((t, 1 - t)).sort().values
    want = UShape(4.0, clip=0.0).quantile((torch.arange(len(both), dtype=torch.float64) + 0.5) / len(both))
    assert (both - want).abs().max() < 1e-4


def test_edm_times_are_logit_normal_on_the_linear_schedule():
    u = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    assert torch.allclose(EDMTime(-1.2, 1.2).quantile(u), LogitNormal(1.2, 1.2).quantile(u), rtol=1e-12)
    assert torch.allclose(EDMTime(-1.2, 1.2).density(u), LogitNormal(1.2, 1.2).density(u), rtol=1e-10)


@pytest.mark.parametrize("name", ["linear", "gvp", "vp", "edm"])
def test_edm_times_have_log_normal_noise_on_every_schedule(name):
    law = EDMTime(schedule=name)
    u = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    log_noise = -torch.as_tensor(law.law.lam(law.quantile(u)))
    want = -1.2 - 1.2 * torch.special.ndtri(u)
    assert torch.allclose(log_noise, want, atol=1e-4)  # EDM's range cuts 1e-5 of the mass


def test_a_logit_normal_has_its_median_at_the_sigmoid_of_m_and_favours_data_for_positive_m():
    assert float(LogitNormal(0.8, 2.0).quantile(torch.tensor([0.5]))) == pytest.approx(1 / (1 + math.exp(-0.8)))


def test_shifts_compose_by_product_and_a_large_one_moves_towards_the_noise():
    u = torch.linspace(0.01, 0.99, 33, dtype=torch.float64)
    twice = ShiftedTime(ShiftedTime("uniform", 3.0), 2.0)
    assert torch.allclose(twice.quantile(u), ShiftedTime("uniform", 6.0).quantile(u), rtol=1e-12)
    assert float(ShiftedTime("uniform", 3.0).quantile(torch.tensor([0.5]))) == pytest.approx(0.25)


def test_any_law_can_be_shifted():
    draws, k = Draws(row_seeds(0, 64)), 3.0

    def by_hand(t):
        return t / (t + k * (1 - t))

    for law in (LogitNormal(), UniformTime(stratified=True), TwoTimes("u-shape", equal=0.5)):
        assert torch.allclose(shifted(law, k).sample(64, draws), by_hand(law.sample(64, draws)), rtol=1e-12)
        assert shifted(law, 1.0) is law
    both = PerVariable({"x": "uniform", "y": "mode"})
    have, want = (law.sample(64, draws) for law in (shifted(both, k), both))
    assert all(torch.allclose(have[name], by_hand(want[name]), rtol=1e-12) for name in "xy")

    class Own(TimeDistribution):
        def density(self, t):
            return t

        def sample(self, n, draws):
            return draws.uniform("own")

    with pytest.raises(OptionError, match=r"Own does not say how to shift its times by k=3\. Shift them inside"):
        shifted(Own(), k)


def test_the_cosine_map_matches_the_cosine_schedules_noise_levels():
    u = torch.linspace(0.01, 0.99, 33, dtype=torch.float64)
    noise = schedules.Linear().lam(CosMap().quantile(u))
    assert torch.allclose(noise, schedules.GVP().lam(u), rtol=1e-9, atol=1e-12)


def test_the_mode_law_peaks_in_the_middle_for_a_positive_s():
    middle, end = (ModeTime(s).density(torch.tensor([0.5, 0.999])) for s in (1.0, -0.5))
    assert float(middle[0]) == pytest.approx(1 / (2 - math.pi / 2))
    assert middle[0] > 1 > middle[1]
    assert end[0] < 1 < end[1]


def test_blocks_hold_their_masses_and_empty_ones_no_time():
    law = PiecewiseTime((0.0, 0.2, 0.5, 1.0), (1.0, 0.0, 3.0))
    t = law.quantile(torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64))
    assert int((t < 0.2).sum()) == 250
    assert int(((t > 0.2) & (t < 0.5)).sum()) == 0
    assert law.density(torch.tensor([0.1, 0.3, 0.7])).tolist() == pytest.approx([1.25, 0.0, 1.5])


def test_each_variable_has_an_independent_time_of_its_own_law():
    law, n = PerVariable({"x": "uniform", "y": LogitNormal(2.0)}), 2000
    t = law.sample(n, Draws(row_seeds(0, n)))
    assert abs(float(torch.corrcoef(torch.stack([t["x"], t["y"]]))[0, 1])) < 4 / math.sqrt(n)
    assert float(t["y"].median()) == pytest.approx(1 / (1 + math.exp(-2)), abs=0.02)
    assert torch.allclose(law.density(t), LogitNormal(2.0).density(t["y"]))


def test_two_times_are_ordered_and_have_twice_the_product_density():
    law, n = TwoTimes("uniform"), 4000
    s, t = law.sample(n, Draws(row_seeds(0, n))).T
    assert bool((s < t).all())
    assert float(s.mean()) == pytest.approx(1 / 3, abs=4 * math.sqrt(1 / 18 / n))
    assert float(t.mean()) == pytest.approx(2 / 3, abs=4 * math.sqrt(1 / 18 / n))
    grid = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    pairs = torch.stack(torch.meshgrid(grid, grid, indexing="ij"), -1)
    for inner in ("uniform", LogitNormal(0.5)):
        whole = float(TwoTimes(inner).density(pairs).mean())
        assert whole == pytest.approx(1.0, abs=0.01)  # the diagonal's cells count whole: one part in 400


def test_a_share_of_equal_times_follows_the_law_itself():
    n = 8000
    s, t = TwoTimes(UShape(), equal=0.75).sample(n, Draws(row_seeds(2, n))).T
    same = s == t
    assert float(same.double().mean()) == pytest.approx(0.75, abs=0.02)
    assert float(s[same].var()) == pytest.approx(0.115671, rel=0.05)
    assert torch.equal(*TwoTimes("uniform", equal=1.0).sample(5, Draws(torch.arange(5))).T)


def test_laws_are_found_by_name():
    for name in ("uniform", "stratified", "logit-normal", "u-shape", "edm", "mode", "cosmap"):
        assert times(name) in [*LAWS, UniformTime(stratified=True)]
    own = TwoTimes("uniform")
    assert times(own) is own
    with pytest.raises(UnknownOptionError, match="did you mean 'logit-normal'"):
        times("logit_normal")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: LogitNormal(std=0.0), OptionError, "std must be positive and finite, got 0"),
        (lambda: LogitNormal(mean=math.nan), OptionError, "mean must be finite, got nan"),
        (lambda: UShape(0.0), OptionError, r"a must lie in \(0, 700\), got 0.0. For a = 0 use UniformTime"),
        (lambda: UShape(clip=0.5), OptionError, r"clip must lie in \[0, 0.5\), got 0.5"),
        (lambda: EDMTime(std=-1.0), OptionError, "std must be positive"),
        (lambda: EDMTime(mean=500.0, std=0.1, schedule="edm"), OptionError, "no mass on the noise levels"),
        (lambda: ShiftedTime("uniform", 0.0), OptionError, "k must be positive"),
        (lambda: ModeTime(2.0), OptionError, r"s must lie in \[-1, 2 / \(pi - 2\)\]"),
        (lambda: BetaTime(1.0, math.inf), OptionError, "b must be positive and finite"),
        (lambda: PiecewiseTime((0.0, 0.5), (1.0,)), TimeError, r"edges must increase from 0 to 1, got \(0.0, 0.5\)"),
        (lambda: PiecewiseTime((0.0, 1.0), (0.0,)), OptionError, "1 blocks need as many masses >= 0, not all 0"),
        (lambda: PiecewiseTime((0.0, 1.0), (1.0, 2.0)), OptionError, r"got \(1.0, 2.0\)"),
        (lambda: PerVariable({}), OptionError, "at least one variable"),
        (lambda: TwoTimes("uniform", equal=1.5), OptionError, r"share of rows in \[0, 1\], got 1.5"),
        (lambda: UniformTime().sample(3, Draws(torch.arange(4))), OptionError, "3 times asked of draws of 4 rows"),
    ],
)
def test_values_out_of_range_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
