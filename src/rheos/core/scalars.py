"""Elementary functions of a time that is either a Python float or a float64 tensor.

A sampling step on one shared clock then costs no tensor operation, and a step with one clock a row runs
the same formulas.
"""

import math

import torch
from torch import Tensor

__all__ = ["Scalar", "cos", "divide", "exp", "expm1", "log", "log1p", "power", "sigmoid", "sin", "sqrt", "where"]

Scalar = float | Tensor


def exp(z: Scalar) -> Scalar:
    """e^z; overflow gives infinity, as in tensors."""
    if isinstance(z, Tensor):
        return z.exp()
    try:
        return math.exp(z)
    except OverflowError:
        return math.inf


def expm1(z: Scalar) -> Scalar:
    """e^z - 1 without cancellation; overflow gives infinity."""
    if isinstance(z, Tensor):
        return z.expm1()
    try:
        return math.expm1(z)
    except OverflowError:
        return math.inf


def log(z: Scalar) -> Scalar:
    """The natural logarithm, with log 0 = -inf and log of a negative number NaN, as in tensors."""
    if isinstance(z, Tensor):
        return z.log()
    if z > 0:
        return math.log(z)
    return -math.inf if z == 0 else math.nan


def log1p(z: Scalar) -> Scalar:
    """The logarithm of 1 + z without cancellation; -inf at z = -1, as in tensors."""
    if isinstance(z, Tensor):
        return z.log1p()
    if z > -1:
        return math.log1p(z)
    return -math.inf if z == -1 else math.nan


def sqrt(z: Scalar) -> Scalar:
    """The square root; NaN below zero, as in tensors."""
    if isinstance(z, Tensor):
        return z.sqrt()
    return math.sqrt(z) if z >= 0 else math.nan


def power(z: Scalar, exponent: float) -> Scalar:
    """The power of a number that is not negative."""
    if isinstance(z, Tensor):
        return z.pow(exponent)
    return math.pow(z, exponent)


def sin(z: Scalar) -> Scalar:
    """The sine of radians."""
    return z.sin() if isinstance(z, Tensor) else math.sin(z)


def cos(z: Scalar) -> Scalar:
    """The cosine of radians."""
    return z.cos() if isinstance(z, Tensor) else math.cos(z)


def sigmoid(z: Scalar) -> Scalar:
    """1 / (1 + e^-z)."""
    if isinstance(z, Tensor):
        return z.sigmoid()
    if z >= 0:
        return 1.0 / (1.0 + math.exp(-z))
    e = math.exp(z)
    return e / (1.0 + e)


def divide(a: Scalar, b: Scalar) -> Scalar:
    """The quotient by IEEE rules: a zero divisor gives a signed infinity or NaN instead of an exception."""
    if isinstance(a, Tensor) or isinstance(b, Tensor) or b != 0:
        return a / b
    return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a) * math.copysign(1.0, b)


def where(condition: bool | Tensor, a: Scalar, b: Scalar) -> Scalar:
    """The first number where the condition holds, else the second; a Python bool picks without tensors."""
    if isinstance(condition, Tensor):
        if not isinstance(a, Tensor) and not isinstance(b, Tensor):  # two floats alone would become float32
            a = torch.full_like(condition, a, dtype=torch.float64)
        return torch.where(condition, a, b)
    return a if condition else b
