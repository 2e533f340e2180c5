"""The fakes as classes of this process."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import mongebench as mb
from mongebench.plugins import import_file
from mongebench.report.figures import printed


@pytest.fixture(autouse=True, scope="module")
def no_figures() -> Iterator[None]:
    """Nobody looks at the figures of the runs that these tests start in this process; drawing them takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(printed, "draw", lambda run, folder: [])
        yield


@pytest.fixture(scope="session")
def fake() -> Callable[[str], mb.MapEstimator]:
    module = import_file(Path(__file__).with_name("fakes.py"))
    return lambda name: getattr(module, name)()
