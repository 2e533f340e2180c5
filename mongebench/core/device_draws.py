"""Draws that JAX makes on its device, where a fit computes with them: they are not sent there by the host.

A sampler that applies functions of the array API standard to elementary noise is written once for two generators:
NumPy's, which all results on the CPU come from, and `DeviceGenerator`. `traceable` says of a sampler that it is one.
The law is the same, the points are not: the generators are two.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from mongebench.core.errors import InvalidParameter

VARIABLE = "MONGEBENCH_DRAWS"


class DeviceGenerator:
    """Noise in float64 by JAX, through those methods of `numpy.random.Generator` that traceable samplers use.

    They need `jax.enable_x64`, within which a traceable sampler calls them.

    Parameters
    ----------
    key
        Of JAX; each call splits it, and so gives other noise.
    """

    def __init__(self, key: Any) -> None:
        self._key = key

    def standard_normal(self, size: tuple[int, ...]) -> Any:
        """Of N(0, 1)."""
        import jax

        return jax.random.normal(self.next_key(), size, dtype=np.float64)

    def choice(self, a: int, size: int | tuple[int, ...], p: Any) -> Any:
        """Numbers below `a`, of probabilities p (a,)."""
        import jax

        return jax.random.choice(self.next_key(), a, (size,) if isinstance(size, int) else size, p=jax.numpy.asarray(p))

    def next_key(self) -> Any:
        """A key that no other call gets."""
        import jax

        self._key, key = jax.random.split(self._key)
        return key


Generator = np.random.Generator | DeviceGenerator


class Traceable:
    """A sampler that takes either generator; made by `traceable`, or wrapped around one that is."""

    def __init__(self, sampler: Callable[[int, Any], Any]) -> None:
        self._sampler = sampler

    def __call__(self, n: int, generator: Generator) -> Any:
        """n independent draws, (n, d): of NumPy or, from a `DeviceGenerator`, of JAX."""
        return self._sampler(n, generator)


def traceable(sampler: Callable[[int, Any], Any]) -> Traceable:
    """Say of (n, generator) -> (n, d) that it takes a `DeviceGenerator` too, and can be compiled by JAX.

    It is compiled once for each n.
    """

    @functools.cache
    def compiled() -> Callable[[int, Any], Any]:
        import jax

        return jax.jit(lambda n, key: sampler(n, DeviceGenerator(key)), static_argnums=0)

    def draw(n: int, generator: Generator) -> Any:
        if isinstance(generator, np.random.Generator):
            return sampler(n, generator)
        import jax

        with jax.enable_x64(True):
            return compiled()(n, generator.next_key())

    return Traceable(draw)


def are_wanted() -> bool:
    """Whether JAX makes the draws for a fit in JAX where the sampler can: as MONGEBENCH_DRAWS says, or on a GPU alone.

    Raises `InvalidParameter` where the variable is neither "device" nor "host".
    """
    asked = os.environ.get(VARIABLE)
    if not asked:
        import jax

        return jax.default_backend() != "cpu"
    if asked not in ("device", "host"):
        raise InvalidParameter(
            f'The environment variable {VARIABLE} is {asked!r}, expected "device" (JAX draws, where a sampler can) or '
            '"host" (NumPy does); unset it to have draws on the device on a GPU alone.'
        )
    return asked == "device"


def draw(sampler: Callable[[int, Any], Any], n: int, sequence: np.random.SeedSequence) -> tuple[Any, bool]:
    """n draws of a traceable sampler in float64, on JAX's device, and whether all are finite, of which one bit is read.

    They are ready when this returns.
    """
    import jax

    with jax.enable_x64(True):
        words = jax.device_put(sequence.generate_state(2))
        points = sampler(n, DeviceGenerator(jax.random.wrap_key_data(words, impl="threefry2x32")))
        return points, bool(jax.numpy.isfinite(points).all())
