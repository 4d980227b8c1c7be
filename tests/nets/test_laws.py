"""What every network obeys: one table, one set of laws."""

import json

import pytest
import torch

from rheos.core.config import dump, load
from rheos.core.errors import ConditionError, TimeError
from rheos.nets import EDM, MLP, Conditions, Net, UNet

ROUNDING = 1e-12  # float64 sums in another order


def test_the_configuration_is_json_and_rebuilds_the_network(case):
    net = case.make()
    assert json.loads(json.dumps(net.config)) == net.config
    again = type(net)(**json.loads(json.dumps(net.config)))
    assert again.config == net.config
    assert again.conditions == net.conditions
    again.load_state_dict(net.state_dict())  # strict: same names, same shapes


def test_a_description_builds_the_network_without_its_class(case):
    net = case.make()
    again = load(json.loads(json.dumps(dump(net))))
    assert type(again) is type(net)
    assert again.config == net.config


def test_permuting_rows_permutes_outputs_and_splitting_them_changes_nothing(case, awake, batch):
    net = awake(case.make())
    x, t, cond = batch(net, case.shape, rows=5)
    out = net(x, t, **cond)
    order = torch.tensor([3, 0, 4, 2, 1])
    permuted = net(x[order], t[order], **{n: v[order] for n, v in cond.items()})
    torch.testing.assert_close(permuted, out[order], rtol=0, atol=ROUNDING)
    parts = [net(x[i : i + 2], t[i : i + 2], **{n: v[i : i + 2] for n, v in cond.items()}) for i in (0, 2, 4)]
    torch.testing.assert_close(torch.cat(parts), out, rtol=0, atol=ROUNDING)
    assert out.std() > 0.01  # or the comparison would say nothing


def test_a_batch_mixing_null_and_real_conditions_equals_separate_calls(case, awake, batch):
    net = awake(case.make())
    x, t, cond = batch(net, case.shape, rows=4)
    null = {n: net.null(n, 4).expand_as(v) for n, v in cond.items()}
    mask = torch.tensor([True, False, True, False])
    mixed = {n: torch.where(mask.reshape(-1, *[1] * (v.ndim - 1)), v, null[n]) for n, v in cond.items()}
    out = net(x, t, **mixed)
    real, unreal = net(x, t, **cond), net(x, t, **null)
    torch.testing.assert_close(out[mask], real[mask], rtol=0, atol=ROUNDING)
    torch.testing.assert_close(out[~mask], unreal[~mask], rtol=0, atol=ROUNDING)
    if cond:
        assert (real - unreal).abs().amax(list(range(1, out.ndim))).min() > 1e-3


def test_each_condition_and_the_time_change_the_output(case, awake, batch):
    net = awake(case.make())
    x, t, cond = batch(net, case.shape)
    out = net(x, t, **cond)
    assert (net(x, 1 - t, **cond) - out).abs().max() > 1e-4
    for name in cond:
        other = {**cond, name: net.null(name, len(x))}
        assert (net(x, t, **other) - out).abs().max() > 1e-4, name


