"""On a real GPU: what nvidia-smi, a child, its frameworks and its record say of it. `pytest -m gpu` runs this."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mongebench.run import batch, device
from mongebench.run.record import Record
from mongebench.run.runner import Execution, Machinery
from mongebench.run.store import Invocation, RunDirectory

pytestmark = pytest.mark.gpu

GRID = """
name = "grid"
evaluation_points = 500
memory_limit = "64GiB"
[[estimators]]
name = "entropic"
[[estimators]]
name = "euclidean"
dtype = "float32"
steps = 2
inner_steps = 5
[[problems]]
name = "gaussian"
dim = 4
[budget]
n_source = 500
n_target = 500
"""


def records(folder: Path, wanted: str) -> dict[str, Record]:
    folder.mkdir()
    (folder / "grid.toml").write_text(GRID, encoding="utf-8")
    invocation = Invocation(experiment=str(folder / "grid.toml"), device=wanted)
    run = Execution(invocation, RunDirectory(folder / "run"), Machinery())
    run.execute()
    return {record.cell.estimator.name: record for record in run.directory.records()}


def child(framework: str, code: str) -> str:
    """What a process prints that has the environment of a child with the first GPU."""
    environment = os.environ | device.environment(device.gpus()[0], framework)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_run_is_on_the_gpu_and_its_maps_are_those_of_the_cpu(tmp_path: Path) -> None:
    gpu = device.gpus()[0]
    on_gpu, on_cpu = records(tmp_path / "gpu", "gpu"), records(tmp_path / "cpu", "cpu")
    assert on_gpu.keys() == on_cpu.keys() == {"entropic", "euclidean"}
    for name, record in on_gpu.items():
        assert record.status.measured, record.reason
        assert (record.provenance.device, record.provenance.driver) == (gpu.name, gpu.driver)
        assert record.gpu_peak_bytes > 0
        assert record.provenance.precision == {"jax_default_matmul_precision": "highest"}
        assert on_cpu[name].provenance.device == "cpu"
        # Ten steps of Adam in float32 part by some hundred roundings of 1e-7, the Sinkhorn iteration by its tolerance.
        value, other = record.metrics["uvp"].value, on_cpu[name].metrics["uvp"].value
        assert value == pytest.approx(other, rel=1e-3)


def test_draws_of_an_unlimited_budget_are_made_on_the_gpu() -> None:
    code = (
        "import jax, numpy as np, mongebench as mb; from mongebench.core.session import views; "
        "p, e = mb.problem('gaussian', dim=4), mb.estimator('euclidean'); "
        "drawn = views(p, e, None, None, 0)[0].batches(2, 5000, on_device=True); "
        "assert isinstance(drawn, jax.Array) and 'cpu' not in {d.platform for d in drawn.devices()}, type(drawn); "
        "x, y = np.asarray(drawn).reshape(-1, 4), p.source.sample(10_000); "
        "print(abs(x.mean(axis=0) - y.mean(axis=0)).max())"
    )
    # Two means of 10^4 points of variances up to 2: of standard deviation 0.02 at most.
    assert float(child("jax", code)) < 5 * 0.02


def test_a_gpu_is_not_shared() -> None:
    found, looks = device.gpus(), []

    def give_up() -> bool:
        looks.append(True)
        return len(looks) > 3

    with batch._gpu(lambda: False) as first:
        assert first in found
        if len(found) == 1:
            with batch._gpu(give_up):
                assert len(looks) > 3  # it waited until it was told to stop
        else:
            with batch._gpu(give_up) as second:
                assert second != first


def test_jax_reserves_no_memory_beforehand() -> None:
    free = "nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits -i 0"
    code = f"import jax, os; jax.numpy.ones(3).block_until_ready(); os.system({free!r})"
    before = int(subprocess.run(free.split(), capture_output=True, text=True, check=True).stdout)
    assert int(child("jax", code)) - before < 4096  # MiB; a reservation takes three quarters of the card


@pytest.mark.parametrize(
    ("framework", "product"),
    [
        ("jax", "import jax; b = jax.device_put(a); p = np.asarray(jax.jit(lambda x: x @ x)(b))"),
        ("torch", "import torch; b = torch.from_numpy(a).cuda(); p = (b @ b).cpu().numpy()"),
    ],
)
def test_products_of_float32_have_full_precision(framework: str, product: str) -> None:
    code = (
        "import numpy as np; a = np.random.default_rng(0).standard_normal((1024, 1024), dtype=np.float32); "
        f"{product}; exact = a.astype(float) @ a.astype(float); print(np.abs(p - exact).max())"
    )
    # Sums of 1024 products near 1 are off by some 1e-5 in float32, and by some 1e-2 with the ten bits of TF32.
    assert float(child(framework, code)) < 1e-3
