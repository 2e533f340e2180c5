"""Neural rivals from ott: input-convex duals, expectile-regularised duals, the Monge gap; one way of training them.

All train in float32, in centred coordinates divided by one scalar for both clouds, with Adam, for a number of steps
that is a parameter: from batches of fixed samples, or from fresh draws where those are without limit, as in what their
authors publish. What differs is the solver of ott, its networks and its loss. They need flax, the extra `neural` of
mongebench.
"""

from __future__ import annotations

import abc
import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt

from mongebench.core.arrays import Points, padded_blocks
from mongebench.core.errors import Diverged
from mongebench.core.estimator import Claim, MapEstimator, Range, Trace, keep_going
from mongebench.core.oracle import Oracle
from mongebench.estimators.draws import Side, scaled
from mongebench.estimators.standard import standardised

TRACES = 10
"""Times a fit shows its map to the trace."""


class _Stop(Exception):
    """The trace wants no further step; ott's loops end by an exception alone."""


class Neural(MapEstimator):
    """Base of the neural rivals: subclasses store the parameters below and write `_solver`, `_train` and `_images`.

    Parameters
    ----------
    steps, batch_size
        Of Adam, and points of each side per step: fresh draws, or a random part of a fixed sample (all of it where it
        has no more).
    width, depth
        Hidden layers of each network.
    learning_rate
        Of Adam.

    Attributes
    ----------
    parameters_
        Of the network whose map is evaluated.
    n_steps_
        Steps taken.
    """

    needs = frozenset({Oracle.SOURCE_SAMPLER, Oracle.TARGET_SAMPLER})
    claims = frozenset({Claim.TRANSLATION_EQUIVARIANT, Claim.UNIT_FREE})
    any_size = True
    steps: int
    batch_size: int
    width: int
    depth: int
    learning_rate: float

    @property
    def modules(self) -> tuple[str, ...]:
        """Jax, flax and optax; ott's modules are imported by `fit`, which silences their deprecations."""
        return ("jax", "flax", "optax")

    def fit(self, source: Any, target: Any, *, seed: int = 0, trace: Trace | None = None) -> Self:
        """Train; the trace sees ten maps, the first before any step, which ott compiles in tens of seconds.

        Raises
        ------
        Diverged
            The parameters became NaN or infinite.
        """
        import jax

        watch = trace or keep_going
        views = enumerate((source, target))
        sides = [Side.of_set(view, 0.0, (seed, stream), on_device=True) for stream, view in views]
        x, y, self.source_mean_, self.target_mean_, self.scale_ = standardised(*(side.beginning() for side in sides))
        self.n_steps_, self.parameters_ = 0, None
        if not (x.any() or y.any()):
            return self  # one point on each side: the translation, and nothing to train
        with jax.enable_x64(False), contextlib.redirect_stderr(io.StringIO()):  # ott's progress bars
            solver = self._begin(x.shape[1], seed)

            def batches(side: Side, mean: Points, at: Callable[[int], None]) -> Iterator[Any]:
                for batch in range(self.steps * self._batches):
                    if batch % self._batches == 0:
                        at(batch // self._batches)
                    yield scaled(side.batches(1, self.batch_size)[0], mean, self.scale_, np.dtype(np.float32))

            def look(step: int) -> None:
                self.n_steps_, self.parameters_ = step, self._reached(solver)
                if step % -(-self.steps // TRACES) == 0 and not watch(self._map):
                    raise _Stop

            loaders = (
                batches(sides[0], self.source_mean_, look),
                batches(sides[1], self.target_mean_, lambda _: None),
            )
            try:
                self._train(solver, *loaders)
                self.n_steps_, self.parameters_ = self.steps, self._reached(solver)
            except _Stop:
                pass
            if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(self.parameters_)):
                raise Diverged(f"step {self.n_steps_}: parameters are NaN or infinite; lower learning_rate.")
        return self

    def _begin(self, dim: int, seed: int) -> Any:
        """The solver of ott; sets how parameters become a map."""
        import jax

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "JAXopt", DeprecationWarning)  # ott's business, as in `entropic`
            solver, images = self._solver(dim, jax.random.key(seed))
        self._compiled = jax.jit(images)
        return solver

    def restore(self, state: dict[str, Any]) -> None:
        """The map of the parameters is compiled again."""
        import jax

        super().restore(state)
        with jax.enable_x64(False):
            self._begin(self.n_features_in_, seed=0)

    def transform(self, X: Any) -> Any:
        """The map of the network, (n, d) -> (n, d)."""
        return self._map(X)

    def _map(self, x: Points) -> Points:
        import jax

        if self.parameters_ is None:
            translated: Points = x - self.source_mean_ + self.target_mean_
            return translated
        scaled = ((x - self.source_mean_) / self.scale_).astype(np.float32)
        with jax.enable_x64(False):
            images = padded_blocks(lambda block: self._compiled(self.parameters_, block), scaled)
        moved: Points = self.target_mean_ + self.scale_ * images.astype(np.float64)
        return moved

    @abc.abstractmethod
    def _solver(self, dim: int, key: Any) -> tuple[Any, Callable[[Any, Any], Any]]:
        """The solver of ott, its networks initialised from `key`, and (parameters, (n, d)) -> (n, d), its map."""

    @abc.abstractmethod
    def _train(self, solver: Any, source: Iterator[Points], target: Iterator[Points]) -> None:
        """Run the solver's own loop."""

    @property
    def _batches(self) -> int:
        """That a step takes."""
        return 1

    def _reached(self, solver: Any) -> Any:
        """The parameters of the map."""
        return solver.state_f.params


