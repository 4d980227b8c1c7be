"""Flights under way are plain data: they can be joined, split, moved, saved, and share network calls."""

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from rheos.core import AffinePath, Field, JointPath, Reply, Steer, merge, spread
from rheos.core.errors import CheckpointError, OptionError, RunError, ShapeError
from rheos.core.state import map_state
from rheos.sample import CFG, DDIM, SDE, SOLVERS, Flight, Loop, UniPC, drive, join, load, save, solver, split
from strategies import mixture, randn

METHODS = {
    **{name: solver(name) for name in SOLVERS},
    "unipc-3": UniPC(order=3),
    "ddim eta": DDIM(eta=0.5),
    "sbdm": SDE(diffusion="sbdm"),
}
each = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
GRIDS = [(0.0, 0.3, 1.0), (0.0, 0.1, 0.25, 0.6, 0.8, 1.0), (0.0, 1.0), (0.2, 0.5, 0.7)]
EXACT = {"rtol": 2e-13, "atol": 2e-13}


def begun(loop, grids=GRIDS, rows=2):
    """One flight a grid, with labels and seeds of its own."""
    return [
        loop.begin(randn(rows, 2, seed=k), grid, {"label": (torch.arange(rows) + k) % 3}, torch.arange(rows) + 10 * k)
        for k, grid in enumerate(grids)
    ]


def ended(loop, field, flight):
    return drive(loop, field, flight)[0]


@each
@pytest.mark.parametrize("path", ["linear", "vp"])
def test_joined_flights_on_different_grids_end_where_single_ones_do(method, path):
    field = mixture(path, labels=True)
    loop = Loop(field, method)
    alone = [ended(loop, field, f).x for f in begun(loop)]
    together = split(ended(loop, field, join(begun(loop))), [2] * len(GRIDS))
    for a, f in zip(alone, together, strict=True):
        torch.testing.assert_close(f.x, a, **EXACT)
        assert f.finished


@each
def test_flights_that_agree_on_the_clock_keep_it_and_every_bit(method):
    field = mixture(labels=True)
    loop = Loop(field, method)
    both = join(begun(loop, GRIDS[:1] * 2))
    assert both.times == GRIDS[0]
    for part, single in zip(split(ended(loop, field, both), [2, 2]), begun(loop, GRIDS[:1] * 2), strict=True):
        torch.testing.assert_close(part.x, ended(loop, field, single).x, rtol=1e-14, atol=1e-14)


@each
def test_a_flight_resumes_bit_for_bit_from_a_file_written_at_any_evaluation(method, tmp_path):
    field = mixture(labels=True)
    loop = Loop(field, method, (CFG(1.7),))
    flight, k, file = begun(loop, GRIDS[:1])[0], 0, tmp_path / "flight"
    whole = ended(loop, field, flight).x
    with torch.no_grad():
        while (query := loop.ask(flight)) is not None:
            if k < 12 or k % 10 == 0:  # adaptive methods have many
                save(file, flight)
                assert torch.equal(ended(loop, field, load(file)).x, whole)
            flight, k = loop.tell(flight, query, field.answer(query)), k + 1
    save(file, flight)
    assert load(file).finished
    assert torch.equal(load(file).x, whole)


@each
@settings(max_examples=3)
@given(order=st.permutations(range(8)), when=st.integers(0, 3))
def test_splitting_in_the_middle_and_permuting_changes_no_row(method, order, when):
    field = mixture(labels=True)
    loop = Loop(field, method)
    alone = torch.cat([ended(loop, field, f).x for f in begun(loop)])
    flight, order = join(begun(loop)), torch.tensor(order)
    with torch.no_grad():
        for _ in range(when):
            query = loop.ask(flight)
            if query is None:
                break
            flight = loop.tell(flight, query, field.answer(query))
    first, second = split(flight, [order[:3], order[3:]])
    torch.testing.assert_close(ended(loop, field, first).x, alone[order[:3]], **EXACT)
    torch.testing.assert_close(ended(loop, field, second).x, alone[order[3:]], **EXACT)


def test_requests_of_different_solvers_at_different_times_share_network_calls():
    field = mixture(labels=True)
    calls = []
    names = ["euler", "heun", "rk4", "ab2", "midpoint", "sde", "dopri5"]
    loops = [Loop(field, solver(n), (CFG(2.0),) if n in ("heun", "ab2") else ()) for n in names]
    flights = [begun(loop, [GRIDS[k % 4]])[0] for k, loop in enumerate(loops)]
    alone = [ended(loop, field, f).x for loop, f in zip(loops, flights, strict=True)]
    with torch.no_grad():
        while True:
            asked = [(k, q) for k, (loop, f) in enumerate(zip(loops, flights, strict=True)) if (q := loop.ask(f))]
            if not asked:
                break
            calls.append(len(asked))
            queries = [q for _, q in asked]
            for (k, q), reply in zip(asked, spread(field.answer(merge(queries)), queries), strict=True):
                flights[k] = loops[k].tell(flights[k], q, reply)
    assert max(calls) == len(names)
    for f, x in zip(flights, alone, strict=True):
        torch.testing.assert_close(f.x, x, **EXACT)


