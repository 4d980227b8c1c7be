"""Objects to plain JSON and back: nothing lost, nothing guessed, nothing executed."""

import inspect
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rheos import core, nets
from rheos.core import config
from rheos.core.base import Coupling, Premetric, Source, TimeDistribution
from rheos.core.errors import OptionError, UnknownOptionError
from rheos.core.paths import Path
from rheos.core.schedule import Schedule
from rheos.core.spaces import Space
from rheos.core.weights import Weight
from rheos.nets.base import Net

TABLE = core.Discrete((0.9, 0.5, 0.1))


def examples() -> dict[str, Any]:
    """One object of each kind, with values that are not the defaults."""
    from rheos import adapters, train
    from rheos.data.recipe import Recipe as DataRecipe
    from rheos.distill import (
        AtTimes,
        BellmanSearch,
        ChordMatching,
        Consistency,
        Distillation,
        Flip,
        FlowMapLoss,
        MixedPairs,
        QuarterTurns,
        SegmentRecipe,
        StackedVelocity,
        Together,
    )
    from rheos.distill.pairs import Recipe as PairRecipe
    from rheos.distill.retimed import OffPole
    from rheos.metrics import LPIPS, FeatureMap
    from rheos.train import (
        Autoencoding,
        ConcatCondition,
        CrossFlow,
        CrossNet,
        Options,
        Sampling,
        SourceLosses,
        symmflow,
    )

    uniform = core.UniformTime()
    return {
        "Adaptive": core.Adaptive(0.75, 1e-3),
        "AffinePath": core.AffinePath(core.VP(0.2, 10.0), sigma_data=0.7),
        "AnnealedPairs": core.AnnealedPairs("cosine", over=30),
        "Antithetic": core.Antithetic("logit-normal"),
        "AtTimes": AtTimes((0.0, 0.5)),
        "Autoencoder": nets.Autoencoder(1, factor=2, width=8, multipliers=(1, 2)),
        "Autoencoding": Autoencoding(0.01, "l1"),
        "BellmanSearch": BellmanSearch(20, 30, "digits", "heun", 2.0, 1, 10, "edm"),
        "BetaTime": core.BetaTime(2.0, 3.0),
        "ChordMatching": ChordMatching((0.0, 0.4, 1.0), 2, "huber"),
        "Consistency": Consistency(delta=0.02, phases=2),
        "ConcatCondition": ConcatCondition(
            nets.UNet(2, width=8, multipliers=(1, 2), concat=6),
            known=2,
            maps=5,
            codes=3,
            factor=2,
            train_rescaler=False,
        ),
        "CosMap": core.CosMap(),
        "CrossFlow": CrossFlow(
            "words", "mask", core.FlowMatching(dropout=0.0), SourceLosses(kl=0.0), 0.2, detach_source=True, shown="x"
        ),
        "CrossNet": CrossNet(
            nets.MLP(4, hidden=4, classes=1),
            nets.VectorEncoder(3, (4,), hidden=4),
            tower=nets.VectorTower(4),
            spread=0.1,
        ),
        "DataRecipe": DataRecipe("digits", 16, True, range=(0.0, 1.0), split=("train", 0.2, 1), conditions=("label",)),
        "Deployed": core.Deployed("logit-normal", ((0.0, 1.0),), 0.5, 0.25),
        "Derivative": core.Derivative("fd", 0.02, "rms"),
        "DiT": nets.DiT(1, (4, 8), dim=8, depth=1, classes=3),
        "DiTCall": adapters.DiTCall(),
        "Discrete": TABLE,
        "Distillation": Distillation(Together(QuarterTurns()), AtTimes((0.0, 1.0)), "l1", source=core.FromSeed()),
        "Dyadic": core.Dyadic(3, 0.5),
        "EDM": core.EDM(0.01, 50.0, 5.0),
        "EDMNet": nets.EDM(nets.MLP(2, hidden=4, depth=1), "gvp", 0.4),
        "EDMTime": core.EDMTime(std=0.9, schedule="vp"),
        "EDMWeight": core.EDMWeight(),
        "Euclidean": core.Euclidean(),
        "ExactOT": core.ExactOT(1.5),
        "FeatureNet": nets.FeatureNet(1, 10, 16, width=8),
        "Field": core.Field(
            nets.MLP(2, hidden=4), "gvp", "data", shift=3.0, gaussian=False, shape=(2,), value_range=(-1.0, 1.0)
        ),
        "Flip": Flip(-2),
        "FlowMap": core.FlowMap(nets.MLP(2, hidden=4), "gvp"),
        "FlowMapField": core.FlowMapField(
            nets.TwoTimeAdapter(nets.MLP(2, hidden=4, time_features=4)), "gvp", "data", shape=(2,), baked=2.0
        ),
        "FlowMapLoss": FlowMapLoss("imf", core.TwoTimes("uniform", 0.5), guidance=(2.0, 0.5)),
        "FlowMatching": core.FlowMatching(core.Gibbs(0.3), "stratified", "huber", "snr", core.Uniform(), "data", 0.2),
        "FeatureMap": FeatureMap("digits"),
        "FluxCall": adapters.FluxCall(2.0),
        "FromCondition": core.FromCondition("x0", keep=True),
        "FromSeed": core.FromSeed("row"),
        "FromSpace": core.FromSpace(core.UnitQuaternion()),
        "GVP": core.GVP(),
        "Gaussian": core.Gaussian(2.0),
        "GeodesicPath": core.GeodesicPath(core.UnitQuaternion()),
        "Gibbs": core.Gibbs(0.5, "sqeuclidean", "ema", 1, 0.4, -2.5, True),
        "GivenPairs": core.GivenPairs(),
        "Huber": core.Huber(0.5, {"picture": 1.0, "mask": 2.0}),
        "Independent": core.Independent(),
        "JointPath": core.JointPath({"a": core.AffinePath("gvp"), "b": core.GeodesicPath(core.UnitQuaternion())}),
        "L1": core.L1(),
        "LPIPS": LPIPS("alex", 64, (0.0, 1.0)),
        "Likelihood": core.Likelihood(),
        "Linear": core.Linear(0.1),
        "LoRA": nets.LoRA(nets.MLP(2, hidden=4), 2, 3.0, ("first",)),
        "LogitNormal": core.LogitNormal(-1.0, 2.0),
        "MLP": nets.MLP(2, hidden=4, depth=2, residual=True, time_features=4),
        "MSE": core.MSE({"a": 1.0}),
        "Matched": core.Matched("velocity", "data"),
        "MinSNR": core.MinSNR(3.0),
        "MixedPairs": MixedPairs("runs/real", 0.25),
        "ModeTime": core.ModeTime(0.5),
        "MultiRes": nets.MultiRes(1, 8, stages=2, dim=8, width=8, depth=1, blocks=1, heads=2, classes=1),
        "NoisyPath": core.NoisyPath(0.3, "tube"),
        "OnPath": core.Field(nets.MLP(2, hidden=4), "vp", "noise", shape=(2,)).on("linear"),
        "OffPole": OffPole(
            core.Field(nets.MLP(2, hidden=4), "vp", "noise", shape=(2,)), core.AffinePath("linear"), 0.1
        ),
        "One": core.One(),
        "Options": Options(batch=8, betas=(0.8, 0.9), trackers=("jsonl", "tensorboard")),
        "Sampling": Sampling(steps=2, solver="renoise"),
        "PairRecipe": PairRecipe(steps=3, grid="edm", noise="seed", store="uint8"),
        "PerCondition": core.PerCondition(core.ExactOT(), "label"),
        "PerVariable": core.PerVariable({"a": uniform, "b": core.LogitNormal()}),
        "PictureEncoder": nets.PictureEncoder(1, (4, 4), (2,), width=8),
        "PictureTower": nets.PictureTower(1, 4, 3, patch=2, dim=8, depth=1, heads=2),
        "PiecewiseTime": core.PiecewiseTime((0.0, 0.5, 1.0), (3.0, 1.0)),
        "Product": core.Product({"x": core.Euclidean(), "q": core.UnitQuaternion()}),
        "PseudoHuber": core.PseudoHuber(0.03, per_element=True),
        "QuarterTurns": QuarterTurns(),
        "RMSE": core.RMSE(),
        "SD3Call": adapters.SD3Call(),
        "SNR": core.SNR(),
        "Semantics": adapters.Semantics(core.AffinePath("linear"), "velocity", -1.0, dynamic=(1.0, 2.0, 3.0, 4.0)),
        "StepTable": adapters.StepTable((0.9, 0.5, 0.1)),
        "ShiftedTime": core.ShiftedTime("uniform", 3.0),
        "SegmentRecipe": SegmentRecipe(10, "heun", 2.0, 1, 8, "edm"),
        "Sigmoid": core.Sigmoid(1.0),
        "Sinkhorn": core.Sinkhorn(0.1, 50, 0.01, "permutation"),
        "SlicedScoreMatching": core.SlicedScoreMatching(),
        "SourceLosses": SourceLosses(0.5, 0.2, "square", 0.1, "label"),
        "StackedVelocity": StackedVelocity(nets.MLP(2, hidden=4)),
        "Stratified": core.Stratified("u-shape"),
        "SubVP": core.SubVP(0.2, 9.0),
        "TextAutoencoder": nets.TextAutoencoder(3, 4, latent=5, width=8),
        "Timed": core.Timed(core.MSE(), 1.0, -1.0),
        "TokenCondition": train.TokenCondition(
            nets.DiT(1, 4, dim=8, depth=1, tokens=3, token_dim=2 + train.TokenCondition.extra()), masked=True
        ),
        "TokenEncoder": nets.TokenEncoder(
            2, 8, (1, 2, 2), compress=4, depth=1, reductions=1, heads=2, feedforward=4, head="conv"
        ),
        "Together": Together(Flip(), core.AnnealedPairs(0.5), ("concat",)),
        "Total": core.Total((core.MSE(), core.Timed(core.L1(), noise=1.0))),
        "TransportField": core.TransportField(nets.MLP(2, hidden=4), "gvp", "noise", shift=3.0, baked=4.0),
        "TwoLaws": core.TwoLaws("uniform", "logit-normal", 0.5),
        "TwoTimeAdapter": nets.TwoTimeAdapter(nets.MLP(2, hidden=4, time_features=4), features=6),
        "TwoTimes": core.TwoTimes("logit-normal", 0.25),
        "UNet": nets.UNet(1, width=8, multipliers=(1, 2), attention=(), classes=3),
        "Upsampled": nets.Upsampled((1, 4, 4), 0.2, "nearest"),
        "UNetCall": adapters.UNetCall(),
        "UNetConditionCall": adapters.UNetConditionCall(),
        "UShape": core.UShape(2.0, 0.01),
        "Unbalanced": core.Unbalanced(0.1, 2.0, condition="label", beta=0.5),
        "Uniform": core.Uniform(0.0, 2.0),
        "UniformTime": core.UniformTime(stratified=True),
        "UnitQuaternion": core.UnitQuaternion(),
        "VE": core.VE(0.02, 40.0),
        "VectorEncoder": nets.VectorEncoder(3, (2, 2), hidden=4, depth=2),
        "VectorTower": nets.VectorTower(3, 2, hidden=4, depth=2),
        "VP": core.VP(0.2, 10.0),
        "WanCall": adapters.WanCall(),
        "Coded": symmflow.Coded(train.ScalarCode(3, "map"), "kind"),
        "OneHotCode": train.OneHotCode(4, "map", spacing=3.0, size=(2, 2)),
        "PaletteCode": train.PaletteCode(2, "mask", colours=((0, 0, 0), (9, 9, 9)), ignore=7),
        "PairNet": train.PairNet(nets.MLP(5, hidden=4), train.OneHotCode(2), join="flat", copies=True, time_scale=9.0),
        "ScalarCode": train.ScalarCode(3, "map", pool="mode", beta=2.0, grain="map"),
        "SymmFlow": train.SymmFlow("mask", 0.7, "u-shape", "image", core.L1()),
        "VariationalBound": core.VariationalBound(0.1),
    }


