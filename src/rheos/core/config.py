"""Objects as plain JSON values, and back, without running anything that a file names.

An object becomes `{"kind": "Gibbs", "epsilon": 0.3, ...}`: the name of its class in one static table, and the arguments
of its constructor, nested likewise. Reading looks the name up, refuses unknown names and arguments, and checks types.
What is not in the table (your own class, a function, a tensor) is written as `{"kind": "custom", "class": ...}`; a
file only ever names it, and the reader hands it over.
"""

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import lru_cache
from hashlib import blake2b
from importlib import import_module
from pathlib import PurePath
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from rheos.core.errors import OptionError, RheosError, UnknownOptionError, check_choice
from rheos.core.field import Field
from rheos.core.flowmap import FlowMap

__all__ = ["KINDS", "Json", "dump", "kind_of", "load"]

Json = None | bool | int | float | str | list[Any] | dict[str, Any]
"""What json can write."""


def _kinds(module: str, *names: str) -> dict[str, str]:
    return {name: f"rheos.{module}:{name}" for name in names}


KINDS: Mapping[str, str] = {
    **_kinds("core.schedules", "EDM", "GVP", "VE", "VP", "Linear", "SubVP"),
    **_kinds("core.tables", "Discrete"),
    **_kinds("core.paths", "AffinePath", "GeodesicPath", "JointPath"),
    **_kinds("core.bridges", "NoisyPath"),
    **_kinds("core.spaces", "Euclidean", "Product", "UnitQuaternion"),
    **_kinds("core.couplings", "ExactOT", "GivenPairs", "Independent", "PerCondition", "Sinkhorn"),
    **_kinds("core.gibbs", "Gibbs", "Tilted"),
    **_kinds("core.annealed", "AnnealedPairs"),
    **_kinds("core.unbalanced", "Unbalanced"),
    **_kinds("core.sources", "Dataset", "FromCondition", "FromSeed", "FromSpace", "Gaussian", "Uniform"),
    **_kinds("core.times", "Antithetic", "PerVariable", "ShiftedTime", "Stratified", "TwoTimes"),
    **_kinds("core.time_laws", "BetaTime", "CosMap", "EDMTime", "LogitNormal", "ModeTime", "PiecewiseTime"),
    **_kinds("core.time_laws", "UShape", "UniformTime"),
    **_kinds("core.premetrics", "L1", "MSE", "RMSE", "Huber", "Perceptual", "PseudoHuber", "Timed", "Total"),
    **_kinds("metrics.perceptual", "LPIPS", "FeatureMap"),
    **_kinds("core.weights", "SNR", "EDMWeight", "Likelihood", "Matched", "MinSNR", "One", "Sigmoid"),
    **_kinds("core.objectives", "FlowMatching"),
    **_kinds("core.bounds", "SlicedScoreMatching", "VariationalBound"),
    **_kinds("core.field", "Field"),
    **_kinds("core.change", "OnPath"),
    **_kinds("core.flowmap", "FlowMap", "FlowMapField", "TransportField"),
    **_kinds("core.intervals", "Deployed", "Dyadic", "TwoLaws"),
    **_kinds("core.adaptive", "Adaptive"),
    **_kinds("core.derivative", "Derivative"),
    **_kinds("nets.two_times", "TwoTimeAdapter"),
    **_kinds("distill.flowmaps", "FlowMapLoss"),
    **_kinds("distill.mdt_dist", "TransportLoss"),
    **_kinds("distill.consistency", "Consistency"),
    **_kinds("distill.progressive", "Halving"),
    **_kinds("nets.dit", "DiT"),
    **_kinds("nets.mlp", "MLP"),
    **_kinds("nets.unet", "UNet"),
    **_kinds("nets.classifier", "FeatureNet"),
    **_kinds("nets.autoencoder", "Autoencoder"),
    **_kinds("train.autoencoder", "Autoencoding"),
    **_kinds("train.concat", "ConcatCondition"),
    **_kinds("train.tokens", "TokenCondition"),
    **_kinds("train.pairnet", "PairNet"),
    **_kinds("train.codes", "OneHotCode", "PaletteCode", "ScalarCode"),
    **_kinds("train.semantics", "LatentCode"),
    **_kinds("train.symmflow", "Coded", "SymmFlow"),
    **_kinds("nets.source_encoder", "TokenEncoder", "VectorEncoder"),
    **_kinds("nets.source_picture", "PictureEncoder", "Upsampled"),
    **_kinds("nets.text_autoencoder", "TextAutoencoder"),
    **_kinds("nets.tower", "PictureTower", "VectorTower"),
    **_kinds("nets.multires", "MultiRes"),
    **_kinds("train.crossnet", "CrossNet"),
    **_kinds("train.crosslosses", "SourceLosses"),
    **_kinds("train.crossflow", "CrossFlow"),
    "EDMNet": "rheos.nets.edm:EDM",  # the schedule has the shorter name
    "DataRecipe": "rheos.data.recipe:Recipe",
    "PairRecipe": "rheos.distill.pairs:Recipe",
    **_kinds("distill.inverted", "MixedPairs"),
    **_kinds("distill.distillation", "AtTimes", "Distillation"),
    **_kinds("distill.students", "StackedVelocity"),
    **_kinds("distill.retimed", "OffPole"),
    **_kinds("distill.groups", "Flip", "QuarterTurns", "Together"),
    **_kinds("distill.bellman_search", "BellmanSearch"),
    **_kinds("distill.chords", "ChordMatching"),
    **_kinds("distill.segments", "SegmentRecipe"),
    **_kinds("nets.lora", "LoRA"),
    **_kinds("adapters.calls", "DiTCall", "FluxCall", "SD3Call", "UNetCall", "UNetConditionCall", "WanCall"),
    **_kinds("adapters.latent", "LatentField"),
    **_kinds("adapters.semantics", "Semantics"),
    **_kinds("adapters.table", "StepTable"),
    "DiffusersNet": "rheos.adapters.latent:Network",
    "Options": "rheos.train.options:Options",
    "Sampling": "rheos.train.sampling:Sampling",
}
"""Name to "module:class"; resolved on use, so a kind may live in a room above this one."""

