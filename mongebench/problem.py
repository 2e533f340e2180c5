import sys
from types import ModuleType

from mongebench.core.problem import *


class _C(ModuleType):
    def __call__(self, *a, **k):
        from mongebench.plugins import problem
        return problem(*a, **k)
sys.modules[__name__].__class__ = _C