class W2Dual(Neural):
    """Neural dual for W2: T = grad f with f an input-convex network (ICNN).

    inf_f E f(X) + E f*(Y) over convex f, f*(y) = <x, y> - f(x) at x = grad g(y), g a second ICNN that maximises it:
    Makkuva, Taghvaei, Oh, Lee 2020, Optimal transport mapping via input convex neural networks. By `W2NeuralDual` of
    ott, by default with `amortization_loss="objective"` and no conjugate solver: with the L-BFGS that ott would run
    from grad g(y) a fit had not ended after 200 s on a busy machine. f and g take turns, as Makkuva et al. have it:
    where ott (0.6) moves both at once without a conjugate solver, the two losses cancel in the gradient by g, which
    stays where it began, and f runs away. The map is grad f itself: ott's `transport` goes half of the way there.
    `pos_weights` is set in the networks too, where ott's default is another one.

    The networks average: a layer's weights on the one before are softplus(w) / width, so that depth and width do not
    multiply up. Units are softplus of a linear form and a diagonal quadratic one, with standard normal weights. The
    first map is then 0.4 to 1.3 times the norm of the source away from the identity, in every dimension, half of that a
    shift (by ott's own weights 6 to 24 times in d = 8 and 1, from which some seeds never recover). Adam's learning
    rate decays to a hundredth along half a cosine. Weights, `learning_rate` and `inner_steps` were chosen on
    seed 1 of gaussian, potential and product_mixture, d = 1, 2, 8, n = 500.

    Parameters
    ----------
    steps, batch_size, width, depth
        As in `Neural`.
    learning_rate
        Of Adam, at the start.
    inner_steps
        Steps of g before each step of f, a batch each.
    conjugates
        "network": f* at x = grad g(y), g trained by the same objective. "lbfgs": at the x that ott's L-BFGS finds from
        there, g being regressed on it (Amos 2023); many times slower a step.
    """

    tunable: ClassVar[dict[str, Any]] = {
        "learning_rate": Range(0.005, 0.2),
        "steps": [150, 300, 600],
        "width": [32, 64, 128],
        "inner_steps": [2, 4, 8],
    }

    def __init__(
        self,
        steps: PositiveInt = 1000,
        batch_size: PositiveInt = 128,
        width: PositiveInt = 64,
        depth: PositiveInt = 3,
        learning_rate: PositiveFloat = 0.05,
        inner_steps: PositiveInt = 4,
        conjugates: Literal["network", "lbfgs"] = "network",
    ) -> None:
        self.steps = steps
        self.batch_size = batch_size
        self.width = width
        self.depth = depth
        self.learning_rate = learning_rate
        self.inner_steps = inner_steps
        self.conjugates = conjugates

    @property
    def _batches(self) -> int:
        return self.inner_steps + 1

    def _solver(self, dim: int, key: Any) -> tuple[Any, Callable[[Any, Any], Any]]:
        import jax
        import optax
        from ott.neural.methods.neuraldual import W2NeuralDual
        from ott.neural.networks.icnn import ICNN
        from ott.neural.networks.layers.conjugate import DEFAULT_CONJUGATE_SOLVER

        networks = [
            ICNN(
                dim_data=dim,
                dim_hidden=[self.width] * self.depth,
                ranks=0,
                init_fn=jax.nn.initializers.normal(1.0),
                act_fn=jax.nn.softplus,
                pos_weights=True,
                rectifier_fn=lambda weights: jax.nn.softplus(weights) / len(weights),
            )
            for _ in "fg"
        ]
        optimizers = [
            optax.adam(optax.cosine_decay_schedule(self.learning_rate, steps, alpha=0.01), b1=0.5, b2=0.9)
            for steps in (self.steps, self.steps * self.inner_steps)
        ]
        solver = W2NeuralDual(
            dim,
            *networks,
            *optimizers,
            num_train_iters=self.steps,
            num_inner_iters=self.inner_steps,
            parallel_updates=False,
            valid_freq=self.steps + 1,
            conjugate_solver=None if self.conjugates == "network" else DEFAULT_CONJUGATE_SOLVER,
            amortization_loss="objective" if self.conjugates == "network" else "regression",
            rng=key,
        )
        return solver, lambda parameters, x: networks[0].potential_gradient_fn(parameters)(x)

    def _train(self, solver: Any, source: Iterator[Points], target: Iterator[Points]) -> None:
        solver(source, target, source, target)