@pytest.mark.parametrize("name", ["euler", "heun", "dpm++2m", "ddpm"])
def test_steers_with_different_numbers_fly_together(name):
    field = mixture(labels=True)
    alone, flights = [], []
    for k, scale in enumerate((1.0, 3.0, torch.tensor([0.0, 2.0]))):
        loop = Loop(field, solver(name), (CFG(scale, interval=(0.2, 0.9), zero_star=True, zero_steps=1), Ends()))
        flights.append(begun(loop, GRIDS[:3])[k])
        alone.append(ended(loop, field, flights[-1]).x)
    together = join(flights)
    assert together.steer[0]["scale"].tolist() == [1.0, 1.0, 3.0, 3.0, 0.0, 2.0]
    for f, x in zip(split(ended(loop, field, together), [2, 2, 2]), alone, strict=True):
        torch.testing.assert_close(f.x, x, **EXACT)


class Ends(Steer):
    """Marks a finished sample: doing so twice, or never, would show."""

    def end(self, view, x):
        return x + 100


@pytest.mark.parametrize("name", ["euler", "heun", "dopri5"])
def test_rows_that_end_early_are_finished_once_and_stay_there(name):
    field = mixture(labels=True)
    loop = Loop(field, solver(name), (Ends(),))
    alone = [ended(loop, field, f).x for f in begun(loop)]
    flight = join(begun(loop))
    left = {}
    with torch.no_grad():
        while (query := loop.ask(flight)) is not None:
            flight = loop.tell(flight, query, field.answer(query))
            for k, part in enumerate(split(flight, [2] * 4)):
                if part.finished:
                    assert loop.ask(part) is None
                    left.setdefault(k, part.x)
                    assert torch.equal(part.x, left[k])
    for k in range(4):
        torch.testing.assert_close(left[k], alone[k], **EXACT)


class Repeats(Steer):
    def rounds(self, view):
        return 2


@pytest.mark.parametrize("name", ["euler", "heun", "unipc", "dopri5"])
def test_repeated_intervals_fly_together(name):
    field = mixture(labels=True)
    loop = Loop(field, solver(name), (Repeats(), Ends()))
    alone = [ended(loop, field, f).x for f in begun(loop)]
    for f, x in zip(split(ended(loop, field, join(begun(loop))), [2] * 4), alone, strict=True):
        torch.testing.assert_close(f.x, x, **EXACT)


class Walker(Field):
    def memory(self, x):
        return torch.zeros(len(x), dtype=torch.float64)

    def answer(self, q):
        return Reply((q.memory + 1)[:, None] * torch.cos(q.x), q.memory + 1)


def test_the_fields_memory_is_joined_split_and_saved_with_its_rows(tmp_path):
    field = Walker(torch.nn.Identity())
    loop = Loop(field, solver("heun"))
    flights = [loop.begin(randn(2, 2, seed=k), g, {}, torch.arange(2)) for k, g in enumerate(GRIDS[:2])]
    alone = [ended(loop, field, f).x for f in flights]
    both = join(flights)
    with torch.no_grad():
        for _ in range(3):
            query = loop.ask(both)
            both = loop.tell(both, query, field.answer(query))
            save(tmp_path / "f", both)
            both = load(tmp_path / "f")
    assert set(both.memory) == {()}
    for f, x in zip(split(both, [2, 2]), alone, strict=True):
        torch.testing.assert_close(ended(loop, field, f).x, x, **EXACT)


def test_dict_states_fly_too():
    class Turn(torch.nn.Module):
        def forward(self, x, t):
            return {"a": -x["a"] * t[:, None], "b": x["b"].cos()}

    field = Field(Turn(), JointPath({"a": AffinePath(), "b": AffinePath("gvp")})).double()
    field._clock = torch.float64
    loop = Loop(field, solver("rk4"))
    starts = [{"a": randn(2, 1, seed=k), "b": randn(2, 3, seed=k)} for k in range(2)]
    flights = [loop.begin(x, g, {}, torch.arange(2)) for x, g in zip(starts, GRIDS, strict=False)]
    together = split(ended(loop, field, join(flights)), [2, 2])
    for f, whole in zip(flights, together, strict=True):
        gap = map_state(lambda a, b: (a - b).abs(), ended(loop, field, f).x, whole.x)
        assert max(float(g.max()) for g in gap.values()) < 1e-14


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(v, b[k]) for k, v in a.items())
    if isinstance(a, tuple):
        return type(a) is type(b) and len(a) == len(b) and all(same(p, q) for p, q in zip(a, b, strict=True))
    return type(a) is type(b) and (a == b or a != a)


