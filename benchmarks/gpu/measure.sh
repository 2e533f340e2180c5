#!/usr/bin/env bash
# GPU wall time, measured on a bare CUDA machine with jax (CUDA) and torch, without a network, within eight minutes:
#   benchmarks/gpu/measure.sh
#   DEVICE=cpu EXPERIMENT=small.toml POINTS=200 benchmarks/gpu/measure.sh    # a dry run, on the CPU throughout
# Parts run in the order of their worth, each within its seconds and within what is left of LIMIT; what became of each is
# in $OUT/parts.txt, also of those for which no time was left. What stays behind in $OUT (default results/gpu):
#   parts.txt, the log of each part, speedup.txt, speedup.png, records.zip.
set -uo pipefail
cd "$(dirname "$0")/../.."

DEVICE=${DEVICE:-gpu}
EXPERIMENT=${EXPERIMENT:-gpu}
LIMIT=${LIMIT:-480}      # seconds of the whole
PATIENCE=${PATIENCE:-1}  # times the seconds of each part, for a slow machine
LAST=${LAST:-45}         # of LIMIT, the tables, the figure and the archive may need so many
OUT=${OUT:-results/gpu}
PYTHON=${PYTHON:-python3}
RUNS=${RUNS:-results/runs/gpu} # the records before they are zipped; those that are there and hold are not made again

export PYTHONUNBUFFERED=1
mkdir -p "$OUT" "$RUNS"
: > "$OUT/parts.txt"

say() { echo "$*" | tee -a "$OUT/parts.txt"; }

part() { # SECONDS NAME COMMAND...
  local most=$(($1 * PATIENCE)) name=$2 began=$SECONDS left=$((LIMIT - LAST - SECONDS)) code
  shift 2
  if ((left < 5)); then
    say "$name: skipped, no time left"
    return
  fi
  # SIGINT: a run that is interrupted keeps the records of the cells that have ended.
  timeout --signal=INT --kill-after=10 $((most < left ? most : left)) "$@" > "$OUT/$name.log" 2>&1
  code=$?
  case $code in
    0) say "$name: done in $((SECONDS - began)) s" ;;
    124 | 130 | 137) say "$name: stopped after $((SECONDS - began)) s; what it had not measured by then is missing" ;;
    *) say "$name: FAILED with exit code $code after $((SECONDS - began)) s: $(tail -n 1 "$OUT/$name.log")" ;;
  esac
}

cells() { # SECONDS NAME DEVICE ESTIMATOR: the cells of one estimator, a run of their own
  part "$1" "$2-$4" "$PYTHON" -m mongebench run "$EXPERIMENT" --only "$4" --device "$3" --workers 1 --out "$RUNS/$2/$4"
}

if [ -d benchmarks/gpu/wheels ]; then
  part 60 install "$PYTHON" -m pip install --quiet --no-index --no-deps --find-links benchmarks/gpu/wheels \
    -r benchmarks/gpu/wheels.txt
  part 30 package "$PYTHON" -m pip install --quiet --no-index --no-deps --no-build-isolation --editable .
fi

# Whether it works at all.
part 60 tests "$PYTHON" -m pytest -q -p no:cacheprovider -m gpu tests/run/test_gpu.py
# TF32 on and off, peak memory, metrics of 10^5 points; JAX and torch are never in one process.
for framework in jax torch; do
  part 30 "probes-$framework" "$PYTHON" benchmarks/gpu/probes.py "$framework" "$DEVICE" ${POINTS:-}
done
# The cells, on the GPU and then on the CPU of this machine.
for estimator in ${ESTIMATORS:-flow_newton entropic euclidean flow_implicit enot w2_dual semidual kernel_sos}; do
  cells 40 gpu "$DEVICE" "$estimator"
  cells 60 cpu cpu "$estimator"
done
# The same on the GPU with TF32: float32 products have full precision in the cells above (docs/engine.md).
export JAX_DEFAULT_MATMUL_PRECISION=tensorfloat32 NVIDIA_TF32_OVERRIDE=1
cells 40 tf32 "$DEVICE" flow_newton
unset JAX_DEFAULT_MATMUL_PRECISION NVIDIA_TF32_OVERRIDE

LAST=0
part 40 speedup "$PYTHON" benchmarks/gpu/speedup.py "$RUNS/gpu" "$RUNS/cpu" --out "$OUT"
cat "$OUT/speedup.log"
find "$RUNS" -mindepth 3 -maxdepth 3 ! -name plan.json ! -name cells -exec rm -rf {} +  # compilation caches, figures
"$PYTHON" -m zipfile -c "$OUT/records.zip" "$RUNS"/*
say "records.zip: $(($(stat -c %s "$OUT/records.zip") / 1024)) KiB; $SECONDS s in all"
