"""Devices, through a fake layer: an nvidia-smi that lists two GPUs, and frameworks that say they took memory of one."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import mongebench as mb
from mongebench import cli
from mongebench.core.errors import InvalidParameter, UnknownName
from mongebench.report.tables import results
from mongebench.run import batch, device
from mongebench.run.engine import batches
from mongebench.run.reading import read_run
from mongebench.run.record import Record
from mongebench.run.runner import Execution, Machinery
from mongebench.run.store import Invocation, RunDirectory

FAKES = Path(__file__).with_name("fakes.py")
LISTED = "0, GPU-aa, Fake H1, 999.1\n1, GPU-bb, Fake H1, 999.1\n"
GRID = """
name = "grid"
evaluation_points = 100
[[estimators]]
name = ["shift", "dispatches"]
[[problems]]
name = "gaussian"
[budget]
n_source = 50
n_target = 50
"""


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch) -> Path:
    """On the PATH; what it prints is the content of the file."""
    listed = tmp_path / "listed"
    listed.write_text(LISTED, encoding="utf-8")
    script = tmp_path / "bin" / "nvidia-smi"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\ncat "{listed}"\n', encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent), prepend=os.pathsep)
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # of the locks
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    device._driver.cache_clear()
    yield listed
    device._driver.cache_clear()


@pytest.fixture
def no_gpu(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")


def asked(tmp_path: Path, wanted: str = "auto", **machinery) -> Execution:
    (tmp_path / "grid.toml").write_text(GRID, encoding="utf-8")
    invocation = Invocation(experiment=str(tmp_path / "grid.toml"), plugins=(str(FAKES),), device=wanted)
    return Execution(invocation, RunDirectory(tmp_path / "run"), Machinery(**machinery))


def test_without_a_gpu_auto_is_the_cpu_and_gpu_is_refused(no_gpu) -> None:
    assert device.gpus() == []
    assert [device.chosen(wanted) for wanted in ("auto", "cpu")] == ["cpu", "cpu"]
    with pytest.raises(InvalidParameter, match=r"nvidia-smi lists no GPU.*give --device cpu"):
        device.chosen("gpu")
    assert device.chosen("gpu", elsewhere=True) == "gpu"  # the workers of a scheduler look for their own
    with pytest.raises(UnknownName, match="Did you mean 'gpu'"):
        device.chosen("gpus")


def test_gpus_are_those_that_are_listed_and_visible(nvidia_smi, monkeypatch) -> None:
    assert [(gpu.index, gpu.name, gpu.driver) for gpu in device.gpus()] == [
        ("0", "Fake H1", "999.1"),
        ("1", "Fake H1", "999.1"),
    ]
    for visible, indices in (("1", ["1"]), ("GPU-aa", ["0"]), ("", []), ("0,1", ["0", "1"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert [gpu.index for gpu in device.gpus()] == indices
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    nvidia_smi.write_text("No devices were found\n", encoding="utf-8")
    assert device.gpus() == []


def test_a_gpu_run_has_a_worker_a_gpu_and_asks_it_of_those_that_can(nvidia_smi, tmp_path: Path) -> None:
    run = asked(tmp_path)
    assert (run.conditions.device, run.conditions.workers) == ("gpu", 2)
    plan = {planned.cell.estimator.name: (planned.framework, planned.manifest.device) for planned in run.plan.cells}
    assert plan == {"shift": ("numpy", "cpu"), "dispatches": ("jax", "gpu")}
    on_cpu = asked(tmp_path, "cpu")
    assert {planned.manifest.device for planned in on_cpu.plan.cells} == {"cpu"}
    assert "--device cpu" in on_cpu.resume_command
    assert "--device" not in run.resume_command


def test_frameworks_are_never_in_one_batch(tmp_path: Path) -> None:
    text = GRID.replace('["shift", "dispatches"]', '"entropic"\nbackend = ["ott", "pot_torch", "pot_numpy"]')
    (tmp_path / "entropic.toml").write_text(text, encoding="utf-8")
    run = Execution(Invocation(experiment=str(tmp_path / "entropic.toml"), seeds=4), RunDirectory(tmp_path / "run"))
    found = [{planned.framework for planned in group} for group in batches(run.plan.cells, 1)]  # of three cells
    assert {len(frameworks) for frameworks in found} == {1}
    assert set.union(*found) == {"jax", "torch", "numpy"}


def test_pot_loads_no_framework_but_the_one_of_the_child(tmp_path: Path) -> None:
    others = {"numpy": ["JAX", "PYTORCH"], "jax": ["PYTORCH"], "torch": ["JAX"]}
    for framework, disabled in others.items():
        environment = batch.child_environment(1, tmp_path, None, framework)
        assert sorted(name for name in environment if name.startswith("POT_")) == [
            f"POT_BACKEND_DISABLE_{other}" for other in disabled
        ]
    code = "import sys, ot; print(*(name for name in ('jax', 'torch') if name in sys.modules))"
    environment = batch.child_environment(1, tmp_path)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr


def test_a_child_sees_its_gpu_or_none(nvidia_smi, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    second = device.gpus()[1]
    on_gpu = batch.child_environment(1, tmp_path, second, "jax")
    assert on_gpu["CUDA_VISIBLE_DEVICES"] == "1"
    assert on_gpu["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert on_gpu["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    assert "JAX_PLATFORMS" not in on_gpu
    assert on_gpu.items() >= device.FULL_PRECISION.items()
    monkeypatch.setenv("JAX_DEFAULT_MATMUL_PRECISION", "tensorfloat32")  # said otherwise
    assert batch.child_environment(1, tmp_path, second, "jax")["JAX_DEFAULT_MATMUL_PRECISION"] == "tensorfloat32"
    monkeypatch.delenv("JAX_DEFAULT_MATMUL_PRECISION")
    on_cpu = batch.child_environment(1, tmp_path, None, "jax")
    assert (on_cpu["JAX_PLATFORMS"], on_cpu["CUDA_VISIBLE_DEVICES"]) == ("cpu", "")
    assert not on_cpu.keys() & device.FULL_PRECISION.keys()


def test_a_gpu_is_lent_to_one_child_at_a_time(nvidia_smi, tmp_path: Path) -> None:
    looks = iter([False, False, True])  # after two looks whoever waits is told to stop

    def never() -> bool:
        return False

    with batch._gpu(never) as first, batch._gpu(never) as second:
        assert {first.index, second.index} == {"0", "1"}
        with batch._gpu(lambda: next(looks)):
            assert next(looks, None) is None  # it waited until then
    with batch._gpu(never) as again:
        assert again.index == "0"


def test_a_worker_without_a_gpu_stops_the_run(no_gpu, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nvidia-smi lists no GPU"), batch._gpu(lambda: False):
        pass


def test_records_of_a_gpu_run_say_what_the_fits_ran_on(nvidia_smi, tmp_path: Path) -> None:
    """JAX and its child are real, and their JAX knows no CUDA: what it computed is a CPU's, and is called so."""
    run = asked(tmp_path, "gpu")
    run.execute()
    records = {record.cell.estimator.name: record for record in run.directory.records()}
    assert {name: record.status.measured for name, record in records.items()} == {"shift": True, "dispatches": True}
    environment = records["dispatches"].provenance.environment
    assert environment["CUDA_VISIBLE_DEVICES"] in ("0", "1")
    assert "JAX_PLATFORMS" not in environment
    assert environment["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    assert records["dispatches"].provenance.precision == {"jax_default_matmul_precision": "highest"}
    assert environment["NVIDIA_TF32_OVERRIDE"] == "0"
    assert records["shift"].provenance.environment["JAX_PLATFORMS"] == "cpu"
    for record in records.values():
        assert record.provenance.device == "cpu"
        assert record.gpu_peak_bytes is None
        assert record.peak_bytes > 1 << 20
    assert not run.directory.pending(run.plan.cells)
    on_cpu = asked(tmp_path, "cpu")
    reasons = {p.cell.estimator.name: on_cpu.directory.why_rerun(p) for p in on_cpu.plan.cells}
    assert reasons == {"shift": None, "dispatches": "device: gpu -> cpu"}
    (block,) = results.blocks(read_run(run.directory.path).frame())
    for _, _, seconds, on_gpu, _ in block.lines():
        assert float(seconds) > 0
        assert on_gpu == "no gpu"


class Accelerated(mb.MapEstimator):
    """The mean shift, by a framework that says it took memory of a GPU."""

    needs = frozenset({mb.Oracle.SOURCE_SAMPLES, mb.Oracle.TARGET_SAMPLES})

    def __init__(self, framework="torch"):
        self.framework = framework

    @property
    def modules(self):
        return (self.framework,)

    def fit(self, source, target, *, seed=0, trace=None):
        self.shift_ = target.samples.mean(axis=0) - source.samples.mean(axis=0)
        return self

    def transform(self, X):
        return X + self.shift_


def measured(framework: str) -> Record:
    problem = mb.problem("gaussian", dim=2)
    return mb.run_cell(problem, Accelerated(framework), n_source=50, n_target=50, evaluation_points=100)


def test_torch_tells_the_gpu_its_memory_and_its_tf32(nvidia_smi, monkeypatch) -> None:
    import torch

    waited, peak = [], 7 << 20
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append(True))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: peak)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Fake H1")
    record = measured("torch")
    assert waited
    assert (record.provenance.device, record.provenance.driver) == ("Fake H1", "999.1")
    assert record.gpu_peak_bytes == 7 << 20
    assert set(record.provenance.precision) == {"cuda.matmul.allow_tf32", "cudnn.allow_tf32"}
    assert Record.model_validate_json(record.model_dump_json()) == record
    peak = 0  # a GPU is there, and the fit left it alone
    record = measured("torch")
    assert (record.provenance.device, record.provenance.driver, record.gpu_peak_bytes) == ("cpu", None, None)