def test_a_file_gives_back_what_was_put_in(tmp_path):
    whole = randn(2, 3)
    flight = Flight(
        (0.1, 1 / 3, 1.0), 1, 2, 0,
        {"x": whole[:, ::2], "h": float("inf"), "k": (), "last": None, "data": (whole, {"a": whole}), "stage": -1},
        ({"scale": 0.1, "flag": True, "name": "n"},), {"label": torch.tensor([1, 2])}, torch.tensor([3, 2**60]),
        {(): whole, ("null", 3): whole[0]}, {}, None,
    )  # fmt: skip
    save(tmp_path / "f", flight)
    assert same(load(tmp_path / "f"), flight)
    assert os.listdir(tmp_path) == ["f"]  # noqa: PTH208


def test_joining_one_flight_is_that_flight_and_splitting_undoes_joining():
    loop = Loop(mixture(labels=True), solver("dpm++2m"))
    flights = begun(loop)
    assert join(flights[:1]) is flights[0]
    parts = split(join(flights), [2] * 4)
    for part, f in zip(parts, flights, strict=True):
        assert torch.equal(part.x, f.x)
        assert torch.equal(part.seed, f.seed)
        assert part.n.tolist() == [f.n] * 2
        assert part.times[0, : f.n + 1].tolist() == list(f.times)


def advanced(loop, field, flight, calls):
    with torch.no_grad():
        for _ in range(calls):
            query = loop.ask(flight)
            flight = loop.tell(flight, query, field.answer(query))
    return flight


def test_flights_at_different_stages_are_to_merge_their_queries():
    field = mixture(labels=True)
    heun, multi = Loop(field, solver("heun")), Loop(field, solver("dpm++2m"))
    a, b = begun(heun, GRIDS[:2])
    with pytest.raises(
        OptionError, match=r"differ in solver\.(k|stage)\..*Merge their queries instead: rheos.core.merge"
    ):
        join([a, advanced(heun, field, b, 1)])
    c, d = begun(multi, GRIDS[:2])
    with pytest.raises(OptionError, match=r"differ in solver\.past"):
        join([c, advanced(multi, field, d, 1)])
    with pytest.raises(OptionError, match="differ in solver"):
        join([a, c])
    guided = Loop(field, solver("heun"), (CFG(2.0),))
    with pytest.raises(OptionError, match="differ in steer"):
        join([a, begun(guided, GRIDS[:1])[0]])
    with pytest.raises(OptionError, match="nothing to join"):
        join([])


def test_rows_of_different_shapes_and_wrong_sizes_are_refused():
    loop = Loop(mixture(labels=True), solver("euler"))
    a = begun(loop, GRIDS[:1])[0]
    b = loop.begin(randn(2, 3), GRIDS[1], a.cond, a.seed)
    with pytest.raises(ShapeError, match=r"solver\.x has the shapes \(2, 2\), \(2, 3\)"):
        join([a, b])
    for pieces in ([1], [2, 1], [0, 2], [-1, 3]):
        with pytest.raises(ShapeError, match="do not add up to the 2 rows"):
            split(a, pieces)


def test_what_is_no_flight_is_refused_and_nothing_half_written_is_left(tmp_path):
    loop = Loop(mixture(labels=True), solver("euler"))
    flight = begun(loop, GRIDS[:1])[0]
    with pytest.raises(RunError, match="There is no flight at"):
        load(tmp_path / "nothing")
    save_file({"x": torch.zeros(2)}, tmp_path / "foreign")
    with pytest.raises(CheckpointError, match="is not a flight: its format is None"):
        load(tmp_path / "foreign")
    save(tmp_path / "good", flight)
    whole = (tmp_path / "good").read_bytes()
    for length in (0, 5, 100, len(whole) - 1):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="truncated or damaged"):
            load(tmp_path / "cut")
    odd = flight._replace(steer=({"network": torch.nn.Identity()},))
    with pytest.raises(OptionError, match=r"plain data only, but flight\.5\.0\.network is a Identity"):
        save(tmp_path / "good", odd)
    assert (tmp_path / "good").read_bytes() == whole
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut", "foreign", "good"]
