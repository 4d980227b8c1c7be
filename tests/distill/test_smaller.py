"""Smaller networks of the same kind: sizes are shares, and what cannot shrink is refused."""

import pytest
import torch
from torch import nn

from rheos import core
from rheos.core.errors import OptionError, UnknownOptionError
from rheos.distill import Recipe, Slimming, Smaller, sizes, slimflow
from rheos.nets import MLP, DiT, UNet
from rheos.nets.count import parameters
from rheos.train import Options

NETS = {
    "mlp": (MLP(3, hidden=64, depth=4, classes=3), "hidden", "depth", (3,)),
    "unet": (UNet(2, width=16, multipliers=(1, 2), blocks=2, attention=(-1,), heads=4, classes=3), "width", "blocks",
             (2, 4, 4)),
    "dit": (DiT(2, (4, 4), dim=48, depth=4, heads=6, classes=3), "dim", "depth", (2, 4, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_width_and_depth_are_shares_of_the_large_network(name):
    net, width, depth, shape = NETS[name]
    small = Smaller(width=0.5, depth=0.5)(net)
    assert small.config == {**net.config, width: net.config[width] // 2, depth: net.config[depth] // 2}
    out = core.Field(small)(torch.randn(2, *shape), 0.3, label=torch.tensor([0, 2]))
    assert out.shape == (2, *shape)
    thin = Smaller(width=1e-3)(net)  # as narrow as its heads allow
    assert parameters(thin) < parameters(small)


def test_a_network_may_say_itself_how_it_shrinks():
    class Own(nn.Module):
        def __init__(self, n: int) -> None:
            super().__init__()
            self.layer = nn.Linear(n, n)

        def smaller(self, how: Smaller) -> "Own":
            return Own(int(self.layer.in_features * how.width))

    assert Smaller(width=0.25)(Own(8)).layer.in_features == 2
    with pytest.raises(OptionError, match="leave Own as large as it was"):
        Smaller(width=1.0, depth=0.5)(Own(8))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 0.0}, r"shares in \(0, 1\]"),
        ({"depth": 1.5}, r"shares in \(0, 1\]"),
        ({"width": 1.0}, "not both 1"),
        ({"width": 0.5, "begin": "blocks"}, "same width alone"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(options, words):
    with pytest.raises(OptionError, match=words):
        Smaller(**options)
    with pytest.raises(UnknownOptionError, match="begin 'old' is unknown"):
        Smaller(begin="old")  # type: ignore[arg-type]


def test_what_has_no_known_sizes_or_hands_on_no_blocks_is_refused():
    with pytest.raises(OptionError, match="sizes of a Linear are not known"):
        Smaller()(nn.Linear(2, 2))
    with pytest.raises(OptionError, match="hands no blocks on"):
        Smaller(1.0, 0.5, "blocks")(NETS["mlp"][0])
    with pytest.raises(OptionError, match="leave MLP as large as it was"):
        Smaller(0.9)(MLP(2, hidden=4))


def test_slimflow_makes_its_student_of_the_teachers_network():
    teacher = core.Field(MLP(2, hidden=32, depth=2), shape=(2,))
    how = Slimming(pairs=32, recipe=Recipe(steps=2, solver="euler"), steps=1, distil=1)
    run = slimflow(teacher, Smaller(0.25), how=how, options=Options(batch=8, ema=0.0, warmup=0), progress=False)
    assert run.field.net.config["hidden"] == 8
    report = sizes(teacher, run.field)
    assert report.shrunk < 0.2
    assert report.student.macs < report.teacher.macs / 5