def test_jax_tells_the_gpu_and_its_memory(nvidia_smi, monkeypatch) -> None:
    import jax

    stats = {"peak_bytes_in_use": 5 << 20}
    fake = SimpleNamespace(platform="gpu", device_kind="Fake H1", memory_stats=lambda: stats)
    monkeypatch.setattr(jax, "devices", lambda: [fake])
    record = measured("jax")
    assert (record.provenance.device, record.provenance.driver) == ("Fake H1", "999.1")
    assert record.gpu_peak_bytes == 5 << 20
    assert set(record.provenance.precision) == {"jax_default_matmul_precision"}
    stats["peak_bytes_in_use"] = 0
    assert measured("jax").provenance.device == "cpu"


def test_the_newer_flags_of_torch_are_told_where_they_silence_the_older() -> None:
    import torch

    products = torch.backends.cuda.matmul
    before, products.fp32_precision = products.fp32_precision, "tf32"
    try:
        assert device.precision("torch")["cuda.matmul.fp32_precision"] == "tf32"
    finally:
        products.fp32_precision = before


def test_a_gpu_that_is_not_there_is_a_sentence(no_gpu, tmp_path: Path, monkeypatch, capsys) -> None:
    asked(tmp_path)
    monkeypatch.setattr(
        "sys.argv", ["mongebench", "run", str(tmp_path / "grid.toml"), "--plugin", str(FAKES), "--device", "gpu"]
    )
    with pytest.raises(SystemExit) as exit_code:
        cli.main()
    assert exit_code.value.code == cli.USAGE
    assert "--device gpu, and nvidia-smi lists no GPU" in capsys.readouterr().err
