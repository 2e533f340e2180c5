"""Where and with what a record is made: code, versions, machine, environment. Nothing that names a person or a host."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

from mongebench.core import device_draws
from mongebench.core.estimator import CPU_ALONE
from mongebench.run.device import Use, precision
from mongebench.run.record import Provenance

LIBRARIES = ("numpy", "scipy", "scikit-learn", "jax", "jaxlib", "torch", "POT", "ott-jax")
# Variables that change results or speed.
VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NPROC",
    "XLA_FLAGS",
    "JAX_PLATFORMS",
    "JAX_ENABLE_X64",
    "CUDA_VISIBLE_DEVICES",
    "XLA_PYTHON_CLIENT_PREALLOCATE",
    "NVIDIA_TF32_OVERRIDE",
    device_draws.VARIABLE,
)


def provenance(
    *, threads: int, workers: int, exclusive: bool = False, framework: str = CPU_ALONE, used: Use | None = None
) -> Provenance:
    """Of a record made now, in this process, of a fit that computed with `framework` and `used` this of a device."""
    used = used or Use()
    commit, dirty, unknown = _commit()
    return Provenance(
        mongebench=importlib.metadata.version("mongebench"),
        commit=commit,
        dirty=dirty,
        commit_unknown=unknown,
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        processor=_processor(),
        cores=os.cpu_count() or 1,
        device=used.device,
        driver=used.driver,
        dtype="float64",
        precision=precision(framework),
        threads=threads,
        workers=workers,
        versions=versions(),
        exclusive=exclusive,
        pinned_to=sorted(os.sched_getaffinity(0)) if exclusive and hasattr(os, "sched_getaffinity") else [],
        environment={name: os.environ[name] for name in VARIABLES if name in os.environ},
        started_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


@functools.cache
def versions() -> dict[str, str]:
    """Of the libraries that change results, as far as they are installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def current_commit() -> str | None:
    """Of the checkout this package runs from; None when it is installed, or git does not tell."""
    return _commit()[0]


def commit_unknown() -> str:
    """Why records made now name no commit although this package runs from a checkout; empty where they name one."""
    return _commit()[2]


def working_commit(folder: str | Path = ".") -> tuple[str | None, bool | None]:
    """The commit of the repository that a folder is in, and whether its tracked files differ; None where git says none.

    It is what a run in another project's repository measures; `current_commit` is mongebench's own.
    """
    return _ask(Path(folder).resolve())[:2]


def repository(folder: str | Path = ".") -> Path | None:
    """The top folder of the repository that a folder is in; None where it is in none."""
    try:
        return Path(_git(Path(folder).resolve(), "rev-parse", "--show-toplevel"))
    except (OSError, subprocess.SubprocessError):
        return None


@functools.cache
def _commit() -> tuple[str | None, bool | None, str]:
    """The commit of the checkout this package runs from, whether its tracked files differ, and why that is not known.

    All are empty when the package is installed.
    """
    root = Path(__file__).resolve().parents[2]
    return _ask(root) if (root / ".git").exists() else (None, None, "")


def _ask(root: Path) -> tuple[str | None, bool | None, str]:
    """The commit of a checkout, whether its tracked files differ, and why that is not known."""
    said: list[str | None] = []
    reason = ""
    # results/ is what runs write: it does not make the code that wrote it dirty.
    for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno", "--", ".", ":!results"]):
        try:
            said.append(_git(root, *arguments))
        except (OSError, subprocess.SubprocessError) as error:
            said.append(None)
            reason = reason or _refusal(error)
    commit, changes = said
    return commit, None if changes is None else bool(changes), reason


def _git(root: Path, *arguments: str) -> str:
    # What a git hook sets for its own repository must not be taken for this one.
    elsewhere = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
    environment = {name: value for name, value in os.environ.items() if name not in elsewhere} | {"LC_ALL": "C"}
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True, env=environment)
    return done.stdout.strip()


def _refusal(error: Exception) -> str:
    """Why git did not answer, without a path."""
    if isinstance(error, FileNotFoundError):
        return "git is not installed"
    if isinstance(error, subprocess.TimeoutExpired):
        return "git did not answer"
    if isinstance(error, subprocess.CalledProcessError):
        if "safe.directory" in error.stderr or "dubious ownership" in error.stderr:
            return "git refuses the checkout, which belongs to another user (git config --global --add safe.directory)"
        return f"git failed with exit code {error.returncode}"
    return f"git cannot be run ({type(error).__name__})"
