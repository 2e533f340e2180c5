#!/usr/bin/env bash
# Makes benchmarks/gpu/wheels, the folder that measure.sh installs from, on a machine that has a network:
#   benchmarks/gpu/wheels.sh [PYTHON_VERSION]
# for the Python of the machine with the GPU (default 3.12), Linux on x86-64. What that machine has already need not
# travel: give the names as further arguments to make a smaller folder, `wheels.sh 3.12 ott-jax POT pydantic`.
set -euo pipefail
cd "$(dirname "$0")"

version=${1:-3.12}
shift || true
packages=(-r wheels.txt)
if (($#)); then packages=("$@"); fi

platforms=()
for platform in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014; do platforms+=(--platform "${platform}_x86_64"); done
# --no-deps: jax and torch are there, and a second copy of either must not be installed beside it.
python3 -m pip download --no-deps --only-binary=:all: --implementation cp --python-version "$version" \
  "${platforms[@]}" --dest wheels "${packages[@]}"
du -sh wheels
