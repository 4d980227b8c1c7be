import torch

from rheos.claims import rfpp
from rheos.claims.teacher import bench
from rheos.core.premetrics import MSE, PseudoHuber, Timed, Total
from rheos.distill import Rectification


def test_the_configurations_are_those_of_the_card_each_one_thing_more_than_the_last():
    assert [name[0] for name in rfpp.CONFIGS] == list("ABCDEF")
    a, b, c, d, e, f = rfpp.CONFIGS.values()
    assert a == b == Rectification("l2_squared", a=0.0)
    assert (c.a, d.a, e.a, f.a) == (4.0,) * 4
    assert isinstance(c.premetric((1, 8, 8), (-1.0, 1.0)), MSE)
    assert isinstance(d.premetric((1, 8, 8), (-1.0, 1.0)), PseudoHuber)
    for config, inverse in ((e, False), (f, True)):
        law = config.premetric((1, 8, 8), (-1.0, 1.0))
        assert isinstance(law, Total)
        assert isinstance(law.terms[1], Timed) == inverse


def test_the_net_of_the_loss_is_not_the_net_of_the_distances():
    where = bench()
    eye, accuracy = rfpp.train_eye(where, 20)
    assert 0.2 < accuracy <= 1.0
    x = where.pixels[:4].reshape(4, 1, 8, 8)
    assert eye.features(x).shape[1] != where.net.features(x).shape[1] or not torch.allclose(
        eye.features(x), where.net.features(x)
    )
    assert not any(p.requires_grad for p in eye.parameters())


def test_a_tiny_run_measures_every_configuration_at_every_number_of_calls():
    found = rfpp.Found()
    where = bench()
    eye, accuracy = rfpp.train_eye(where, 5)
    size = rfpp.Size(teacher=5, student=4, pairs=64, samples=80)
    rfpp.measure(where, eye, size, 0, found, lambda line: None)
    names = {*rfpp.CONFIGS, "teacher", rfpp.CARD, rfpp.REAL}
    assert found.distances.keys() == {(n, k) for n in names for k in rfpp.CALLS} | {
        ("teacher", 50), ("F, new update", 4),
    }  # fmt: skip
    assert all(len(v) == 1 and v[0] > 0 for v in found.distances.values())
    assert found.ratio("F / F", rfpp.F, rfpp.F, 1, 1.0).value == 1.0
    assert all(isinstance(note, str) for note in rfpp._notes(found, where, size, accuracy))
    assert rfpp._picture(found)[:4] == b"\x89PNG"
