"""What every flow is around its scheme: parameters, the start at the identity, the setting of a fit, the map."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field

from mongebench.core.estimator import Claim, MapEstimator, Trace, keep_going
from mongebench.core.oracle import Oracle, SourceView, TargetView
from mongebench.estimators.draws import Side
from mongebench.estimators.flow.machinery.divergence import Divergence, KullbackLeibler
from mongebench.estimators.flow.machinery.evaluation import GradientMap, in_blocks, values
from mongebench.estimators.flow.machinery.objective import Batch
from mongebench.estimators.flow.machinery.sampled import EnergyDistance, KLScore, KLTwoScores, SinkhornDivergence
from mongebench.estimators.flow.potential import FAMILIES, Family, Potential, Quadratic
from mongebench.estimators.flow.schemes.checks import check_points
from mongebench.estimators.flow.schemes.scheme import Phase, Setting
from mongebench.estimators.flow.schemes.together import fit_together

DIVERGENCES: dict[str, type[Divergence]] = {
    "kl": KullbackLeibler,
    "kl_score": KLScore,
    "kl_two_scores": KLTwoScores,
    "sinkhorn_divergence": SinkhornDivergence,
    "energy_distance": EnergyDistance,
}
"""What a flow can move down, by the name that its parameter `divergence` has."""

if TYPE_CHECKING:
    DivergenceName: TypeAlias = str
else:
    DivergenceName = Literal[tuple(DIVERGENCES)]

Dtype = Literal["float32", "float64"]
Share = Annotated[float, Field(gt=0, lt=1)]
START_SHARE = 0.01
"""Of a flow that does not say otherwise: T_0 is the identity to about 1e-2."""


class Flow(MapEstimator):
    """Base of the flows: subclasses store the parameters below, among theirs, and write `_phases`.

    Parameters
    ----------
    divergence
        What the flow moves down, and with it the tier. With V known: "kl", in weak form (see `divergence`), or
        "kl_score", with the score of the moving law estimated from each batch, as published. From samples of both
        sides: "kl_two_scores", "sinkhorn_divergence", "energy_distance" (see `sampled`).
    epsilon
        Entropic regularisation of the sampled divergences, relative to the median squared distance between points.
    family
        "ridge", "quadratic", "icnn", "dense_icnn", "maxima" or "dictionary": the potentials phi that the flow moves.
        Maxima are the family for clusters in many dimensions; in the plane a network is ahead of them. The maps of a
        dictionary fill a convex cone, and explicit and implicit steps and Newton's are convex programs over it; plain
        descent projects onto it, and `FlowNatural` refuses it. The programs have a dense matrix: a family for few
        dimensions.
    units
        Ridges, units in each layer of the network, maxima, or features of the dictionary.
    depth
        Layers of the network.
    share
        Of the curvature of |x|^2 / 2 that ridges, network or maxima have at the start, strictly between 0 and 1; a
        quadratic has the rest. With a small share T_0 is the identity everywhere, with a large one on the average only.
        In many dimensions few units may ever grow out of a small one (128 maxima on `potential`, d = 64, 800 steps of
        Adam: UVP 2.7 % from a share of 0.9, 7.4 % from 0.01).
    batch_size
        Points per step, of mu0 and, where it is sampled, of the target; all of them where there are no more.
    dtype
        "float64" or "float32".

    Attributes
    ----------
    parameters_
        The potential (an equinox module) that `fit` ended with; the last good one when it raised `Diverged`.
    objective_
        D on the last batch.
    n_steps_
        Outer steps taken.
    flow_time_
        Sum of the steps tau; None for a scheme that follows no flow.
    """

    claims = frozenset({Claim.GRADIENT_OF_CONVEX})
    invertible = True
    matters_with: ClassVar[dict[str, Any]] = {
        "epsilon": {"divergence": ["kl_score", "kl_two_scores", "sinkhorn_divergence"]},
        "units": {"family": ["ridge", "icnn", "dense_icnn", "maxima", "dictionary"]},
        "depth": {"family": ["icnn", "dense_icnn"]},
        "share": {"family": ["ridge", "icnn", "dense_icnn", "maxima"]},
    }
    fit_together = staticmethod(fit_together)
    timed: ClassVar[bool] = True
    """Whether the scheme follows a flow."""
    divergence: DivergenceName
    epsilon: float
    family: Family
    units: int
    depth: int
    share: float = START_SHARE
    held_out: float = 0.0
    batch_size: int
    dtype: Dtype

    @property
    def needs(self) -> frozenset[Oracle]:  # type: ignore[override]
        """Those of the divergence."""
        return DIVERGENCES.get(self.divergence, KullbackLeibler).needs  # `fit` refuses an unknown one

    @property
    def modules(self) -> tuple[str, ...]:
        """Those of all flows."""
        return ("jax", "equinox")

    def fit(self, source: Any, target: Any, *, seed: int = 0, trace: Trace | None = None) -> Self:
        """Move the identity down the divergence.

        Raises
        ------
        InvalidParameter
            A parameter out of its range.
        InvalidInput
            A potential V that is not written for JAX, of the wrong shape, or not finite where the flow starts; fewer
            points of mu0 than determine the potential.
        Diverged
            With the step: D became NaN or infinite, or the map left all bounds. `parameters_` keeps the last good one.
        """
        (error,) = fit_together([self], [source], [target], seeds=[seed], traces=[trace or keep_going])
        if error is not None:
            raise error
        return self

    def transform(self, X: Any) -> Any:
        """T(x) = grad phi(x), (n, d) -> (n, d)."""
        return self._map()(X)

    def potential(self, X: Any) -> Any:
        """phi(x), (n, d) -> (n,)."""
        return in_blocks(values, self.parameters_, X)

    def inverse_transform(self, Y: Any) -> Any:
        """T^-1(y) = grad phi*(y), (n, d) -> (n, d), by Newton steps."""
        return self._map().inverse(Y, x=Y)

    def log_det(self, X: Any) -> Any:
        """log det DT(x), (n, d) -> (n,)."""
        return self._map().log_det(X)

    @abc.abstractmethod
    def _phases(self, setting: Setting) -> Iterable[Phase]:
        """The flow."""

    def _setting(self, source: SourceView, target: TargetView, seed: int) -> Setting:
        samples_target = Oracle.TARGET_SAMPLER in self.needs
        views = [source, target] if samples_target else [source]
        sides = [Side.of(view, self.held_out, (seed, stream), on_device=True) for stream, view in enumerate(views)]
        x = jnp.asarray(sides[0].batches(1, self.batch_size)[0], self.dtype)
        dim = x.shape[1]
        affine = Quadratic.identity_like(x)

        def enrich(quadratic: Quadratic, share: float) -> Potential:
            rng = np.random.default_rng(seed)
            return FAMILIES[self.family].start(quadratic, x, units=self.units, depth=self.depth, share=share, rng=rng)

        def draw(count: int, step: int, points: int | None = None, density: bool = False) -> Batch:
            both = [side.batches(count, points or self.batch_size) for side in sides]
            drawn = [jnp.asarray(side, self.dtype) for side in both]
            bits = np.random.default_rng((seed, step)).integers(1 << 32, size=(count, 2), dtype=np.uint32)
            none, bits = jax.device_put((np.zeros((count, 0, dim), self.dtype), bits))
            batch = Batch(drawn[0], drawn[1] if samples_target else none, bits)
            if not density:
                return batch
            # In float64 on the host; draws of the device as the steps see them.
            at = both[0] if isinstance(both[0], np.ndarray) else batch.x
            logarithms = source.log_density(at.reshape(-1, dim))
            return batch._replace(log_density=jnp.asarray(np.reshape(logarithms, (count, -1)), self.dtype))

        def unseen() -> Batch | None:
            if not all(len(side.held_out) for side in sides):
                return None
            points = [jnp.asarray(side.held_out, self.dtype) for side in sides]
            return Batch(points[0], points[1] if samples_target else jnp.zeros((0, dim), self.dtype), draw(1, 0).key[0])

        start = enrich(affine, self.share)
        held_out = unseen()
        if held_out is None:  # what stops by held-out points may have more parameters than its points determine
            check_points(sides[0].size, dim, start.free)
        return Setting(
            divergence=DIVERGENCES[self.divergence].to(
                target, dim, epsilon=self.epsilon, batch_size=self.batch_size, dtype=self.dtype
            ),
            affine=affine,
            start=start,
            enrich=enrich,
            draw=draw,
            charge=lambda points: None if samples_target else target.meter.charge(Oracle.TARGET_POTENTIAL, points),
            resampled=any(side.size is None or self.batch_size < side.size for side in sides),
            held_out=held_out,
        )

    def _keep(self, potential: Potential, objective: float, flow_time: float | None) -> None:
        self.parameters_, self.objective_, self.flow_time_ = potential, objective, flow_time

    def _map(self) -> GradientMap:
        return GradientMap(self.parameters_)
