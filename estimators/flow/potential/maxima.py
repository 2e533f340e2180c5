"""Sums of smooth maxima of affine functions, each of a few linear coordinates of the point."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from mongebench.estimators.flow.potential.base import squares
from mongebench.estimators.flow.potential.bent import Bent
from mongebench.estimators.flow.potential.quadratic import Quadratic

PIECES = 32
"""Affine functions in one maximum."""
RANK = 4
"""Most coordinates that one maximum sees: products over a batch cost RANK (RANK + 1) / 2 a maximum. On `potential` in
d = 32, whose blocks have four coordinates, 2000 steps of Adam end at 1.0 % UVP (58 CPU s); with two at 3.0 (39), with
eight at 1.2 (132)."""
SHARPNESS = 2.0
"""Middle of the factors, log-uniform over two octaves, by which slopes start steeper than the identity of a sample of
variance 1: bends between cells of all widths about 1 / SHARPNESS."""


class Maxima(Bent):
    """phi(x) = q(x) + sum_j a_j log sum_k exp(<w_jk, P_j^T x> + c_jk), a_j >= 0, P_j of `RANK` columns.

    A maximum of affine functions bends along the walls of a power diagram, of as many cells as it has pieces: a unit
    knows a whole pattern of clusters where a ridge knows one wall. Its frame P_j, learned too, holds the diagram to few
    coordinates, so that the pieces cost the same in any dimension and the Hessian of a unit has low rank.

    Attributes
    ----------
    quadratic, roots
        As in `Bent`.
    frames
        P, (d, units, rank).
    normals, offsets
        w, (units, pieces, rank), and c, (units, pieces).

    References
    ----------
    Calafiore, Gaubert and Possieri 2020, Log-sum-exp neural networks and posynomial models for convex and
    log-log-convex data, IEEE Transactions on Neural Networks and Learning Systems 31: dense among convex functions.
    """

    quadratic: Quadratic
    roots: jax.Array
    frames: jax.Array
    normals: jax.Array
    offsets: jax.Array

    @classmethod
    def through(cls, x: jax.Array, units: int, depth: int, rng: np.random.Generator) -> Maxima:
        """With Voronoi's cells of points of the sample x (n, d), in random coordinates, beside the identity."""
        del depth
        points = np.asarray(x, np.float64)
        frames = np.linalg.qr(rng.standard_normal((units, points.shape[1], min(points.shape[1], RANK))))[0]
        centres = points[rng.integers(len(points), size=(units, PIECES))] @ frames
        variance = np.mean(np.var(points, axis=0))
        sharpness = SHARPNESS * 2.0 ** rng.uniform(-1, 1, units) / (variance if variance > 0 else 1)
        normals = centres - centres.mean(axis=1, keepdims=True)  # less an affine function, which q has
        offsets = -np.sum(centres**2, axis=2) / 2
        arrays = (
            sharpness**-0.5,  # slopes of one height whatever the sharpness
            frames.transpose(1, 0, 2),
            sharpness[:, None, None] * normals,
            sharpness[:, None] * offsets,
        )
        return cls(Quadratic.identity_like(x), *(jnp.asarray(array, x.dtype) for array in arrays))

    def units(self, x: jax.Array) -> jax.Array:
        """log sum_k exp(<w_jk, P_j^T x> + c_jk), (d,) -> (units,)."""
        maxima: jax.Array = jax.nn.logsumexp(self._affine(x), axis=1)
        return maxima

    def map(self, x: jax.Array) -> jax.Array:
        """Grad q(x) + sum_j a_j P_j sum_k p_jk w_jk, p_j the softmax of the affine functions, (d,) -> (d,)."""
        slopes = jnp.einsum("uk,ukr->ur", self._shares(x), self.normals)
        return self.quadratic.map(x) + jnp.einsum("dur,ur->d", self.frames, self.roots[:, None] ** 2 * slopes)

    def lower_jacobian(self, x: jax.Array) -> jax.Array:
        """Lower triangle of D^2 q + sum_j a_j P_j cov_{p_j}(w_j) P_j^T, (d,) -> (d (d + 1) / 2,)."""
        shares = self._shares(x)
        normals = self.normals - jnp.mean(self.normals, axis=1, keepdims=True)  # changes nothing but the rounding
        slopes = jnp.einsum("uk,ukr->ur", shares, normals)
        moments = jnp.einsum("uk,ukt->ut", shares, jax.vmap(squares)(normals))
        covariances = self.roots[:, None] ** 2 * (moments - squares(slopes))
        return self.quadratic.lower_jacobian(x) + covariances.ravel() @ self._bends

    @property
    def _bends(self) -> jax.Array:
        """What entries of a lower triangle C add to that of P_j C P_j^T, (units rank (rank + 1) / 2, d (d + 1) / 2).

        For many points the sum over units and entries is then one product of two matrices.
        """
        (first, second), (rows, columns) = np.tril_indices(self.frames.shape[2]), np.tril_indices(self.dim)
        one, other = self.frames[:, :, first], self.frames[:, :, second]
        mirrored = (first != second) * (other[rows] * one[columns])  # the entries above the diagonal of C
        bends: jax.Array = (one[rows] * other[columns] + mirrored).reshape(len(rows), -1).T
        return bends

    def _affine(self, x: jax.Array) -> jax.Array:
        """The affine functions at x, (units, pieces)."""
        return jnp.einsum("ukr,ur->uk", self.normals, jnp.einsum("d,dur->ur", x, self.frames)) + self.offsets

    def _shares(self, x: jax.Array) -> jax.Array:
        """p, (units, pieces)."""
        shares: jax.Array = jax.nn.softmax(self._affine(x), axis=1)
        return shares
