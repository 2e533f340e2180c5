"""A thousand trivial cells on dask while a worker is killed every five seconds: is every cell recorded?

python benchmarks/engine/lose_workers.py [CELLS] [WORKERS] [SECONDS]
"""

import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from mongebench.run.store import RunDirectory

GRID = """
name = "trivial"
seeds = {seeds}
evaluation_points = 100
[[estimators]]
name = ["identity", "mean_shift"]
[[problems]]
name = "gaussian"
dim = [1, 2, 3, 4, 5]
[budget]
n_source = 20
n_target = 20
"""


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    found = []
    for child in process.children():
        try:
            found += [child] if "spawn_main" in " ".join(child.cmdline()) else []
        except psutil.Error:
            continue
    return found


def main(cells: int = 1000, workers: int = 2, seconds: float = 5.0) -> None:
    with tempfile.TemporaryDirectory(prefix="mongebench-lose-") as folder:
        path, out = Path(folder, "grid.toml"), Path(folder, "run")
        path.write_text(GRID.format(seeds=cells // 10), encoding="utf-8")
        command = [sys.executable, "-m", "mongebench", "run", str(path), "--out", str(out)]
        command += ["--engine", "dask", "--workers", str(workers)]
        began = time.monotonic()
        engine = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        killed = 0
        while engine.poll() is None and not list(out.glob("cells/*.json")):
            time.sleep(0.2)
        while engine.poll() is None:
            time.sleep(seconds)
            if engine.poll() is None and (alive := workers_of(psutil.Process(engine.pid))):
                min(alive, key=lambda worker: worker.create_time()).kill()  # the others may still be starting
                killed += 1
                print(f"{time.monotonic() - began:.0f} s: {len(list(out.glob('cells/*.json')))} recorded", flush=True)
        took = time.monotonic() - began
        statuses = Counter(str(record.status) for record in RunDirectory(out).records())
        print(f"exit code {engine.returncode}, {took:.0f} s, {killed} workers killed, records: {dict(statuses)}")
        if engine.returncode or sum(statuses.values()) != cells:
            sys.exit("not every cell was recorded")


if __name__ == "__main__":
    main(*(kind(word) for kind, word in zip((int, int, float), sys.argv[1:], strict=False)))