OPEN = {"Dataset", "Halving", "LatentCode", "Perceptual", "Tilted", "TransportLoss"}
"""Kinds that hold tensors or functions: a part of them is custom."""
FOREIGN = {"DiffusersNet", "LatentField"}
"""Kinds that need diffusers: tests/adapters/test_flow_maps.py."""


def test_every_kind_survives_the_trip_through_json():
    made = examples()
    assert made.keys() | OPEN | FOREIGN == config.KINDS.keys()
    for kind, before in made.items():
        plain = config.dump(before)
        after = config.load(json.loads(json.dumps(plain, allow_nan=False)))
        assert plain["kind"] == kind
        assert type(after) is type(before)
        assert config.dump(after) == plain
        if not isinstance(before, nn.Module):
            assert after == before


def _leaves(module: str, base: type) -> Iterator[type]:
    for _, cls in inspect.getmembers(import_module(module), inspect.isclass):
        if issubclass(cls, base) and not inspect.isabstract(cls) and not cls.__name__.startswith("_"):
            yield cls


def test_every_part_of_the_core_and_every_network_is_in_the_table():
    known = set(config.KINDS.values())
    bases = {
        "rheos.core.schedules": Schedule, "rheos.core.tables": Schedule,
        "rheos.core.paths": Path, "rheos.core.spaces": Space,
        "rheos.core.couplings": Coupling, "rheos.core.gibbs": Coupling, "rheos.core.sources": Source,
        "rheos.core.times": TimeDistribution, "rheos.core.premetrics": Premetric, "rheos.core.weights": Weight,
        "rheos.nets": Net,
    }  # fmt: skip
    for module, base in bases.items():
        for cls in _leaves(module, base):
            assert f"{cls.__module__}:{cls.__qualname__}" in known, cls


