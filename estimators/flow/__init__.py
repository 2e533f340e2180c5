"""Constrained gradient flows: T = grad phi moves down F(T) = E[V(T) - log det DT] without leaving the gradients.

One file a scheme (`newton`, `implicit`, `explicit`, `natural`, and `euclidean` to compare with), all on the same convex
potentials (`potential`), the same divergences (`divergence`: KL in weak form; `sampled`: those known through samples)
and, but for the plain descent, the same Gauss-Newton matrix (`gauss_newton`). In high dimension log det DT is probed
(`probing`). `base` holds what every fit does around its scheme.

The family `dictionary` fills a convex cone of maps, over which steps are convex programs (`cone`); `pursuit` lets that
cone grow while it steps.
"""
