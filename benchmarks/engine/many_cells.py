"""Ten thousand trivial cells in one run: how long to plan, to run, to find nothing left, and in how much memory?

python benchmarks/engine/many_cells.py [CELLS] [WORKERS]
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lose_workers import GRID

from mongebench.run.store import RunDirectory


def main(cells: int = 10_000, workers: int = 2) -> None:
    with tempfile.TemporaryDirectory(prefix="mongebench-many-") as folder:
        path, out = Path(folder, "grid.toml"), Path(folder, "run")
        path.write_text(GRID.format(seeds=cells // 10), encoding="utf-8")
        command = [sys.executable, "-m", "mongebench", "run", str(path), "--out", str(out)]
        for name, more in (("plan", ["--dry-run"]), ("run", ["--workers", str(workers)]), ("resume", ["--dry-run"])):
            began = time.monotonic()
            subprocess.run([*command, *more], check=True, stdout=subprocess.DEVNULL)
            took = time.monotonic() - began
            # The largest of all processes so far: of the run, each of which is a child of the one before.
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
            print(f"{name}: {took:.1f} s, at most {peak:.2f} GiB in a process", flush=True)
            if name == "run":
                records = list(RunDirectory(out).records())
                overhead = statistics.median(record.times.overhead for record in records)
                print(f"{len(records)}/{cells} recorded, {1e3 * took * workers / cells:.1f} ms of a worker each,")
                print(f"of which the median cell has {1e3 * overhead:.1f} ms of overhead on its clock")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
