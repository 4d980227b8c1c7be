import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rheos.core import (
    AffinePath,
    Field,
    GaussianMixtureField,
    GeodesicPath,
    JointPath,
    Query,
    Reply,
    Routed,
    UnitQuaternion,
    merge,
    spread,
)
from rheos.core.errors import ConditionError, OptionError, SourceNotGaussianError, TimeError, UnknownOptionError
from rheos.core.paths import KINDS
from rheos.core.routed import Wrapped
from rheos.core.state import map_state
from rheos.nets import UNet
from strategies import SCHEDULES, batches, mixture, randn, times, untyped


class Head(nn.Module):
    """A network that answers with the truth about a mixture, as one kind of prediction; it notes what it was given."""

    def __init__(self, truth, kind, dtype=torch.float64):
        super().__init__()
        self.truth, self.kind = truth, kind
        self.weight = nn.Parameter(torch.zeros(1, dtype=dtype))
        self.seen = []

    def forward(self, x, t):
        self.seen.append((x.dtype, t.dtype, tuple(t.shape)))
        return self.truth.answer(Query(x, t.double(), (t, t), {}, self.kind)).value


class Labelled(nn.Module):
    """x times the label; the null label is 1."""

    conditions = frozenset({"label"})

    def forward(self, x, t, label):
        return x * label[:, None].to(x)

    def null(self, name, rows):
        return torch.ones(rows)


class Remembers(Field):
    """Counts its answers in a memory a row."""

    def memory(self, x):
        return torch.zeros(len(x))

    def answer(self, q):
        return Reply(q.x + q.memory[:, None].to(q.x), q.memory + 1)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("predicts", KINDS)
def test_whatever_the_head_predicts_the_field_says_the_truth(schedule, predicts):
    path = AffinePath(SCHEDULES[schedule])
    truth = mixture(path)
    field = Field(Head(truth, predicts), path, predicts)
    x = randn(5, 2)
    for t in (0.05, 0.5, 0.9, torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9]).double()):
        scale = float(x.abs().max())
        for kind, ask in (("velocity", field), ("data", field.data), ("noise", field.noise), ("score", field.score)):
            expected = truth.answer(Query(x, t, (t, t), {}, kind)).value
            torch.testing.assert_close(ask(x, t), expected, rtol=1e-8, atol=1e-9 * scale)


@pytest.mark.parametrize(
    ("dtype", "clock"),
    [(torch.float32, torch.float32), (torch.float64, torch.float64), (torch.bfloat16, torch.float32)],
)
def test_times_are_float64_until_the_door_and_never_bfloat16(dtype, clock):
    net = Head(mixture(), "velocity", dtype)
    field, x = Field(net), randn(4, 2)
    for t in (0.3, torch.tensor(0.3), torch.full((4,), 0.3)):
        value = field(x, t)
        assert value.dtype == torch.float64
    assert net.seen == [(dtype, clock, (4,))] * 3
    assert field.dtype == clock


def test_a_moved_field_knows_its_new_dtype():
    field = Field(nn.Linear(2, 2)).double()
    assert field.dtype == torch.float64
    field = nn.Sequential(Field(Head(mixture(), "velocity", torch.float32))).double()[0]
    field(randn(2, 2), 0.5)
    assert field.net.seen == [(torch.float64, torch.float64, (2,))]


@given(x=batches(), t=times)
def test_a_number_and_a_clock_a_row_are_one_time(x, t):
    field = Field(Head(GaussianMixtureField([[0.5] * x[0].numel()], [0.7]), "data"), predicts="data")
    torch.testing.assert_close(
        field(x, t), field(x, torch.full((len(x),), t, dtype=torch.float64)), rtol=1e-12, atol=1e-12
    )


def test_an_absent_condition_takes_its_null_value():
    field, x = Field(Labelled()), randn(3, 2)
    assert torch.equal(field(x, 0.5), x)
    assert torch.equal(field(x, 0.5, label=torch.full((3,), 2.0)), 2 * x)
    assert field.null({"label": torch.zeros(3)})["label"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (
            lambda f, x: f(x, 0.5, lable=torch.ones(3)),
            ConditionError,
            "Unknown condition lable; this network takes: label",
        ),
        (lambda f, x: Field(nn.Identity())(x, 0.5, label=x), ConditionError, "takes: none"),
        (lambda f, x: f(x, 1.5), TimeError, r"lie in \[0, 1\], got 1.5. t = 0 is noise"),
        pytest.param(lambda f, x: f(x, 500), TimeError, "got 500", marks=untyped),
        (lambda f, x: f(x, float("nan")), TimeError, "got nan"),
        (lambda f, x: f(x, torch.tensor([1, 2, 3])), TimeError, "got dtype torch.int64. Divide a step index"),
        (lambda f, x: f(x, torch.tensor([0.1, 0.2])), TimeError, r"shape \(3,\), got \(2,\)"),
        (lambda f, x: f(x, torch.tensor([0.1, 0.2, 1.2])), TimeError, "values from 0.1.* to 1.2"),
        (lambda f, x: f(x, {"a": 0.5}), TimeError, r"given for \['a'\], the state has a tensor"),
        (lambda f, x: Field(nn.Identity(), gaussian=False).score(x, 0.5), SourceNotGaussianError, "gaussian=False"),
        pytest.param(
            lambda f, x: Field(nn.Identity(), predicts="eps"),
            UnknownOptionError,
            "predicts 'eps' is unknown",
            marks=untyped,
        ),
        (lambda f, x: Field(nn.Identity(), shift=0.0), OptionError, "shift must be positive, got 0"),
        (lambda f, x: Field(nn.Identity(), "liner"), UnknownOptionError, "mean 'linear'"),
        (
            lambda f, x: Field(nn.Identity(), GeodesicPath(UnitQuaternion()), "noise"),
            UnknownOptionError,
            "geodesic path",
        ),
        (
            lambda f, x: Field(Nameless()).null({"label": x}),
            ConditionError,
            "no null value for 'label'. Give it a method",
        ),
    ],
)
def test_what_a_field_cannot_answer_is_refused(make, error, said):
    with pytest.raises(error, match=said):
        make(Field(Labelled()), randn(3, 2))