@settings(max_examples=25, deadline=None, derandomize=True)
@given(mean=st.floats(-1e6, 1e6), std=st.floats(1e-6, 1e6))
def test_numbers_come_back_to_the_last_bit(mean, std):
    law = core.LogitNormal(mean, std)
    assert config.load(json.loads(json.dumps(config.dump(law)))) == law


def test_names_stand_for_parts_in_a_file_written_by_hand():
    written = {"kind": "FlowMatching", "coupling": {"kind": "Gibbs", "epsilon": 1}, "times": "logit-normal"}
    made = config.load(written)
    assert made == core.FlowMatching(core.Gibbs(1.0), "logit-normal")
    assert isinstance(made.coupling.epsilon, float)  # JSON does not tell 1 from 1.0


def test_a_networks_conditions_and_weights_shapes_come_back():
    net = nets.EDM(nets.MLP(3, hidden=5, classes=4), "edm", 0.3)  # a network EDM around the schedule EDM
    again = config.load(config.dump(net))
    assert again.conditions == net.conditions
    assert {n: v.shape for n, v in again.state_dict().items()} == {n: v.shape for n, v in net.state_dict().items()}


def test_an_unknown_kind_is_refused_with_near_names():
    with pytest.raises(UnknownOptionError, match=r"coupling\.kind 'Gibs' is unknown; did you mean 'Gibbs'"):
        config.load({"kind": "Gibs"}, name="coupling")


