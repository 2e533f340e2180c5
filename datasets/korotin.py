"""The continuous pairs of Korotin et al. 2021, on which neural Monge maps are compared, from the authors' files."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import PositiveInt

from mongebench.core.arrays import as_points, like
from mongebench.core.device_draws import traceable
from mongebench.core.errors import InvalidInput, InvalidParameter
from mongebench.core.measure import Source, Target
from mongebench.core.problem import Problem, TruthTier
from mongebench.datasets.convex_network import ConvexNetwork, Differentiated
from mongebench.datasets.gaussian_mixture import GaussianMixture
from mongebench.datasets.linear import Array
from mongebench.datasets.newton import inverse_gradient

VARIABLE = "MONGEBENCH_DATA"
REPOSITORY = "https://github.com/iamalexkorotin/Wasserstein2Benchmark"
FOLDER = "benchmarks/Mix3toMix10"
"""Of the repository; it has d = 2, 4, 8, ..., 256."""
STANDARDISATION = "standardisation.json"
DRAWS = 1 << 14
"""That the target is standardised by."""


def korotin(
    dim: PositiveInt = 2,
    *,
    direction: Literal["forward", "reversed"] = "forward",
    directory: Path | None = None,
) -> Problem:
    """Mixture of three Gaussians -> its image under a gradient of two input-convex networks; or the way back.

    T(x) = s (grad psi_1(x) + grad psi_2(x) - b), psi_1 and psi_2 two trained networks, is the Monge map from the
    mixture P to Q = T#P. The shift b and the scale s give Q mean 0 and total variance d. Both networks are read from
    files of the authors, which are not part of this package. Download `{dim}_v1.pt` and `{dim}_v2.pt` from the folder
    benchmarks/Mix3toMix10 of https://github.com/iamalexkorotin/Wasserstein2Benchmark, and put them into a directory
    that `directory` or the environment variable MONGEBENCH_DATA names, or into its subfolder `korotin`.

    "forward" is P -> Q, as published. The density of Q inverts T, and so it runs in NumPy and cannot be traced by JAX
    or differentiated by torch. It jumps, because the second derivative of the networks' celu does: its score between
    the jumps is not all of its derivative (Stein's identities fail with it), and is not offered. "reversed" is Q -> P:
    T* = T^-1 by Newton's method, and V = -log p is a closed form. P is not log-concave: V is not convex, and no theorem
    on the flows holds.

    `standardisation.json` beside the files holds b and s by dimension. Where it has none for this dimension, they are
    the mean of grad psi_1 + grad psi_2 over 2^14 draws of P (`numpy.random.default_rng(0)`, float64), and the s by
    which the sum of the variances over those draws is d; they are then stored there, if the directory can be written
    to.

    Parameters
    ----------
    dim
        Dimension d; whichever the directory has files for. The authors have 2, 4, 8, ..., 256.
    direction
        "forward" or "reversed".
    directory
        Where the files are; by default what MONGEBENCH_DATA says. As a parameter it is part of the digest and of every
        record: name it by the variable where others shall compare theirs.

    Raises
    ------
    InvalidParameter
        A file that is missing, or no directory named.
    InvalidInput
        A file that holds something else.

    References
    ----------
    Korotin, Li, Genevay, Solomon, Filippov and Burnaev 2021, Do neural optimal transport solvers work? A continuous
    Wasserstein-2 benchmark (NeurIPS; arXiv 2106.01954).
    """
    files = _locate(dim, directory)
    networks = [ConvexNetwork.read(path, dim) for path in files]
    mixture = _mixture(dim)
    scale, shift, hashed = _standardisation(files[0].parent / STANDARDISATION, networks, mixture, dim)
    pair = _Pair(mixture, _brenier(networks, scale, shift))
    measures = pair.forward() if direction == "forward" else pair.reversed()
    return Problem(
        **measures,
        dim=dim,
        version=1,
        truth_tier=TruthTier.BY_CONSTRUCTION,
        strong_convexity=None,
        fingerprint="-".join([*(hashlib.sha256(path.read_bytes()).hexdigest() for path in files), hashed]),
    )


@dataclass(frozen=True, eq=False)
class _Pair:
    """The mixture P, and the convex function whose gradient T takes it to Q."""

    mixture: GaussianMixture
    brenier: Differentiated

    def forward(self) -> dict[str, Any]:
        """P -> Q."""
        return {
            "source": Source(
                dim=self.dim,
                sampler=traceable(self.mixture.sample),
                log_density=self.mixture.log_density,
                score=self.mixture.score,
            ),
            "target": Target(
                dim=self.dim,
                sampler=self.sample_image,
                potential=lambda y: -self.log_density_image(y),
                log_normaliser=0.0,
                total_variance=float(self.dim),  # as it is standardised, and as all published numbers have it
            ),
            "truth": self.brenier.gradient,
            "truth_inverse": self.inverse,
        }

    def reversed(self) -> dict[str, Any]:
        """Q -> P."""
        return {
            "source": Source(
                dim=self.dim,
                sampler=self.sample_image,
                log_density=self.log_density_image,
            ),
            "target": Target(
                dim=self.dim,
                sampler=traceable(self.mixture.sample),
                potential=lambda y: -self.mixture.log_density(y),
                gradient=lambda y: -self.mixture.score(y),
                log_normaliser=0.0,
                total_variance=self.mixture.total_variance,
            ),
            "truth": self.inverse,
            "truth_inverse": self.brenier.gradient,
        }

    @property
    def dim(self) -> int:
        """Dimension d."""
        return int(self.mixture.means.shape[1])

    def sample_image(self, n: int, rng: np.random.Generator) -> Array:
        """Draws of Q, (n, d)."""
        return self.brenier.gradient(self.mixture.sample(n, rng))

    def inverse(self, y: Array) -> Array:
        """T^-1, (n, d) -> (n, d)."""
        return inverse_gradient(self.brenier, y, y, "is it further out than draws of the pair ever are?")

    def log_density_image(self, y: Any) -> Any:
        """log q(y) = log p(x) - log det DT(x), x = T^-1(y), (n, d) -> (n,)."""
        x = self.inverse(as_points(y, name="y", dim=self.dim))
        return like(self.mixture.log_density(x) - self.brenier.log_determinant(x), y)


def _locate(dim: int, directory: Path | None) -> list[Path]:
    """The two checkpoints. Raises `InvalidParameter`."""
    named = directory or os.environ.get(VARIABLE)
    names = [f"{dim}_v1.pt", f"{dim}_v2.pt"]
    remedy = (
        f"Download {' and '.join(names)} from the folder {FOLDER} of {REPOSITORY} (d = 2, 4, 8, ..., 256), and "
        f"put them into a directory that the parameter directory or the environment variable {VARIABLE} names, or into "
        "its subfolder korotin."
    )
    if not named:
        raise InvalidParameter(f"The problem korotin reads files, and no directory is named. {remedy}")
    folders = [Path(named), Path(named) / "korotin"]
    folder = next((folder for folder in folders if all((folder / name).is_file() for name in names)), None)
    if folder is None:
        raise InvalidParameter(f"The problem korotin at dim={dim} found no {' and '.join(names)} in {named}. {remedy}")
    return [folder / name for name in names]


def _mixture(dim: int) -> GaussianMixture:
    """P, by the authors' rule: NumPy's legacy generator, float32."""
    rng = np.random.RandomState(0)
    centres = np.zeros((3, dim), np.float32)
    for j in range(dim):
        centres[:, j] += rng.choice([0, 1, 2], 3, replace=False)
    centres -= 1
    matrices = rng.normal(size=(3, dim, dim)).astype(np.float32)
    matrices /= np.linalg.norm(matrices, axis=2, keepdims=True)
    unit = np.sqrt((centres**2).sum(axis=1).mean() + dim * 0.4**2) / np.sqrt(dim)
    return GaussianMixture(
        np.full(3, 1 / 3), (centres / unit).astype(np.float64), 0.4 * (matrices / unit).astype(float)
    )


def _brenier(networks: list[ConvexNetwork], scale: float, shift: Array) -> Differentiated:
    """x -> s (psi_1(x) + psi_2(x) - <b, x>)."""
    import torch

    slope = torch.tensor(shift, dtype=torch.float64)
    widest = max(len(bias) for network in networks for bias in network.biases)
    return Differentiated(
        lambda x: scale * (sum(network.value(x) for network in networks) - x @ slope),
        row_bytes=8 * 16 * widest * len(shift),
    )


def _standardisation(
    path: Path, networks: list[ConvexNetwork], mixture: GaussianMixture, dim: int
) -> tuple[float, Array, str]:
    """s, b, and a hash of both. Raises `InvalidInput` on a file that holds something else."""
    stored: dict[str, Any] = {}
    try:
        stored = json.loads(path.read_text())
        if not isinstance(stored, dict):
            raise ValueError("it holds no object")
        if str(dim) in stored:
            scale, shift = float(stored[str(dim)]["scale"]), np.array(stored[str(dim)]["shift"], dtype=np.float64)
            if shift.shape != (dim,) or not np.isfinite(shift).all() or not 0 < scale < np.inf:
                raise ValueError(f"dimension {dim} needs a positive scale and {dim} shifts")
            return scale, shift, _hash(scale, shift)
    except FileNotFoundError:
        pass
    except (ValueError, TypeError, KeyError) as reason:
        raise InvalidInput(
            f"{path} is no file of scales and shifts by dimension ({reason}); remove it to have it computed anew."
        ) from None
    slopes = _brenier(networks, 1.0, np.zeros(dim)).gradient(mixture.sample(DRAWS, np.random.default_rng(0)))
    scale, shift = float(np.sqrt(dim / slopes.var(axis=0).sum())), slopes.mean(axis=0)
    stored[str(dim)] = {"scale": scale, "shift": shift.tolist()}
    with suppress(OSError):  # a directory of others: computed anew each time
        beside = path.with_suffix(f".{os.getpid()}")
        beside.write_text(json.dumps(stored, indent=1) + "\n")
        beside.replace(path)
    return scale, shift, _hash(scale, shift)


def _hash(scale: float, shift: Array) -> str:
    """Of the constants as float32: they were, in the authors' code, and rounding of sums is below that."""
    return hashlib.sha256(np.array([scale, *np.round(shift, 5)], np.float32).tobytes()).hexdigest()
