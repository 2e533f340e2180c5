"""The fakes as classes of this process."""

from collections.abc import Callable
from pathlib import Path

import pytest

import mongebench as mb
from mongebench.plugins import import_file


@pytest.fixture(scope="session")
def fake() -> Callable[[str], mb.MapEstimator]:
    module = import_file(Path(__file__).with_name("fakes.py"))
    return lambda name: getattr(module, name)()