class Nameless(nn.Module):
    conditions = frozenset({"label"})


@pytest.mark.parametrize(
    ("predicts", "path", "expected"),
    [
        ("velocity", "linear", (0.0, 1.0)),
        ("data", "linear", (0.0, 1 - 1e-5)),
        ("noise", "gvp", (1e-3, 1.0)),
        ("score", "linear", (1e-3, 1 - 1e-3)),
        ("velocity", "vp", (0.0, 1 - 1e-5)),
        ("velocity", JointPath({"a": AffinePath("vp")}), (0.0, 1 - 1e-5)),
    ],
)
def test_a_field_knows_where_its_velocity_is_finite(predicts, path, expected):
    assert Field(nn.Identity(), path, predicts).finite == expected


# --- queries that share a call ----------------------------------------------------------------------------------------


def query(rows, t, seed, **more):
    return Query(randn(rows, 2, seed=seed), t, (t, 1.0), {"label": torch.full((rows,), float(seed))}, **more)


@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4), same=st.booleans())
def test_merged_queries_are_answered_as_single_ones(sizes, same):
    field = mixture(labels=True)
    parts = [
        query(n, 0.5 if same else torch.full((n,), 0.1 + 0.2 * k).double() if k % 2 else 0.1 + 0.2 * k, k)
        for k, n in enumerate(sizes)
    ]
    parts = [q._replace(cond={"label": q.cond["label"].long() % 3}) for q in parts]
    whole = merge(parts)
    assert isinstance(whole.t, float) == (same or len(parts) == 1)
    for reply, q in zip(spread(field.answer(whole), parts), parts, strict=True):
        torch.testing.assert_close(reply.value, field.answer(q).value, rtol=1e-13, atol=1e-13)


def test_merged_branches_keep_their_names_behind_the_number_of_their_query():
    plain = query(2, 0.3, 1)
    guided = query(4, 0.5, 2, branches=(((), 2), (("null",), 2)))
    whole = merge([plain, guided])
    assert whole.branches == (((0,), 2), ((1,), 2), ((1, "null"), 2))
    assert whole.t.tolist() == [0.3] * 2 + [0.5] * 4
    assert whole.span[1] == 1.0


def test_memory_travels_with_its_rows():
    field = Remembers(nn.Identity())
    parts = [query(n, 0.5, n, memory=torch.full((n,), float(n))) for n in (1, 2)]
    for reply, q in zip(spread(field.answer(merge(parts)), parts), parts, strict=True):
        assert torch.equal(reply.value, field.answer(q).value)
        assert torch.equal(reply.memory, q.memory + 1)


@pytest.mark.parametrize(
    "other",
    [
        {"kind": "data"},
        {"grad": True},
        {"cond": {}},
        {"x": torch.zeros(1, 3)},
        {"x": torch.zeros(1, 2)},  # float32 beside float64
        {"t": torch.zeros(1, 2)},
        {"memory": torch.zeros(1)},
    ],
    ids=["kind", "grad", "conditions", "shape", "dtype", "clocks", "memory"],
)
def test_queries_that_do_not_fit_are_not_merged(other):
    with pytest.raises(OptionError, match="Only queries of one kind"):
        merge([query(1, 0.5, 0), query(1, 0.5, 1)._replace(**other)])


def test_nothing_cannot_be_merged():
    with pytest.raises(OptionError, match="at least one query"):
        merge([])


# --- fields around fields ---------------------------------------------------------------------------------------------


class Counts(Field):
    """Answers a constant and counts its calls."""

    def __init__(self, value):
        super().__init__(nn.Identity())
        self.value, self.calls = value, 0

    def answer(self, q):
        self.calls += 1
        return Reply(torch.full_like(q.x, self.value))