def test_an_unknown_option_is_refused_with_near_names():
    with pytest.raises(UnknownOptionError, match=r"objective\.coupling: the option 'epsilom'.*'epsilon'"):
        config.load({"kind": "FlowMatching", "coupling": {"kind": "Gibbs", "epsilom": 1.0}}, name="objective")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "FlowMatching", "coupling": {"kind": "Gibbs", "epsilon": []}},
         r"objective\.coupling\.epsilon must be a number or 'auto', got \[\]"),
        ({"kind": "FlowMatching", "dropout": True}, r"objective\.dropout must be a number, got True"),
        ({"kind": "FlowMatching", "coupling": {"kind": "Linear"}}, r"objective\.coupling must.*got the kind 'Linear'"),
        ({"kind": "FlowMatching", "coupling": {"kind": "PseudoHuber"}}, r"objective\.coupling.*needs 'c'"),
        ({"kind": "FlowMatching", "dropout": 2.0}, r"objective: dropout must lie in \[0, 1\]"),
        ({"kind": "Gibbs", "half_steps": 1.5}, r"objective\.half_steps must be a whole number, got 1.5"),
        ({"kind": "Gibbs", "normalize": "all"}, r"objective\.normalize must be 'batch' or 'none' or 'ema'"),
        ({"kind": "PiecewiseTime", "edges": [0, 1], "weights": "ab"}, r"objective\.weights must be a list \(a number"),
        ({"kind": "UNet", "channels": "three"}, r"objective\.channels must be a whole number, got 'three'"),
        ({"kind": "Huber", "parts": {"a": "b"}}, r"objective\.parts must be a mapping to a number or null"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_one_sentence_that_names_its_place(wrong, message):
    with pytest.raises(OptionError, match=message):
        config.load(wrong, name="objective")


def test_the_wanted_class_is_checked():
    with pytest.raises(OptionError, match=r"field must be of the kind Field, got the kind 'Linear'"):
        config.load({"kind": "Linear"}, expect=core.Field, name="field")


def test_numbers_that_json_lacks_are_refused():
    with pytest.raises(OptionError, match=r"options\.lr is inf"):
        config.dump({"lr": float("inf")}, "options")


def test_a_mapping_that_looks_like_an_object_is_refused():
    with pytest.raises(OptionError, match="keys must be text other than 'kind'"):
        config.dump({"kind": 1})


@dataclass(frozen=True)
class Twice(Premetric):
    """A premetric of a user."""

    factor: float = 2.0

    def __call__(self, prediction, target, context):
        return self.factor * (prediction - target).square().mean(1)


class Tiny(nn.Module):
    """A network of a user, without a configuration."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x, t):
        return self.layer(x)


NAME = f"{__name__}:Twice"


def test_a_users_own_class_is_named_in_the_file_and_given_by_the_reader():
    plain = config.dump(core.FlowMatching(premetric=Twice(3.0)))
    assert plain["premetric"] == {"kind": "custom", "class": NAME, "config": {"factor": 3.0}}
    with pytest.raises(OptionError, match=r"objective\.premetric is .*Twice, which the file only names.*custom="):
        config.load(plain, name="objective")
    for given_ in (Twice, Twice(3.0)):
        assert config.load(plain, custom={NAME: given_}).premetric == Twice(3.0)
    assert config.load(plain, custom={"objective.premetric": Twice(4.0)}, name="objective").premetric == Twice(4.0)


def test_the_options_of_a_users_own_class_are_checked_like_any_other():
    with pytest.raises(OptionError, match=r"part\.factor must be a number, got 'x'"):
        config.load({"kind": "custom", "class": NAME, "config": {"factor": "x"}}, custom={NAME: Twice}, name="part")


def test_a_network_without_configuration_must_be_given():
    field = core.Field(Tiny())
    plain = config.dump(field)
    assert plain["net"] == {"kind": "custom", "class": f"{__name__}:Tiny"}
    net = Tiny()
    assert config.load(plain, custom={f"{__name__}:Tiny": net}).net is net
    assert isinstance(config.load(plain, custom={f"{__name__}:Tiny": Tiny}).net, Tiny)


def cost(x0, x1):
    return (x0 - x1).abs().sum(1)


def test_functions_and_tensors_are_named_and_told_apart_but_not_stored():
    assert config.dump(core.Gibbs(cost=cost))["cost"] == {"kind": "custom", "class": f"{__name__}:cost"}
    one, other = (config.dump(core.Dataset(torch.full((2, 3), v)))["x"] for v in (1.0, 2.0))
    assert one["class"] == "torch:Tensor"
    assert one["config"]["shape"] == [2, 3]
    assert one["config"]["digest"] != other["config"]["digest"]
    again = config.load(config.dump(core.Gibbs(cost=cost)), custom={f"{__name__}:cost": cost})
    assert again.cost is cost


def test_nothing_that_a_file_names_is_imported():
    with pytest.raises(OptionError, match="only names"):
        config.load({"kind": "custom", "class": "os:system", "config": {"command": "true"}})
    with pytest.raises(UnknownOptionError, match="unknown"):
        config.load({"kind": "os:system"})