def test_every_parameter_takes_part(case, awake, batch):
    net = awake(case.make())
    x, t, cond = batch(net, case.shape, rows=6)
    net(x, t, **cond).square().sum().backward()
    idle = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not idle


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_output_has_the_dtype_of_the_network_and_short_types_stay_close(case, awake, batch, dtype):
    net = awake(case.make())
    x, t, cond = batch(net, case.shape, rows=8)
    exact = net(x, t, **cond)
    net = net.to(dtype)
    cast = {n: v.to(dtype) if v.is_floating_point() else v for n, v in cond.items()}
    for clock in (torch.float32, torch.float64):
        out = net(x.to(dtype), t.to(clock), **cast)
        assert out.dtype == dtype
        assert out.shape == exact.shape
        error = (out.double() - exact).norm() / exact.norm()
        assert error < {torch.float32: 1e-4, torch.float64: 1e-4, torch.bfloat16: 0.1}[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_null_values_are_of_the_networks_dtype_and_may_be_given_back(case, dtype):
    net = case.make().to(dtype)
    null = {name: net.null(name, 3) for name in net.conditions}
    assert all(len(v) == 3 and v.dtype == (torch.int64 if n == "label" else dtype) for n, v in null.items())
    assert net(torch.zeros(3, *case.shape, dtype=dtype), torch.rand(3), **null).shape == (3, *case.shape)


def test_unknown_and_missing_conditions_are_refused_by_name(case, batch):
    net = case.make()
    x, t, cond = batch(net, case.shape, dtype=torch.float32)
    with pytest.raises(ConditionError, match=r"Unknown condition 'lable'\. This network takes: "):
        net(x, t, **cond, lable=torch.zeros(3))
    with pytest.raises(ConditionError, match=r"Unknown condition 'lable'"):
        net.null("lable", 3)
    for name in cond:
        with pytest.raises(ConditionError, match=rf"Condition {name} is missing.*net\.null\('{name}', rows\)"):
            net(x, t, **{n: v for n, v in cond.items() if n != name})


def test_misshapen_conditions_are_refused_with_both_shapes(case, batch):
    net = case.make()
    x, t, cond = batch(net, case.shape, dtype=torch.float32)
    for name, value in cond.items():
        wrong = value[:2] if name == "label" else value[:, :0]
        with pytest.raises(ConditionError, match=rf"{name} must be .*\(3, ?.*\), got .*"):
            net(x, t, **{**cond, name: wrong})
        with pytest.raises(ConditionError, match=rf"{name} must be .*, got torch\.(float32|int64)"):
            net(x, t, **{**cond, name: value.float() if name == "label" else value.long()})


@pytest.mark.parametrize(
    "t",
    [torch.rand(()), torch.rand(2), torch.rand(3, 1), torch.zeros(3, dtype=torch.int64), torch.rand(3).bfloat16()],
    ids=lambda t: f"{t.dtype} {tuple(t.shape)}",
)
def test_times_are_one_float32_or_float64_number_a_row(case, batch, t):
    net = case.make()
    x, _, cond = batch(net, case.shape, dtype=torch.float32)
    with pytest.raises(TimeError, match=r"one float32 or float64 time a row, shape \(3,\), got"):
        net(x, t, **cond)


def test_networks_of_pictures_start_at_zero_and_dense_ones_do_not(case, batch):
    net = case.make()
    x, t, cond = batch(net, case.shape, dtype=torch.float32)
    assert bool(net(x, t, **cond).any()) == isinstance(net, MLP)


def test_taps_meet_every_attention_in_the_declared_order_and_bystanders_change_nothing(case, awake, batch):
    net = awake(case.make())
    x, t, cond = batch(net, case.shape)
    met = []

    def tap(name, q, k, v, inner):
        met.append(name)
        assert q.shape[:2] == k.shape[:2] == v.shape[:2]
        return inner(q, k, v)

    out = net(x, t, **cond, taps=(tap,))
    assert tuple(met) == net.attentions
    assert torch.equal(out, net(x, t, **cond))


def test_keys_and_values_given_twice_leave_the_output_as_it_is(case, awake, batch):
    net = awake(case.make())
    x, t, cond = batch(net, case.shape)

    def doubled(name, q, k, v, inner):
        return inner(q, torch.cat((k, k), 2), torch.cat((v, v), 2))

    torch.testing.assert_close(net(x, t, **cond, taps=(doubled,)), net(x, t, **cond), rtol=0, atol=ROUNDING)


def test_the_derivative_along_a_direction_is_that_of_finite_differences(case, awake, batch):
    net = awake(case.make())
    x, t, cond = batch(net, case.shape)
    t = 0.2 + 0.6 * t
    dx, dt = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype), torch.ones_like(t)
    value, slope = torch.func.jvp(lambda a, b: net(a, b, **cond), (x, t), (dx, dt))
    h = 1e-5  # the error of a central difference is h^2, that of rounding 1e-16 / h
    with torch.no_grad():
        central = (net(x + h * dx, t + h * dt, **cond) - net(x - h * dx, t - h * dt, **cond)) / (2 * h)
    torch.testing.assert_close(value, net(x, t, **cond), rtol=0, atol=ROUNDING)
    torch.testing.assert_close(slope, central, rtol=1e-5, atol=1e-5 * float(central.abs().max()))
    assert slope.abs().max() > 1e-3


def test_vmap_and_grad_compose_with_jvp(case, awake, batch):
    net = awake(case.make())
    x, t, cond = batch(net, case.shape)

    def energy(one, time, rest):
        return net(one[None], time[None], **{n: v[None] for n, v in rest.items()}).square().sum()

    by_rows = torch.func.vmap(torch.func.grad(energy), in_dims=(0, 0, 0))(x, t, cond)
    z = x.clone().requires_grad_()
    (whole,) = torch.autograd.grad(net(z, t, **cond).square().sum(), z)
    torch.testing.assert_close(by_rows, whole, rtol=1e-9, atol=1e-10)

    def gradient(z):
        return torch.func.grad(lambda a: net(a, t, **cond).square().sum())(z)

    _, curvature = torch.func.jvp(gradient, (x,), (torch.ones_like(x),))
    h = 1e-5
    central = ((gradient(x + h) - gradient(x - h)) / (2 * h)).detach()
    torch.testing.assert_close(curvature, central, rtol=1e-4, atol=1e-5 * float(central.abs().max()))


@pytest.mark.parametrize("case", ["mlp of pictures", "unet", "dit", "edm"], indirect=True)
def test_the_whole_network_compiles_into_one_graph(case, awake, batch, compiling):
    net = awake(case.make(), dtype=torch.float32)
    x, t, cond = batch(net, case.shape, dtype=torch.float32)
    t = t.float()
    fast = compiling(net)
    torch.testing.assert_close(fast(x, t, **cond), net(x, t, **cond), rtol=1e-4, atol=1e-5)


def test_a_network_without_parameters_still_says_what_null_is():
    class Still(Net):
        def forward(self, x, t, *, taps=(), **cond):
            self.check(x, t, cond)
            return torch.zeros_like(x)

    assert Still({}, Conditions(classes=2)).null("label", 2).tolist() == [2, 2]
    assert Still({}).attentions == ()


def test_wrapping_keeps_the_conditions_and_the_null_values():
    inner = UNet(1, width=8, multipliers=(1, 2), heads=2, classes=4, concat=2)
    net = EDM(inner, "vp")
    assert net.conditions == {"label", "concat"}
    assert net.null("concat", 2).shape == (2, 2, 1, 1)