def test_a_routed_field_asks_each_network_once_and_keeps_the_order_of_branches():
    strong, weak = Counts(1.0), Counts(2.0)
    field = Routed(strong, weak=weak)
    names = ((), ("weak",), ("null",), ("null", "weak"))
    q = Query(randn(8, 1), 0.5, (0.5, 1.0), {}, branches=tuple((n, 2) for n in names))
    assert field.answer(q).value.flatten().tolist() == [1, 1, 2, 2, 1, 1, 2, 2]
    assert (strong.calls, weak.calls) == (1, 1)
    assert field.answer(q._replace(branches=())).value.flatten().tolist() == [1] * 8
    assert (strong.calls, weak.calls) == (2, 1)


def test_a_routed_field_serves_guided_and_plain_requests_in_one_merged_query():
    field = Routed(Counts(1.0), weak=Counts(2.0))
    plain = Query(randn(2, 1), 0.3, (0.3, 1.0), {})
    guided = Query(randn(2, 1), 0.5, (0.5, 1.0), {}, branches=(((), 1), (("weak",), 1)))
    replies = spread(field.answer(merge([plain, guided])), [plain, guided])
    assert [r.value.flatten().tolist() for r in replies] == [[1, 1], [1, 2]]


def test_a_wrapped_field_is_the_inner_one_in_everything():
    inner = mixture("gvp", labels=True)
    field, x = Wrapped(inner), randn(3, 2)
    label = torch.tensor([0, 1, 2])
    assert torch.equal(field(x, 0.4, label=label), inner(x, 0.4, label=label))
    assert torch.equal(field(x, 0.4), inner(x, 0.4))
    assert torch.equal(field.null({"label": label})["label"], inner.null({"label": label})["label"])
    assert (field.finite, field.conditions, field.path) == (inner.finite, inner.conditions, inner.path)
    assert (field.shape, field.dtype, field.remembers) == (inner.shape, inner.dtype, False)
    memory = Wrapped(Remembers(nn.Identity()))
    assert memory.remembers
    assert memory.memory(x).tolist() == [0, 0, 0]


def test_fields_on_different_paths_or_with_different_conditions_are_not_mixed():
    with pytest.raises(OptionError, match=r"'weak' lives on .*GVP.*Move it: field.on\(path\)"):
        Routed(mixture(), weak=mixture("gvp"))
    with pytest.raises(OptionError, match=r"'weak' takes the conditions \['label'\], the main one \[\]"):
        Routed(mixture(), weak=mixture(labels=True))
    assert Routed(mixture(), weak=Field(nn.Identity(), predicts="data")).finite == (0.0, 1 - 1e-5)


def test_a_field_prints_what_it_is():
    assert "predicts='data'" in repr(Field(nn.Identity(), predicts="data"))


def test_a_dict_state_flows_through_one_network():
    class Swap(nn.Module):
        def forward(self, x, t):
            return {"a": x["b"] * t[:, None], "b": x["a"]}

    field = Field(Swap(), JointPath({"a": AffinePath(), "b": AffinePath("gvp")}))
    x = {"a": randn(2, 3, seed=1), "b": randn(2, 3, seed=2)}
    v = field(x, 0.5)
    torch.testing.assert_close(v["a"], 0.5 * x["b"])
    data = field.data(x, 0.5)
    expected = {n: field.path.paths[n].convert(v[n], x[n], 0.5, "velocity", "data") for n in "ab"}
    assert map_state(torch.sub, data, expected)["b"].abs().max() == 0


def test_labels_that_the_network_does_not_have_are_refused_before_it_is_asked():
    field = Field(UNet(channels=1, classes=10, width=8))
    x = torch.zeros(2, 1, 8, 8)
    for label, said in (([1, 12], "got 12"), ([-1, 3], "got -1")):
        with pytest.raises(ConditionError, match=rf"label must lie in 0 .. 9, {said}"):
            field(x, 0.5, label=torch.tensor(label))
    assert field(x, 0.5, label=torch.tensor([3, 10])).shape == x.shape  # 10 is the null label


def test_one_time_in_a_tensor_serves_all_rows():
    field = Field(UNet(channels=1, width=8))
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(field(x, torch.tensor([0.5])), field(x, 0.5))


def test_a_network_may_ask_for_exact_times_and_keep_conditions_in_the_null_branch():
    class Own(nn.Module):
        conditions = frozenset({"size", "text"})
        kept = frozenset({"size"})
        exact_times = True

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def null(self, name, rows):
            return torch.zeros(rows, 2)

        def forward(self, x, t, **cond):
            return x * t[:, None]

    field, x = Field(Own()), torch.ones(2, 1)
    given = {"size": torch.ones(2, 2), "text": torch.ones(2, 2)}
    assert field.dtype == torch.float32
    for t in (0.1, torch.tensor([0.1, 0.2])):
        assert field.door(t, x).dtype == torch.float64
    assert torch.equal(field.null(given)["size"], given["size"])
    assert not field.null(given)["text"].any()