class ENOT(Neural):
    """Expectile-regularised neural dual: T = x - grad f / 2, f and g free networks tied by an expectile loss.

    sup_g inf_T E |X - T(X)|^2 + E g(Y) - E g(T(X)), with a penalty that binds f and g where they are each other's
    c-transform, the expectile of f + g - c being small: Buzun, Bobrin, Dylov 2024, ENOT: Expectile regularization for
    fast and accurate training of neural optimal transport. By `ExpectileNeuralDual` of ott, by default with its own
    expectile and weight, ELU networks with the initialisation of flax, so that T begins near the identity.

    Parameters
    ----------
    steps, batch_size, width, depth, learning_rate
        As in `Neural`.
    expectile, weight
        Of the penalty.
    """

    tunable: ClassVar[dict[str, Any]] = {
        "learning_rate": Range(0.0001, 0.01),
        "steps": [500, 1000, 2000],
        "width": [32, 64, 128],
        "batch_size": [128, 256],
    }

    def __init__(
        self,
        steps: PositiveInt = 2000,
        batch_size: PositiveInt = 256,
        width: PositiveInt = 64,
        depth: PositiveInt = 3,
        learning_rate: PositiveFloat = 1e-3,
        expectile: Annotated[float, Field(gt=0.5, lt=1)] = 0.99,
        weight: PositiveFloat = 1.0,
    ) -> None:
        self.steps = steps
        self.batch_size = batch_size
        self.width = width
        self.depth = depth
        self.learning_rate = learning_rate
        self.expectile = expectile
        self.weight = weight

    def _solver(self, dim: int, key: Any) -> tuple[Any, Callable[[Any, Any], Any]]:
        import jax
        import optax
        from ott.neural.methods.expectile_neural_dual import ExpectileNeuralDual
        from ott.neural.networks.potentials import MLP

        networks = [MLP(dim_hidden=[*[self.width] * self.depth, 1], act_fn=jax.nn.elu) for _ in "fg"]
        solver = ExpectileNeuralDual(
            dim,
            *networks,
            optimizer_f=optax.adam(self.learning_rate, b1=0.9, b2=0.9),
            optimizer_g=optax.adam(self.learning_rate, b1=0.9, b2=0.9),
            num_train_iters=self.steps,
            valid_freq=self.steps + 1,
            expectile=self.expectile,
            expectile_loss_coef=self.weight,
            rng=key,
        )
        return solver, lambda parameters, x: x - jax.vmap(solver.neural_f.potential_gradient_fn(parameters))(x) / 2

    def _train(self, solver: Any, source: Iterator[Points], target: Iterator[Points]) -> None:
        solver(source, target, source, target)