_CUSTOM = "custom"


def dump(obj: object, name: str = "config") -> Json:
    """Plain values from which `load` makes an equal object.

    Args:
        obj: An object of a kind in `KINDS`, a plain value, or a list or mapping of these; anything else becomes custom.
        name: What errors call it.

    Raises:
        OptionError: For a number that is not finite, or a mapping whose keys are not text or contain "kind".

    Example:
        >>> from rheos.core import AffinePath
        >>> dump(AffinePath("gvp"))
        {'kind': 'AffinePath', 'schedule': {'kind': 'GVP'}, 'sigma_data': 0.5}
    """
    if obj is None or isinstance(obj, bool | int | str):
        return obj
    if isinstance(obj, float):
        if obj - obj != 0:
            raise OptionError(f"{name} is {obj}, which a configuration file cannot hold. Use a finite number.")
        return obj
    if isinstance(obj, PurePath):
        return str(obj)
    if isinstance(obj, list | tuple):
        return [dump(v, f"{name}[{i}]") for i, v in enumerate(obj)]
    if isinstance(obj, Mapping):
        if "kind" in obj or not all(isinstance(k, str) for k in obj):
            raise OptionError(f"{name} is a mapping whose keys must be text other than 'kind', got {list(obj)}.")
        return {k: dump(v, f"{name}.{k}") for k, v in obj.items()}
    kind = _names().get(_address(type(obj)))
    head = {"kind": kind} if kind else {"kind": _CUSTOM, "class": _address(obj if _bare(obj) else type(obj))}
    given = {k: dump(v, f"{name}.{k}") for k, v in _arguments(obj).items()}
    if kind:
        return {**head, **given}
    return {**head, "config": given} if given else dict(head)


