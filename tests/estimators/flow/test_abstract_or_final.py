"""Families and divergences are abstract or final: what a class has is found in one place."""

from __future__ import annotations

import inspect
from typing import get_args, get_type_hints

import pytest

from mongebench.estimators.flow.machinery.divergence import Divergence
from mongebench.estimators.flow.potential import FAMILIES, Potential
from mongebench.estimators.flow.potential.clamped import Clamped
from mongebench.estimators.flow.schemes.base import DIVERGENCES
from mongebench.estimators.flow.schemes.newton import FlowNewton

ROOTS = {**dict.fromkeys((*FAMILIES.values(), Clamped), Potential), **dict.fromkeys(DIVERGENCES.values(), Divergence)}


@pytest.mark.parametrize("concrete", ROOTS, ids=lambda cls: cls.__name__)
def test_no_method_is_written_twice(concrete):
    """Along the bases from the root to the class each method is written once, after it was declared."""
    own = [cls for cls in concrete.__mro__ if issubclass(cls, ROOTS[concrete])]
    assert not inspect.isabstract(concrete)
    written = [
        name
        for cls in own
        for name, member in vars(cls).items()
        if not name.startswith("__")
        and isinstance(member, (property, classmethod, staticmethod)) | inspect.isfunction(member)
        and not getattr(member, "__isabstractmethod__", False)
    ]
    assert written
    assert len(written) == len(set(written))


def test_valid_names_are_those_of_the_registries():
    hints = get_type_hints(FlowNewton.__init__)
    assert get_args(hints["family"]) == tuple(FAMILIES)
    assert get_args(hints["divergence"]) == tuple(DIVERGENCES)