class MongeGap(Neural):
    """Monge gap: a free network fitted to the target in Sinkhorn divergence, and penalised for not being optimal.

    min_T S_eps(T#mu0, gamma) + lambda (E |X - T(X)|^2 - W_eps(mu0, T#mu0)), the second term zero exactly for optimal
    maps as eps -> 0: Uscidda and Cuturi 2023, The Monge gap: a regularizer to learn all transport maps. By
    `MongeGapEstimator` of ott; T(x) = x + MLP(x) with the initialisation of flax. T need not be a gradient.

    Parameters
    ----------
    steps, batch_size, width, depth, learning_rate
        As in `Neural`.
    epsilon
        Of both terms, in units of the mean of |x - y|^2 / 2 between two standardised clouds, d.
    strength
        lambda.
    """

    tunable: ClassVar[dict[str, Any]] = {
        "learning_rate": Range(0.0003, 0.03),
        "steps": [100, 200, 500],
        "epsilon": Range(0.01, 0.5),
        "strength": Range(0.1, 10.0),
    }

    def __init__(
        self,
        steps: PositiveInt = 500,
        batch_size: PositiveInt = 128,
        width: PositiveInt = 64,
        depth: PositiveInt = 2,
        learning_rate: PositiveFloat = 3e-3,
        epsilon: PositiveFloat = 0.05,
        strength: PositiveFloat = 1.0,
    ) -> None:
        self.steps = steps
        self.batch_size = batch_size
        self.width = width
        self.depth = depth
        self.learning_rate = learning_rate
        self.epsilon = epsilon
        self.strength = strength

    def _solver(self, dim: int, key: Any) -> tuple[Any, Callable[[Any, Any], Any]]:
        import optax
        from ott.neural.methods.monge_gap import MongeGapEstimator, monge_gap_from_samples
        from ott.neural.networks.potentials import PotentialMLP
        from ott.tools.sinkhorn_divergence import sinkdiv

        epsilon = 2 * self.epsilon * dim  # ott's cost has no 1/2
        network = PotentialMLP(dim_hidden=[self.width] * self.depth, is_potential=False)
        solver = MongeGapEstimator(
            dim,
            network,
            optimizer=optax.adam(self.learning_rate),
            fitting_loss=lambda mapped, goals: (sinkdiv(mapped, goals, epsilon=epsilon)[0], None),
            regularizer=lambda points, mapped: (monge_gap_from_samples(points, mapped, epsilon=epsilon), None),
            regularizer_strength=self.strength,
            num_train_iters=self.steps,
            rng=key,
        )
        return solver, lambda parameters, x: network.apply({"params": parameters}, x)

    def _train(self, solver: Any, source: Iterator[Points], target: Iterator[Points]) -> None:
        solver.train_map_estimator(source, target, source, target)

    def _reached(self, solver: Any) -> Any:
        return solver.state_neural_net.params
