"""Couplings that look across classes, though each class is sampled alone."""

import warnings
from dataclasses import fields, replace

import torch

from rheos.core.base import Coupling
from rheos.core.couplings import ExactOT, PerCondition, Sinkhorn
from rheos.core.gibbs import Gibbs
from rheos.core.unbalanced import Unbalanced
from rheos.data.dataset import Data

__all__ = ["TRANSPORT", "across_classes", "advice", "warn_of_transport"]

LABEL = "label"
TRANSPORT = (ExactOT, Sinkhorn, Unbalanced)


def across_classes(coupling: Coupling) -> str | None:
    """The coupling, as Python, that keeps the noise of every class what sampling starts at; None where this one does.

    Transport over a batch of several classes gives each class the noise on its own side. Within groups that is mended.
    Gibbs weights prefer near noise within a group as well, which an odd number of half-steps undoes; so does transport
    that may leave mass behind, for which there is none that may not.

    Args:
        coupling: Of a flow that is conditioned on the class.

    Example:
        >>> across_classes(ExactOT())
        'PerCondition(ExactOT())'
        >>> across_classes(PerCondition(Gibbs()))
        'PerCondition(Gibbs(half_steps=1))'
        >>> across_classes(PerCondition(Gibbs(half_steps=1))) is None
        True
    """
    grouped = isinstance(coupling, PerCondition) and coupling.name == LABEL
    law = coupling.law if isinstance(coupling, PerCondition) else coupling
    if isinstance(law, Gibbs):
        return None if grouped and law.half_steps else _grouped(replace(law, half_steps=law.half_steps or 1))
    if isinstance(law, Unbalanced):
        return _grouped(Sinkhorn(law.epsilon))
    if grouped or not isinstance(law, TRANSPORT) or (law.condition == LABEL and law.beta > 0):
        return None
    return _grouped(law)


def _grouped(law: Coupling) -> str:
    """As Python: the options that differ from the usual ones."""
    told = [f"{f.name}={v!r}" for f in fields(law) if f.init and (v := getattr(law, f.name)) != f.default]  # type: ignore[arg-type]
    return f"PerCondition({type(law).__name__}({', '.join(told)}))"


def advice(objective: object, data: Data) -> str | None:
    """A sentence on a coupling that skews what each class is learned from, and the one that does not; or None.

    Args:
        objective: Of a training.
        data: With classes that the network is given, or without.
    """
    coupling = getattr(objective, "coupling", None)
    carried = data.conditions if data.conditions is not None else (LABEL,) * (data.classes > 0)
    if not isinstance(coupling, Coupling) or data.classes < 2 or LABEL not in carried:
        return None
    labels = data.columns.get(LABEL)
    one = isinstance(labels, torch.Tensor) and bool((labels == labels[0]).all())
    if one or LABEL in getattr(objective, "consumes", ()):
        return None
    better = across_classes(coupling)
    if better is None:
        return None
    return (
        f"{_named(coupling)} over {data.classes} classes has each class learn from other noise than sampling starts it "
        f"at, which skews its samples; coupling={better} does not (see the page of wcfm)."
    )


def warn_of_transport(objective: object, data: Data) -> None:
    """Warn where transport leaves each class a part of the noise; Gibbs weights, whose skew is small, pass.

    Warns:
        RuntimeWarning: With the coupling that does not.
    """
    said = advice(objective, data)
    if said is not None and isinstance(getattr(objective, "coupling", None), TRANSPORT):
        warnings.warn(said, RuntimeWarning, stacklevel=4)


def _named(coupling: Coupling) -> str:
    inner = f"({type(coupling.law).__name__})" if isinstance(coupling, PerCondition) else ""
    return f"{type(coupling).__name__}{inner}"
