import sys
from types import ModuleType

from mongebench.core.estimator import *


class _C(ModuleType):
    def __call__(self, *a, **k):
        from mongebench.plugins import estimator
        return estimator(*a, **k)
sys.modules[__name__].__class__ = _C
