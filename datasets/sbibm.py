"""Two tasks of the benchmark sbibm whose targets are strongly log-concave, read from the files of its wheel."""

from __future__ import annotations

import bz2
import importlib.util
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from mongebench.core.errors import InvalidInput
from mongebench.core.measure import Target
from mongebench.core.problem import Problem, TruthTier
from mongebench.datasets import references
from mongebench.datasets.gaussian import Normal, normal_pair
from mongebench.datasets.linear import Array, constants

VARIANCE = 0.1
"""Of prior and noise of `gaussian_linear`."""


def sbibm(
    task: Literal["gaussian_linear", "bernoulli_glm"],
    *,
    observation: Annotated[int, Field(ge=1, le=10)] = 1,
) -> Problem:
    """N(0, I) -> a posterior of sbibm, d = 10, with the 10 000 reference draws of its wheel.

    - "gaussian_linear": prior N(0, 0.1 I), data N(theta, 0.1 I), hence the posterior N(data / 2, 0.05 I), and T* is
      affine: the one posterior here whose truth is known.
    - "bernoulli_glm": a neuron's spikes, 100 binary outcomes with a logit that is linear in an offset and a filter of
      nine weights, and a Gaussian prior that favours smooth filters; lambda is the least eigenvalue of its precision.

    Half of the draws serve to fit from, the rest to evaluate on. The package sbibm has to be there (`pip install
    --no-deps sbibm`: its files are read, its code is not run, and what it depends on is not needed).

    Parameters
    ----------
    task
        Prior and likelihood.
    observation
        Number of the data, 1 to 10.

    Raises
    ------
    ModuleNotFoundError
        sbibm is not installed.
    InvalidInput
        Its files are not those of version 1.1.

    References
    ----------
    Lueckmann, Boelts, Greenberg, Goncalves, Macke 2021, Benchmarking simulation-based inference, AISTATS.
    """
    folder = _folder(task)
    try:
        data = np.loadtxt(folder / f"num_observation_{observation}" / "observation.csv", delimiter=",", skiprows=1)
        path = folder / f"num_observation_{observation}" / "reference_posterior_samples.csv.bz2"
        with bz2.open(path, "rt", encoding="utf-8") as file:
            draws = np.loadtxt(file, delimiter=",", skiprows=1)
        return _gaussian_linear(data, draws) if task == "gaussian_linear" else _bernoulli_glm(folder, data, draws)
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"The files of sbibm's task {task} cannot be read: {error}; expected version 1.1."
        ) from error


def _folder(task: str) -> Path:
    found = importlib.util.find_spec("sbibm")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("No package sbibm, of which files alone are read: --no-deps will do", name="sbibm")
    return Path(found.submodule_search_locations[0]) / "tasks" / task / "files"


def _gaussian_linear(data: Array, draws: Array) -> Problem:
    dim = len(data)
    posterior = Normal(data / 2, np.eye(dim), np.full(dim, VARIANCE / 2))
    exact = normal_pair(Normal.standard(dim), posterior, version=1)
    return references.problem(
        exact.source,
        exact.target,
        draws,
        version=1,
        truth=exact.truth,
        truth_inverse=exact.truth_inverse,
        truth_tier=TruthTier.CLOSED_FORM,
        strong_convexity=exact.strong_convexity,
    )


def _bernoulli_glm(folder: Path, data: Array, draws: Array) -> Problem:
    import torch

    design = torch.load(folder / "design_matrix.pt", weights_only=True).numpy().astype(np.float64)
    dim = design.shape[1]
    precision = _smooth_prior(dim)

    # The data are the sufficient statistics, the design's columns times the spikes.
    def potential(b: Any) -> Any:
        xp, of_design, of_data, of_prior = constants(b, design, data, precision)
        logits = b @ of_design.T
        likelihood = xp.sum(xp.logaddexp(xp.zeros_like(logits), logits), axis=1) - b @ of_data
        return likelihood + xp.sum((b @ of_prior) * b, axis=1) / 2

    def gradient(b: Any) -> Any:
        xp, of_design, of_data, of_prior = constants(b, design, data, precision)
        logits = b @ of_design.T
        spikes = xp.exp(-xp.logaddexp(xp.zeros_like(logits), -logits))
        return spikes @ of_design - of_data + b @ of_prior

    return references.problem(
        Normal.standard(dim).as_source(),
        Target(dim=dim, potential=potential, gradient=gradient),
        draws,
        version=1,
        strong_convexity=float(np.linalg.eigvalsh(precision)[0]),
    )


def _smooth_prior(dim: int) -> Array:
    """The prior's precision: 0.5 for the offset, F^T F for the filter, F its second differences plus weights."""
    count = dim - 1
    first = np.eye(count) - np.eye(count, k=-1)
    differences = first @ first + np.diag(np.sqrt(np.arange(count) / count))
    precision = np.zeros((dim, dim))
    precision[0, 0] = 0.5
    precision[1:, 1:] = differences.T @ differences
    return precision
