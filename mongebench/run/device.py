"""The device a fit computes on: the GPUs of this machine, what a child process is given of them, what a fit took.

A GPU is lent to one child process at a time, whichever run of the same user it belongs to. What a record says of its
device is asked of the framework after the fit, not taken from the plan: a fit that took no memory of a GPU ran on the
CPU.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from dataclasses import dataclass, fields
from typing import Literal

from mongebench.core.errors import InvalidParameter, UnknownName, one_of
from mongebench.core.estimator import FRAMEWORKS

Device = Literal["cpu", "gpu"]
ASKED = ("auto", "cpu", "gpu")
"""What `--device` takes."""


@dataclass(frozen=True)
class Gpu:
    """One GPU, in the words of nvidia-smi."""

    index: str
    uuid: str
    name: str
    driver: str


def gpus() -> list[Gpu]:
    """The GPUs of this machine that nvidia-smi lists and CUDA_VISIBLE_DEVICES, if set, lets through."""
    query = ["nvidia-smi", "--query-gpu=index,uuid,name,driver_version", "--format=csv,noheader"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[field.strip() for field in line.split(",")] for line in listed.splitlines()]
    found = [Gpu(*row) for row in rows if len(row) == len(fields(Gpu))]  # "No devices were found" is no row
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return found
    names = [name.strip() for name in visible.split(",")]
    return [gpu for gpu in found if gpu.index in names or gpu.uuid in names]


def chosen(asked: str, elsewhere: bool = False) -> Device:
    """The device that `--device` means.

    Parameters
    ----------
    asked
        One of `ASKED`; "auto" is a GPU where this machine has one.
    elsewhere
        The cells run on other machines, which will look for their GPUs themselves.

    Raises
    ------
    InvalidParameter
        A GPU was asked for and there is none.
    UnknownName
        Something else was asked for.
    """
    if asked not in ASKED:
        raise UnknownName(one_of(asked, ASKED, "device"))
    if asked == "cpu":
        return "cpu"
    if (asked == "gpu" and elsewhere) or gpus():
        return "gpu"
    if asked == "gpu":
        raise InvalidParameter(f"--device gpu, and {NO_GPU}; give --device cpu, or leave it out.")
    return "cpu"


FULL_PRECISION = {"JAX_DEFAULT_MATMUL_PRECISION": "highest", "NVIDIA_TF32_OVERRIDE": "0"}
"""What keeps TF32 out of products of float32 on a GPU: XLA's own, and those of cuBLAS and cuDNN, which torch calls."""
NO_GPU = "nvidia-smi lists no GPU on this machine that CUDA_VISIBLE_DEVICES lets through"


def environment(gpu: Gpu | None, used: str) -> dict[str, str]:
    """What tells a child process its device: the one GPU it sees, or none, and the one framework it may load.

    Parameters
    ----------
    gpu
        None for the CPU.
    used
        See `framework`. POT imports every framework that is installed, unless it is told not to.
    """
    pot = {f"POT_BACKEND_DISABLE_{'PYTORCH' if name == 'torch' else 'JAX'}": "1" for name in FRAMEWORKS if name != used}
    if gpu is None:
        return pot | {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    # CUDA's own order is by speed, that of nvidia-smi by slot. Products of float32 have full precision, which is
    # no default of the frameworks, unless the user's environment says otherwise.
    exact = {name: os.environ.get(name, value) for name, value in FULL_PRECISION.items()}
    return {
        **pot,
        **exact,
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": gpu.index,
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }


@dataclass(frozen=True)
class Use:
    """What a fit took of a device: its name, the driver of a GPU, the peak of a GPU's memory in bytes."""

    device: str = "cpu"
    driver: str | None = None
    peak_bytes: int | None = None


def use(used: str) -> Use:
    """What the fits of this process took since `reset_peak`; in JAX, which has no such reset, since it started.

    Parameters
    ----------
    used
        See `framework`.
    """
    name, peak = "cpu", None
    if used == "jax" and (jax := sys.modules.get("jax")) is not None:
        device = jax.devices()[0]
        peak = (device.memory_stats() or {}).get("peak_bytes_in_use")
        name = device.device_kind if device.platform != "cpu" else "cpu"
    elif used == "torch" and (torch := sys.modules.get("torch")) is not None and torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
        name = torch.cuda.get_device_name()
    if name == "cpu" or peak == 0:
        return Use()
    return Use(name, _driver(), peak)


@functools.cache
def _driver() -> str | None:
    return next((gpu.driver for gpu in gpus()), None)


def reset_peak() -> None:
    """Start a new peak of the GPU's memory, where the framework can."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def precision(used: str) -> dict[str, str]:
    """The flags that say how exactly the framework multiplies matrices, TF32 among them; empty for `CPU_ALONE`."""
    if used == "jax" and (jax := sys.modules.get("jax")) is not None:
        # Not jax_enable_x64: estimators set it for the length of a fit.
        return {"jax_default_matmul_precision": str(jax.config.jax_default_matmul_precision)}
    if used == "torch" and (torch := sys.modules.get("torch")) is not None:
        cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
        try:
            flags = {"cuda.matmul.allow_tf32": cuda.allow_tf32, "cudnn.allow_tf32": cudnn.allow_tf32}
        except RuntimeError:  # torch has two generations of flags, and the older are silent once the newer were set
            flags = {"cuda.matmul.fp32_precision": cuda.fp32_precision, "cudnn.fp32_precision": cudnn.fp32_precision}
        return {name: str(value) for name, value in flags.items()}
    return {}