def load(
    value: Json, *, custom: Mapping[str, object] | None = None, expect: type = object, name: str = "config"
) -> Any:
    """The object that `dump` wrote.

    Args:
        value: Plain values.
        custom: What the file cannot hold, by its class ("pkg.module:Name") or its place ("objective.source.x"): a class
            is called with the stored arguments, anything else is taken as it is.
        expect: The class that is wanted.
        name: What errors call the whole; the first part of every place.

    Raises:
        UnknownOptionError: For a kind or an argument that is unknown; near names are listed.
        OptionError: For an argument that is missing or of a wrong type, or custom parts that were not given.

    Example:
        >>> load({"kind": "LogitNormal", "mean": "high"}, name="times")
        Traceback (most recent call last):
        ...
        rheos.core.errors.OptionError: times.mean must be a number, got 'high'.
    """
    made = _value(value, name, custom or {})
    if not isinstance(made, expect):
        raise OptionError(f"{name} must be {_wanted(expect)}, got {_came(value)}.")
    return made


def kind_of(value: object) -> type | None:
    """The class of a description, without making an object; None for custom parts and plain values.

    Example:
        >>> kind_of({"kind": "Gibbs", "epsilon": 0.3}).__name__
        'Gibbs'
    """
    kind = value.get("kind") if isinstance(value, Mapping) else None
    if not isinstance(kind, str) or kind not in KINDS:
        return None
    module, _, name = KINDS[kind].partition(":")
    found: type = getattr(import_module(module), name)
    return found


