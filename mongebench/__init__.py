"""mongebench: the benchmark suite for Monge-map estimators.

    >>> import mongebench as mb
    >>> p = mb.problem("gaussian", dim=2, seed=0)
    >>> r = mb.run_cell(p, mb.estimator("bures"), n_source=1000, n_target=1000, seed=0)
    >>> r.status
    <Status.OK: 'ok'>

Public names are those of `__init__.pyi`; each is imported at its first use, so that `import mongebench` and
`mongebench list` stay fast.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
