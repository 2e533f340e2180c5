"""What the problem families share of linear algebra: random rotations and spectra, constants of any array library."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.stats
from array_api_compat import array_namespace, is_torch_array
from numpy.typing import NDArray

Array = NDArray[np.float64]


def rotation(dim: int, rng: np.random.Generator) -> Array:
    """A random orthogonal matrix, (dim, dim), from the Haar measure."""
    matrix: Array = scipy.stats.ortho_group.rvs(dim, random_state=rng).reshape(dim, dim)
    return matrix


def spectrum(dim: int, condition: float, rng: np.random.Generator) -> Array:
    """Log-uniform numbers in [condition^-1/2, condition^1/2], (dim,); both ends are among them if dim >= 2."""
    exponents = rng.uniform(-0.5, 0.5, size=dim)
    if dim >= 2:
        exponents[0], exponents[-1] = -0.5, 0.5
    return np.power(condition, exponents)


def unit_vector(dim: int, rng: np.random.Generator) -> Array:
    """A random vector of norm 1, (dim,)."""
    direction = rng.standard_normal(dim)
    return direction / np.linalg.norm(direction)


def symmetric(eigenvectors: Array, eigenvalues: Array) -> Array:
    """The symmetric matrix with these eigenvectors (columns) and eigenvalues."""
    return (eigenvectors * eigenvalues) @ eigenvectors.T


def constants(y: Any, *arrays: Any) -> tuple[Any, ...]:
    """The array namespace of `y`, then `arrays` as its arrays, of the dtype and on the device of `y`."""
    xp = array_namespace(y)
    where = {"device": y.device} if is_torch_array(y) else {}
    return xp, *(xp.asarray(array, dtype=y.dtype, **where) for array in arrays)
