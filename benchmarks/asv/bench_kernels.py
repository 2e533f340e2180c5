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


class Accuracy:
    """Seeded errors: a change means that the numbers changed, not the machine."""

    params = [["bures", "exact"], [2, 8]]
    param_names = ["estimator", "dim"]
    unit = "UVP, %"

    def track_uvp(self, estimator, dim):
        problem = mb.problem("gaussian", dim=dim, seed=0)
        record = mb.run_cell(problem, mb.estimator(estimator), n_source=500, n_target=500, evaluation_points=1000)
        return record.metrics["uvp"].value if record.status.measured else float("nan")
