"""Drifting models: a free generator, trained by the field that drives its images to the target."""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt

from mongebench.core.arrays import Points, blockwise
from mongebench.core.estimator import Claim, MapEstimator, Range, Trace, keep_going
from mongebench.core.oracle import Oracle
from mongebench.estimators.draws import Side
from mongebench.estimators.standard import standardised

TRACES = 20
"""Times a fit shows its map to the trace."""


class Drifting(MapEstimator):
    """Drifting model: a neural generator that pushes mu0 to the target, with nothing that makes it a gradient.

    f_theta is regressed on where a field V would move its own images, f_theta(x) <- f_theta(x) + V(f_theta(x)), the
    right-hand side held fixed: Deng, Li, Li, Du, He 2026, Generative modeling via drifting (arXiv 2602.04770). With
    images f of a batch, target samples y and the kernel k(u, v) = exp(-|u - v| / (tau r)), r the mean distance of all
    pairs, normalised over the pairs of a row and of a column (the geometric mean of both softmaxes),

        V(u) = sum_j sum_k k(u, y_j) k(u, f_k) (y_j - f_k),    u not among the f_k,

    attracts to the target and repels from the other images; it vanishes where both laws agree. V is brought to unit
    mean square for each temperature tau and summed over them (the paper's algorithm 2 and appendix).

    It is in the tables to show what good generation is worth as transport: its law comes close to the target, but any
    rearrangement that preserves the law is equally good for it, so it need not come close to T*. It begins at the
    identity in centred coordinates of unit scale, which favours short displacements.

    Parameters
    ----------
    steps, batch_size
        Of Adam, and points of each side per step: fresh draws, or a random part of a fixed sample (all of it where it
        has no more).
    width, depth
        Of the network f(x) = x + MLP(x), GELU, whose last layer begins at zero.
    learning_rate
        At the start; it falls to zero like a cosine.
    temperatures
        tau, as in the paper.
    dtype
        "float64" or "float32", of the training; the map is evaluated in float64.
    """

    needs = frozenset({Oracle.SOURCE_SAMPLER, Oracle.TARGET_SAMPLER})
    claims = frozenset({Claim.TRANSLATION_EQUIVARIANT, Claim.UNIT_FREE})
    any_size = True

    tunable: ClassVar[dict[str, Any]] = {
        "learning_rate": Range(0.0003, 0.03),
        "steps": [250, 500, 1000],
        "width": [32, 64, 128],
    }

    def __init__(
        self,
        steps: PositiveInt = 1000,
        batch_size: PositiveInt = 128,
        width: PositiveInt = 64,
        depth: PositiveInt = 2,
        learning_rate: PositiveFloat = 3e-3,
        temperatures: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (0.02, 0.05, 0.2),
        dtype: Literal["float32", "float64"] = "float64",
    ) -> None:
        self.steps = steps
        self.batch_size = batch_size
        self.width = width
        self.depth = depth
        self.learning_rate = learning_rate
        self.temperatures = temperatures
        self.dtype = dtype

    @property
    def modules(self) -> tuple[str, ...]:
        """Torch."""
        return ("torch",)

    def fit(self, source: Any, target: Any, *, seed: int = 0, trace: Trace | None = None) -> Self:
        """Train; the trace sees the map twenty times."""
        import torch

        watch = trace or keep_going
        sides = [Side.of_set(view, 0.0, (seed, stream)) for stream, view in enumerate((source, target))]
        x, _, self.source_mean_, self.target_mean_, self.scale_ = standardised(*(side.beginning() for side in sides))
        dtype = getattr(torch, self.dtype)

        def draw(side: Side, mean: Any) -> Any:
            return torch.tensor((side.batches(1, self.batch_size)[0] - mean) / self.scale_, dtype=dtype)

        generator = torch.Generator().manual_seed(seed)
        self.network_ = _network(x.shape[1], self.width, self.depth, generator).to(dtype)
        optimiser = torch.optim.Adam(self.network_.parameters(), lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.steps)
        self.n_steps_ = 0
        for step in range(1, self.steps + 1):
            batch, goals = draw(sides[0], self.source_mean_), draw(sides[1], self.target_mean_)
            images = batch + self.network_(batch)
            with torch.no_grad():
                field = sum(drift(images, goals, tau) for tau in self.temperatures)
                drifted = images + field
            loss = ((images - drifted) ** 2).sum(dim=1).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            self.n_steps_ = step
            if step % -(-self.steps // TRACES) == 0 and not watch(self._map):
                break
        self.network_ = self.network_.double()
        return self

    def transform(self, X: Any) -> Any:
        """The generator, (n, d) -> (n, d)."""
        return self._map(X)

    def fitted_state(self) -> dict[str, Any]:
        """With the parameters of the network in its place."""
        return super().fitted_state() | {"network_": dict(self.network_.state_dict())}

    def restore(self, state: dict[str, Any]) -> None:
        """The network is built again and given its parameters."""
        import torch

        super().restore(state)
        network = _network(self.n_features_in_, self.width, self.depth, torch.Generator())
        network.load_state_dict(self.network_)
        self.network_ = network

    def _map(self, x: Points) -> Points:
        import torch

        kind = next(self.network_.parameters()).dtype

        def images(x: Points) -> Points:
            scaled = (x - self.source_mean_) / self.scale_
            with torch.no_grad():
                drift: Points = self.network_(torch.tensor(scaled, dtype=kind)).double().numpy()
            return self.target_mean_ + self.scale_ * (scaled + drift)

        return blockwise(images, x, row_bytes=8 * 4 * self.width, block_bytes=1 << 22)


def _network(dim: int, width: int, depth: int, generator: Any) -> Any:
    """The MLP, from draws of `generator` alone: torch's own initialisation would use the global one."""
    import torch

    sizes = [dim, *[width] * depth, dim]
    layers: list[torch.nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        skip_init: Any = torch.nn.utils.skip_init
        linear = skip_init(torch.nn.Linear, inputs, outputs, dtype=torch.float64)
        bound = 0.0 if len(layers) == 2 * depth else 1 / math.sqrt(inputs)
        with torch.no_grad():
            for parameter in linear.parameters():
                parameter.uniform_(-1, 1, generator=generator).mul_(bound)
        layers += [linear, torch.nn.GELU()]
    return torch.nn.Sequential(*layers[:-1])


def drift(images: Any, goals: Any, temperature: float, *, normalised: bool = True) -> Any:
    """V of `Drifting` at the images (n, d) towards the goals (m, d), torch tensors; of mean square 1 in a coordinate.

    It is zero for a single image, which has nothing to be repelled from.
    """
    import torch

    distances = torch.cat([torch.cdist(images, goals), torch.cdist(images, images)], dim=1)
    scale: Any = distances.mean()
    if not scale > 0:
        return torch.zeros_like(images)
    distances[:, len(goals) :].fill_diagonal_(math.inf)
    logits = -distances / (temperature * scale)
    # of the softmax over a row and the softmax over a column, the geometric mean; no image repels itself
    rows, columns = torch.log_softmax(logits, dim=1), torch.nan_to_num(torch.log_softmax(logits, dim=0), nan=-math.inf)
    weights = torch.exp((rows + columns) / 2)
    attraction, repulsion = weights[:, : len(goals)], weights[:, len(goals) :]
    field = (attraction * repulsion.sum(dim=1, keepdim=True)) @ goals
    field = field - (repulsion * attraction.sum(dim=1, keepdim=True)) @ images
    size = torch.sqrt((field**2).mean())
    return field / size if normalised and size > 0 else field
