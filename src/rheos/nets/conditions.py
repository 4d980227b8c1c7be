"""Which conditions a network takes, and what stands for their absence."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from rheos.core.errors import ConditionError, OptionError

__all__ = ["Conditions"]


@final
@dataclass(frozen=True)
class Conditions:
    """The conditions of a network; zero means that it does not take this one.

    Args:
        classes: `label`: int64 (B,), 0..classes - 1; the value `classes` is the null label, with its own embedding.
        embedding: `embedding`: float (B, embedding). Null is the zero vector.
        concat: `concat`: float (B, concat, H, W), a picture joined to the channels. Null is a picture of zeros of
            one pixel, (B, concat, 1, 1), which networks stretch to the size of x.
        tokens: `tokens`: float (B, tokens, token_dim), text tokens of this exact number. Null is all zeros.
        token_dim: Width of a token.

    Null values are constants and no parameters: what a network makes of them it learns by training with
    conditions dropped. They differ from a real value by convention only, so an embedding of zeros *is* null.

    Raises:
        OptionError: If a size is negative, or only one of `tokens` and `token_dim` is given.

    Example:
        >>> Conditions(classes=10).null("label", 3)
        tensor([10, 10, 10])
    """

    classes: int = 0
    embedding: int = 0
    concat: int = 0
    tokens: int = 0
    token_dim: int = 0

    def __post_init__(self) -> None:
        for name in ("classes", "embedding", "concat", "tokens", "token_dim"):
            if getattr(self, name) < 0:
                raise OptionError(f"{name} must be 0 (not taken) or positive, got {getattr(self, name)}.")
        if (self.tokens == 0) != (self.token_dim == 0):
            raise OptionError(
                f"tokens and token_dim go together, got {self.tokens} and {self.token_dim}. "
                "Give the number of text tokens and the width of one."
            )

    @property
    def names(self) -> frozenset[str]:
        """The names of the conditions taken."""
        flags = {"label": self.classes, "embedding": self.embedding, "concat": self.concat, "tokens": self.tokens}
        return frozenset(name for name, size in flags.items() if size)

    def null(
        self, name: str, rows: int, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> Tensor:
        """The value that stands for the absence of a condition.

        Args:
            name: One of `names`.
            rows: B.
            dtype: Of conditions other than labels.
            device: Where to put it.

        Raises:
            ConditionError: If the name is unknown.
        """
        if name not in self.names:
            raise ConditionError(f"{_unknown([name])} {self._known()}", name=name)
        if name == "label":
            return torch.full((rows,), self.classes, dtype=torch.int64, device=device)
        return torch.zeros(rows, *self._shape(name, null=True), dtype=dtype, device=device)

    def check(self, cond: Mapping[str, Tensor], rows: int) -> None:
        """Refuse unknown, missing and misshapen conditions; reads shapes and types only, never a value.

        Raises:
            ConditionError: Naming the condition, what came and what is expected.
        """
        if cond.keys() != self.names:
            unknown = sorted(cond.keys() - self.names)
            if unknown:
                raise ConditionError(f"{_unknown(unknown)} {self._known()}", unknown=unknown)
            missing = sorted(self.names - cond.keys())
            raise ConditionError(
                f"Condition {', '.join(missing)} is missing. Give it, or net.null({missing[0]!r}, rows); "
                "a Field fills in null values by itself.",
                missing=missing,
            )
        for name, value in cond.items():
            if not isinstance(value, Tensor):
                raise ConditionError(
                    f"{name} must be a tensor with a row a sample, got {type(value).__name__}.", name=name
                )
            if not self._fits(name, value, rows):
                kind = "int64" if name == "label" else "float"
                raise ConditionError(
                    f"{name} must be {kind} of shape {self._wanted(name, rows)}, got {value.dtype} "
                    f"{tuple(value.shape)}.",
                    name=name,
                )

    def _shape(self, name: str, null: bool = False) -> tuple[int, ...]:
        if name == "concat":
            return (self.concat, 1, 1) if null else (self.concat,)
        return {"label": (), "embedding": (self.embedding,), "tokens": (self.tokens, self.token_dim)}[name]

    def _fits(self, name: str, value: Tensor, rows: int) -> bool:
        if (value.dtype == torch.int64) != (name == "label") or not (name == "label" or value.is_floating_point()):
            return False
        wanted = (rows, *self._shape(name))
        if name == "concat":
            return value.ndim == 4 and tuple(value.shape[:2]) == wanted
        return tuple(value.shape) == wanted

    def _wanted(self, name: str, rows: int) -> str:
        shape = ", ".join(map(str, (rows, *self._shape(name))))
        return f"({shape}, height, width)" if name == "concat" else f"({shape}{',' if name == 'label' else ''})"

    def _known(self) -> str:
        return f"This network takes: {', '.join(sorted(self.names)) or 'none'}."


def _unknown(names: list[str]) -> str:
    return f"Unknown condition {', '.join(map(repr, names))}."
