r"""Random numbers by key, not by global order.

A draw is a pure function of (row key, key, element): SplitMix64 applied to a counter, with a second word of
the key mixed in half-way, then Box-Muller. So splitting, permuting or merging rows changes nothing, neither
does the number of processes, and a CPU and a GPU see the same bits. It is vectorised: no generator a row.

Reference: Steele, Lea, Flood, Fast splittable pseudorandom number generators (OOPSLA 2014).
"""

import math
from collections.abc import Sequence
from hashlib import blake2b
from numbers import Integral

import torch
from torch import Tensor

from rheos.core.errors import OptionError
from rheos.core.state import State, map_state_named

__all__ = ["Draws", "row_seeds"]

Key = int | str | Tensor
"""Part of a key: an integer, a name, or int64 (B,) when rows differ."""


def _signed(word: int) -> int:
    word &= 0xFFFFFFFFFFFFFFFF
    return word - (1 << 64) if word >> 63 else word


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX1 = _signed(0xBF58476D1CE4E5B9)
_MIX2 = _signed(0x94D049BB133111EB)
_KEY2 = _signed(0xD6E8FEB86659FD93)
_STREAM = _signed(0xD1342543DE82EF95)  # not the keys' multiplier, or row 1 of seed 0 would be row 0 of seed 1


def _shift_xor(z: Tensor, by: int) -> Tensor:
    """The xor of z with itself shifted right, in place; torch's >> keeps the sign, so the mask makes it logical."""
    return z.bitwise_xor_((z >> by).bitwise_and_((1 << (64 - by)) - 1))


def _mix(z: Tensor, second: Tensor | int = 0) -> Tensor:
    """SplitMix64's finaliser, in place, with `second` mixed in half-way."""
    z = _shift_xor(z, 30).mul_(_MIX1)
    if isinstance(second, Tensor):
        z = z.bitwise_xor_(second)
    return _shift_xor(_shift_xor(z, 27).mul_(_MIX2), 31)


_OFFSET = 0x632BE59BD9B4E019


def _word(key: Key) -> int | Tensor:
    if isinstance(key, Tensor):
        return key * _GOLDEN + _OFFSET
    if isinstance(key, int):
        return _signed(key * _GOLDEN + _OFFSET)
    return _signed(int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "little"))


def row_seeds(seed: int | Sequence[int] | Tensor, n: int) -> Tensor:
    """One seed a row: derived from one integer, or the given ones.

    Args:
        seed: An integer, from which n 53-bit seeds are derived, or n integers taken as they are.
        n: Rows.

    Returns:
        int64 (n,).

    Raises:
        OptionError: If the seeds are not integers, or not n.

    Example:
        >>> all_at_once = row_seeds(0, 4)
        >>> torch.equal(row_seeds(all_at_once[2:3], 1), all_at_once[2:3])
        True
    """
    if isinstance(seed, Integral):
        index = torch.arange(n, dtype=torch.int64)
        return _mix(_mix(index.mul_(_STREAM).add_(_word(int(seed))))) & ((1 << 53) - 1)
    seeds = torch.as_tensor(seed)
    if seeds.is_floating_point() or seeds.is_complex() or seeds.dtype == torch.bool:
        raise OptionError(f"seed must be an integer, or one integer a row, got {seed!r}.", seed=seed)
    seeds = seeds.reshape(-1).to(torch.int64)
    if len(seeds) != n:
        raise OptionError(f"seed has {len(seeds)} values for {n} rows; give one integer, or one a row.", seeds=seeds)
    return seeds


class Draws:
    """Noise for a batch, one stream a row.

    Args:
        seed: int64 (B,), one a row.
        step: The training step that they belong to, for laws that change in the course of a training; else None.

    Example:
        >>> draws = Draws(row_seeds(0, 4))
        >>> x = draws.normal(torch.empty(4, 3), "noise", 7)
        >>> torch.equal(Draws(row_seeds(0, 4)[[2]]).normal(torch.empty(1, 3), "noise", 7), x[[2]])
        True
    """

    def __init__(self, seed: Tensor, step: int | None = None) -> None:
        if seed.dtype != torch.int64 or seed.ndim != 1:
            raise OptionError(f"seed must be int64 of shape (B,), got {seed.dtype} {tuple(seed.shape)}.")
        self.seed, self.step = seed, step

    @classmethod
    def training(cls, seed: int, step: int, n: int, start: int = 0, device: torch.device | str = "cpu") -> "Draws":
        """Streams of rows start..start+n of one training step: the same on any number of processes."""
        index = torch.arange(start, start + n, dtype=torch.int64, device=device)
        return cls(_mix(_mix(index.mul_(_STREAM).add_(_word(seed))).add_(_word(step))), step)

    def __len__(self) -> int:
        return len(self.seed)

    def fold(self, *key: Key) -> "Draws":
        """Independent streams for a part of the work, named by `key`."""
        z = self.seed
        for part in key:
            z = _mix(z * _STREAM + _word(part))
        return type(self)(z, self.step)

    def select(self, index: Tensor | slice) -> "Draws":
        """The streams of some rows."""
        return type(self)(self.seed[index], self.step)

    def to(self, device: torch.device | str) -> "Draws":
        """The same streams on another device."""
        return self if self.seed.device == torch.device(device) else type(self)(self.seed.to(device), self.step)

    def words(self, count: int, *key: Key) -> Tensor:
        """int64 (B, count): uniform 64-bit words."""
        first = self.fold(*key).seed if key else self.seed
        counter = torch.arange(1, count + 1, dtype=torch.int64, device=first.device).mul_(_GOLDEN)
        second = _mix(first ^ _KEY2)
        return _mix(counter + _mix(first.clone())[:, None], second[:, None])

    def uniform(self, *key: Key, shape: Sequence[int] = ()) -> Tensor:
        """float64 (B, *shape): uniform on (0, 1), never 0 or 1, 53 bits."""
        words = self.words(math.prod(shape), *key)
        unit = ((words >> 11 & ((1 << 53) - 1)).double() + 0.5).mul_(2.0**-53).clamp_(max=1 - 2.0**-53)
        return unit.reshape(len(self), *shape)

    def normal(self, like: State, *key: Key) -> State:
        """Standard normal numbers of the shape, dtype and device of `like` (rows first); dicts name by name."""
        if isinstance(like, dict):
            return map_state_named(lambda name, v: self.normal(v, *key, name), like)
        if like.shape[0] != len(self):
            raise OptionError(f"Draws of {len(self)} rows asked for a state of {like.shape[0]} rows.")
        n = math.prod(like.shape[1:])
        words = self.to(like.device).words((n + 1) // 2, *key)
        work = torch.float64 if like.dtype == torch.float64 else torch.float32
        low = words.bitwise_and(0xFFFFFFFF).to(work)
        high = (words >> 32).bitwise_and_(0xFFFFFFFF).to(work)
        radius = high.add_(0.5).mul_(2.0**-32).log_().mul_(-2.0).clamp_(min=0.0).sqrt_()
        angle = low.mul_(2 * math.pi * 2.0**-32)
        pairs = torch.cat((radius * angle.cos(), radius * angle.sin()), 1)
        return pairs[:, :n].reshape(like.shape).to(like.dtype)

    def permutation(self, *key: Key) -> Tensor:
        """int64 (B,): one permutation of the rows, a function of the first row's stream alone."""
        return Draws(self.seed[:1]).uniform(*key, shape=(len(self),))[0].argsort()
