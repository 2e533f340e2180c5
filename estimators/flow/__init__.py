"""Constrained gradient flows: T = grad phi moves down F(T) = E[V(T) - log det DT] without leaving the gradients.

Three rooms, each built on the next:

- `schemes`, one file an estimator (`newton`, `pursuit`, `implicit`, `explicit`, `natural`, and `euclidean` to compare
  with; `published` is the authors' own code, line by line), and what every fit does around its scheme (`base`);
- `machinery`: the divergences (`divergence`: KL in weak form; `sampled`: those known through samples), the objective on
  a batch and its subproblems, Gauss-Newton and plain gradient steps on them, probes of log det DT in high dimension;
- `potential`: the families of convex potentials that all schemes move. `dictionary` fills a convex cone of maps, over
  which steps are convex programs (`machinery.cone`); `pursuit` lets that cone grow while it steps.
"""
