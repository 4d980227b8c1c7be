"""Everything that can be known to be wrong before the first step."""

import shutil

import torch

from rheos.core.draws import Draws
from rheos.core.errors import ConditionError, DataError, OptionError, RheosError, ShapeError
from rheos.core.field import Field
from rheos.core.objectives import Objective
from rheos.data.dataset import Data
from rheos.train.classwise import warn_of_transport
from rheos.train.options import Options

__all__ = ["calibrated", "check", "introduce", "rehearse"]

PILOT = 4096
_PILOT_NUMBERS = 2**25


def check(field: Field, objective: Objective, data: Data, steps: int, options: Options) -> None:
    """Raise unless field, objective, data and options fit each other; nothing is computed.

    Raises:
        OptionError: For steps below 1, no weights to train, or a precision or compilation that this machine lacks.
        ConditionError: If data and network disagree on conditions or classes.
        DataError: If the field lives in another range of values.

    Warns:
        RuntimeWarning: If transport skews what each class is learned from.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise OptionError(f"steps must be a whole number of at least 1, got {steps!r}.")
    if not isinstance(data, Data):
        raise OptionError(f"fit learns from a Data, got {type(data).__name__}. Read it: rheos.data.load(x).")
    if not any(p.requires_grad for p in field.parameters()):
        raise OptionError(
            "The field has no weights to train. Give it a network with parameters that require gradients; the field "
            "of a finished run is frozen: copy.deepcopy(run.field).requires_grad_(True)."
        )
    device = next(field.parameters()).device.type
    if options.precision == "fp16" and device != "cuda":
        raise OptionError(f"precision 'fp16' needs a GPU, the field is on {device!r}. Use 'bf16' or 'fp32'.")
    if options.compile and device == "cpu" and not any(shutil.which(c) for c in ("c++", "g++", "clang++")):
        raise OptionError("compile=True needs a C++ compiler for the CPU, and none is installed. Use compile=False.")
    _check_conditions(field, objective, data)
    if field.value_range is not None and data.delivers is not None and tuple(field.value_range) != tuple(data.delivers):
        raise DataError(
            f"The field lives in the range {field.value_range}, the data deliver {data.delivers}. "
            "Load the data with the field's range, or set field.value_range = None to move it."
        )
    warn_of_transport(objective, data)


def _check_conditions(field: Field, objective: Objective, data: Data) -> None:
    offered = set(data.batch(torch.zeros(1, dtype=torch.int64)).cond) - set(objective.consumes)
    if extra := offered - field.conditions:
        raise ConditionError(
            f"The data carry {_list(extra)}, which the network does not take (it takes: {_list(field.conditions)}). "
            "Build the network for it, such as classes=data.classes, or load the data with conditions=[]."
        )
    made = set(getattr(objective, "provides", ()))  # conditions that an objective makes itself
    if missing := field.conditions - offered - made:
        raise ConditionError(
            f"The network takes {_list(missing)}, which the data do not carry (they carry: {_list(offered)}). "
            "Build the network without it, or load data that have it."
        )
    classes = field.label_count
    if classes and "label" in offered and classes != data.classes:
        raise ConditionError(
            f"The network was built for {classes} classes, the data have {data.classes}. "
            "Build it with classes=data.classes."
        )
    maps = int((getattr(field.net, "config", None) or {}).get("maps", 0) or 0)
    if maps and "mask" in offered and data.mask_classes > maps:
        raise ConditionError(
            f"The network was built for masks of {maps} classes, those of the data have {data.mask_classes}. "
            "Build it with maps=data.mask_classes."
        )


def _list(names: object) -> str:
    return ", ".join(sorted(names)) or "none"  # type: ignore[call-overload]


def introduce(field: Field, objective: Objective, data: Data) -> None:
    """Tell the field what it is about to learn: shape and range of the data, and whether its source is Gaussian.

    An objective that trains at certain times only says so by an attribute `grid`: the field then has no others. One
    that has more to tell has a method `introduce`.
    """
    field.shape, field.value_range = data.shape, data.delivers
    field.gaussian = objective.gaussian
    field.times = getattr(objective, "grid", None)
    more = getattr(objective, "introduce", None)
    if more is not None:
        more(field)


def calibrated(objective: Objective, data: Data, options: Options, device: torch.device) -> Objective:
    """The objective with everything fixed that it measures on the data: a function of data and seed alone."""
    n = max(options.batch, min(PILOT, _PILOT_NUMBERS // data.x[0].numel()))
    draws = Draws.training(options.seed, 0, n).fold("pilot")
    batch = data.batch(data.indices(options.seed, 0, n))
    cond = {name: v.to(device) for name, v in batch.cond.items()}
    with torch.no_grad():
        return objective.calibrate(batch.x.to(device), cond, draws.to(device))


def rehearse(field: Field, objective: Objective, data: Data, options: Options) -> None:
    """One loss on two rows, without learning: whatever does not fit shows here, before a directory is made.

    Raises:
        RheosError: What the objective or the network raised.
        ShapeError: If the network failed otherwise, or its losses are not one a row.
    """
    n = min(2, options.batch)
    device = next(field.parameters()).device
    batch = data.batch(data.indices(options.seed, 0, n))
    cond = {name: v.to(device) for name, v in batch.cond.items()}
    mode = field.training
    field.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            draws = Draws.training(options.seed, 0, n, device=device)
            rows = objective.loss(field, objective.prepare(field, batch.x.to(device), cond, draws)).rows
    except RheosError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
        raise ShapeError(
            f"The network fails on two rows of the data, which have shape {data.shape}: {error}. "
            "It is called net(x, t, **conditions) and returns a tensor like x."
        ) from error
    finally:
        field.train(mode)
    if rows.shape != (n,):
        raise ShapeError(f"The objective gives losses of shape {tuple(rows.shape)} for {n} rows; it needs one a row.")
