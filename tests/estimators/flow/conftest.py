"""Gaussian flows with a closed form, fitted on one fixed sample so that no sampling noise is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.linalg import solve_sylvester, sqrtm

import mongebench as mb
from mongebench.core.arrays import Points


@dataclass(frozen=True)
class GaussianFlow:
    """A sample of any law with empirical mean m0 and covariance S0, and the target N(m, S).

    Quadratic potentials see no more of the sample than m0 and S0, so that the closed form is exact for them.
    """

    x: Points
    mean: Points
    covariance: Points

    @property
    def target(self) -> mb.Target:
        inverse = np.linalg.inv(self.covariance)

        def potential(y: Any) -> Any:
            centred = y - jnp.asarray(self.mean, y.dtype)
            return jnp.sum((centred @ jnp.asarray(inverse, y.dtype)) * centred, axis=1) / 2

        return mb.Target(potential=potential, dim=len(self.mean))

    def exact_map(self, x: Points) -> Points:
        m0, s0 = self.x.mean(axis=0), np.cov(self.x.T, bias=True).reshape(len(self.mean), -1)
        slope = np.real(sqrtm(self.covariance @ s0)) @ np.linalg.inv(s0)
        return (x - m0) @ slope.T + self.mean

    def map_at(self, time: float, x: Points) -> Points:
        """T_t(x) = A_t (x - m0) + b_t: A' = B symmetric, B S0 + S0 B = C S0 + S0 C^T, b' = -S^{-1} (b - m)."""
        dim = len(self.mean)
        m0, s0 = self.x.mean(axis=0), np.cov(self.x.T, bias=True).reshape(dim, dim)
        precision, inverse = np.linalg.inv(self.covariance), np.linalg.inv(s0)

        def velocity(_: float, state: Points) -> Points:
            slope, shift = state[:-dim].reshape(dim, dim), state[-dim:]
            c = -precision @ slope + np.linalg.inv(slope) @ inverse
            return np.concatenate(
                [solve_sylvester(s0, s0, c @ s0 + s0 @ c.T).ravel(), -precision @ (shift - self.mean)]
            )

        start = np.concatenate([np.eye(dim).ravel(), m0])
        end = solve_ivp(velocity, (0, time), start, method="LSODA", rtol=1e-10, atol=1e-12).y[:, -1]
        return (x - m0) @ end[:-dim].reshape(dim, dim).T + end[-dim:]

    def error(self, images: Points, exact: Points) -> float:
        """Root of E|T - T*|^2 / Var(target)."""
        return float(np.sqrt(np.mean(np.sum((images - exact) ** 2, axis=1)) / np.trace(self.covariance)))


@pytest.fixture(scope="session")
def gaussian_flow() -> Callable[..., GaussianFlow]:
    """(dim, condition, commuting) -> flow; eigenvalues of S from condition^-1/2 to condition^1/2."""

    def build(dim: int, condition: float = 4.0, commuting: bool = False, n: int = 100) -> GaussianFlow:
        rng = np.random.default_rng([dim, int(condition), commuting])
        rotations = [np.linalg.qr(rng.standard_normal((dim, dim)))[0] for _ in range(2)]
        spectrum = condition ** np.linspace(-0.5, 0.5, dim)
        # Whitened, so that the sample has exactly the covariance that commutes, or not, with the target's.
        raw = rng.standard_normal((n, dim))
        raw -= raw.mean(axis=0)
        white = raw @ np.linalg.inv(np.linalg.cholesky(raw.T @ raw / n)).T
        x = white * np.sqrt(np.linspace(0.5, 1.5, dim)) @ rotations[0].T + rng.standard_normal(dim)
        axes = rotations[0] if commuting else rotations[1]
        return GaussianFlow(x, rng.standard_normal(dim), (axes * spectrum) @ axes.T)

    return build


@pytest.fixture
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield
