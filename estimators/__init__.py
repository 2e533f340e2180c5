"""Monge-map estimators, one file per family.

`mongebench.estimators` is this package and, called, the list of registered names: `mongebench.estimators()`.
"""

import sys
from types import ModuleType


class _CallablePackage(ModuleType):
    def __call__(self) -> list[str]:
        from mongebench.plugins import estimators

        return estimators()


sys.modules[__name__].__class__ = _CallablePackage
