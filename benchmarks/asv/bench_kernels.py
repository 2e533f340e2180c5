"""Times and errors of the kernels every cell goes through. Lower is better, for asv always."""

import numpy as np

import mongebench as mb


class Sorting:
    """The one estimator with a cost we can state: two sorts."""

    params = [10**4, 10**6]
    param_names = ["n"]

    def setup(self, n):
        rng = np.random.default_rng(0)
        self.x, self.y = rng.normal(size=(n, 1)), rng.gumbel(size=(n, 1))
        self.time_fit(n)  # what is imported at the first fit is not its time

    def time_fit(self, n):
        mb.estimator("sorting").fit(self.x, self.y)


class Evaluation:
    """All metrics of one map."""

    params = [2, 32]
    param_names = ["dim"]

    def setup(self, dim):
        self.problem = mb.problem("gaussian", dim=dim, seed=0)
        self.map = mb.fit(self.problem, mb.estimator("bures"), n_source=500, n_target=500).transform

    def time_evaluate(self, dim):
        mb.evaluate(self.map, self.problem, n=2000)

    def peakmem_evaluate(self, dim):
        mb.evaluate(self.map, self.problem, n=2000)


class FlowStep:
    """One step of `flow_newton` on a ridge potential, compiled before it is timed."""

    params = [2, 32]
    param_names = ["dim"]

    def setup(self, dim):
        import jax
        import jax.numpy as jnp
        from jax.flatten_util import ravel_pytree

        from mongebench.estimators.flow.machinery.divergence import KullbackLeibler
        from mongebench.estimators.flow.machinery.gauss_newton import GaussNewton
        from mongebench.estimators.flow.machinery.objective import Batch
        from mongebench.estimators.flow.machinery.subproblem import Subproblem
        from mongebench.estimators.flow.potential import FAMILIES, Quadratic

        rng = np.random.default_rng(0)
        x = jnp.asarray(1 + 0.5 * rng.standard_normal((256, dim)), jnp.float32)
        potential = FAMILIES["ridge"].start(Quadratic.identity_like(x), x, units=64, depth=1, share=0.5, rng=rng)
        batch = Batch(x, jnp.zeros((0, dim), x.dtype), jnp.zeros(2, jnp.uint32))
        to_normal = KullbackLeibler(lambda y: jnp.sum(y**2, axis=1) / 2, dim)
        method = GaussNewton(potential, Subproblem(to_normal, linear=False))
        theta, _ = ravel_pytree(potential)
        step = jax.jit(lambda theta: method.step(theta, theta, batch, jnp.float32(100.0), jnp.float32(1e-3)))
        self.step = lambda: jax.block_until_ready(step(theta))
        self.step()

    def time_step(self, dim):
        self.step()

    def peakmem_step(self, dim):
        self.step()


class Accuracy:
    """Seeded errors: a change means that the numbers changed, not the machine."""

    params = [["bures", "exact"], [2, 8]]
    param_names = ["estimator", "dim"]
    unit = "UVP, %"

    def track_uvp(self, estimator, dim):
        problem = mb.problem("gaussian", dim=dim, seed=0)
        record = mb.run_cell(problem, mb.estimator(estimator), n_source=500, n_target=500, evaluation_points=1000)
        return record.metrics["uvp"].value if record.status.measured else float("nan")