def _value(value: Any, at: str, custom: Mapping[str, object]) -> Any:
    """A value with everything inside it that has a kind made into objects."""
    if isinstance(value, list | tuple):
        return [_value(v, f"{at}[{i}]", custom) for i, v in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    given = {k: v for k, v in value.items() if k != "kind"}
    if "kind" not in value:
        return {k: _value(v, f"{at}.{k}", custom) for k, v in given.items()}
    if value["kind"] == _CUSTOM:
        return _own(given, at, custom)
    check_choice(f"{at}.kind", value["kind"], sorted(KINDS))
    module, _, name = KINDS[value["kind"]].partition(":")
    return _make(getattr(import_module(module), name), given, at, custom)


def _own(given: Mapping[str, Any], at: str, custom: Mapping[str, object]) -> Any:
    """A custom part, as the caller gave it."""
    address = str(given.get("class"))
    if at not in custom and address not in custom:
        raise OptionError(
            f"{at} is {address}, which the file only names. Pass it: custom={{{address!r}: the class or the object}}.",
            name=at,
        )
    part = custom[at] if at in custom else custom[address]
    return _make(part, given.get("config", {}), at, custom) if isinstance(part, type) else part


def _make(cls: Any, given: Mapping[str, Any], at: str, custom: Mapping[str, object]) -> Any:
    """Call a class with checked arguments."""
    parameters = inspect.signature(cls).parameters
    open_ended = any(p.kind == p.VAR_KEYWORD for p in parameters.values())
    hints = get_type_hints(cls.__init__)
    arguments = {}
    for key, raw in given.items():
        if not open_ended:
            check_choice(f"{at}: the option", key, parameters)
        inner = _value(raw, f"{at}.{key}", custom)
        hint = hints.get(key, Any)
        arguments[key] = _matched(inner, hint)
        if arguments[key] is _NO:
            raise OptionError(f"{at}.{key} must be {_wanted(hint)}, got {_came(raw)}.", name=f"{at}.{key}", value=raw)
    for key, p in parameters.items():
        if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and key not in arguments:
            raise OptionError(f"{at} ({cls.__name__}) needs {key!r}, which is missing.", name=f"{at}.{key}")
    try:
        return cls(**arguments)
    except UnknownOptionError:
        raise
    except RheosError as error:
        raise type(error)(f"{at}: {error}", **error.values) from error


def _arguments(obj: object) -> dict[str, Any]:
    """The constructor arguments of an object."""
    if isinstance(obj, Tensor):
        digest = blake2b(obj.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes(), digest_size=8)
        return {"shape": list(obj.shape), "dtype": str(obj.dtype), "digest": digest.hexdigest()}
    if type(obj) is Field:
        names = ("net", "path", "predicts", "shift", "gaussian", "shape", "value_range", "times")
        more = () if obj.baked == 1.0 else ("baked",)
        return {name: getattr(obj, name) for name in (*names, *more)}
    if type(obj) is FlowMap:
        return {"net": obj.net, "path": obj.path}
    if is_dataclass(obj) and not isinstance(obj, type):
        return {f.name: getattr(obj, f.name) for f in fields(obj) if f.init}
    config = getattr(obj, "config", None)
    if not isinstance(config, Mapping):
        return {}
    # a network made of a network describes it as plain values: take the object, which may be custom
    return {k: getattr(obj, k) if _described(v) and _is_object(getattr(obj, k, None)) else v for k, v in config.items()}


def _described(value: object) -> bool:
    return isinstance(value, Mapping) and "kind" in value


def _is_object(value: object) -> bool:
    return isinstance(value, nn.Module) or is_dataclass(value)


@lru_cache(maxsize=1)
def _names() -> dict[str, str]:
    """From "module:class" to the kind."""
    return {address: kind for kind, address in KINDS.items()}


def _bare(obj: object) -> bool:
    """Functions and classes stand for themselves; of other objects the class is named."""
    return isinstance(obj, type | types.FunctionType | types.BuiltinFunctionType)


def _address(obj: Any) -> str:
    return f"{obj.__module__}:{obj.__qualname__}"


_NO = object()


def _matched(value: Any, hint: Any) -> Any:
    """The value as the annotation wants it (JSON has lists where Python has tuples), or `_NO`."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any or hint is inspect.Parameter.empty:
        return value
    if origin in (Union, types.UnionType):
        return next((m for m in (_matched(value, arm) for arm in args) if m is not _NO), _NO)
    if origin is Literal:
        return value if any(value == a and type(value) is type(a) for a in args) else _NO
    if origin is tuple:
        return _tuple(value, args)
    if origin in (list, Sequence):
        fits = isinstance(value, list | tuple) and all(_matched(v, args[0]) is not _NO for v in value)
        return value if fits else _NO
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            return _NO
        parts = {k: _matched(v, args[1]) for k, v in value.items()}
        return _NO if _NO in parts.values() else parts
    if origin is Callable:
        return value if callable(value) else _NO
    if hint is None or hint is type(None):
        return value if value is None else _NO
    if hint in (int, float):
        number = isinstance(value, int | float) if hint is float else isinstance(value, int)
        return hint(value) if number and not isinstance(value, bool) else _NO  # JSON does not tell 1 from 1.0
    if not isinstance(hint, type) or getattr(hint, "_is_protocol", False):
        return value
    return value if isinstance(value, hint) else _NO


def _tuple(value: Any, args: tuple[Any, ...]) -> Any:
    if not isinstance(value, list | tuple):
        return _NO
    if len(args) == 2 and args[1] is Ellipsis:
        args = (args[0],) * len(value)
    if len(value) != len(args):
        return _NO
    parts = [_matched(v, arm) for v, arm in zip(value, args, strict=True)]
    return _NO if any(p is _NO for p in parts) else tuple(parts)


_WORDS: Mapping[Any, str] = {
    float: "a number", int: "a whole number", bool: "true or false", str: "text", type(None): "null", None: "null",
}  # fmt: skip


def _wanted(hint: Any) -> str:
    """An annotation in words."""
    if hint in _WORDS:
        return _WORDS[hint]
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_wanted(a) for a in args))
    if origin is Literal:
        return " or ".join(repr(a) for a in args)
    if origin in (tuple, list, Sequence):
        return f"a list ({', '.join('...' if a is Ellipsis else _wanted(a) for a in args)})"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"a mapping to {_wanted(args[1])}"
    return "a function" if origin is Callable else f"of the kind {getattr(hint, '__name__', str(hint))}"


def _came(value: Any) -> str:
    if isinstance(value, Mapping) and "kind" in value:
        return f"the kind {value['kind']!r}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
