"""What no cell of gpu.toml shows of a device: products with TF32 on and off, and metrics of 10^5 points.

python benchmarks/gpu/probes.py jax|torch cpu|gpu [POINTS]

One framework a process: JAX and torch are never in one.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

SIZE = 8192
"""Of the square matrices that are multiplied, at most; a tenth of POINTS where that is less."""


def seconds(work: Callable[[], Any]) -> float:
    """The fastest of three, after one that compiles."""
    work()
    took = []
    for _ in range(3):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return min(took)


def told(name: str, product: Callable[[], Any], exact: np.ndarray) -> None:
    error = np.abs(np.asarray(product(), np.float64)[: len(exact)] - exact).max() / np.abs(exact).max()
    print(f"{name}: {1e3 * seconds(product):.3g} ms, largest error {error:.2g} of the largest entry", flush=True)


def of_jax(a: np.ndarray, exact: np.ndarray) -> None:
    import jax

    print("device:", jax.devices()[0].device_kind)
    on_device = jax.device_put(a)
    for precision in ("highest", "tensorfloat32"):
        with jax.default_matmul_precision(precision):
            multiply = jax.jit(lambda x: x @ x)
            told(f"product, {precision}", lambda multiply=multiply: jax.block_until_ready(multiply(on_device)), exact)
    print("peak bytes:", (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", "not told"))


def of_torch(a: np.ndarray, exact: np.ndarray, device: str) -> None:
    import torch

    on_gpu = device == "gpu"
    print("device:", torch.cuda.get_device_name() if on_gpu else "cpu")
    on_device = torch.from_numpy(a).to("cuda" if on_gpu else "cpu")

    def multiply() -> Any:
        product = on_device @ on_device
        if on_gpu:
            torch.cuda.synchronize()
        return product.cpu()

    for allowed in (False, True):
        torch.backends.cuda.matmul.allow_tf32 = allowed
        told(f"product, TF32 {'on' if allowed else 'off'}", multiply, exact)
    print("peak bytes:", torch.cuda.max_memory_allocated() if on_gpu else "not told")


def metrics(points: int) -> None:
    """The map is evaluated where the fit ran; the metrics themselves are NumPy's, on the CPU."""
    import mongebench as mb

    problem = mb.problem("product", dim=8, quadratic=1.0)
    flow = mb.estimator("flow_newton", steps=3, warm_steps=1, units=16, batch_size=1024, dtype="float32")
    fitted = mb.fit(problem, flow, n_source=None, n_target=None)
    x = problem.source.sample(points, seed=1)
    print(f"map of {points} points: {seconds(lambda: fitted.transform(x)):.3g} s")
    began = time.perf_counter()
    mb.evaluate(fitted.transform, problem, n=points, seed=0)
    print(f"all metrics of {points} points: {time.perf_counter() - began:.3g} s")


def main(framework: str, device: str, points: int = 100_000) -> None:
    if device == "cpu":
        os.environ |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    size = min(SIZE, points // 10)
    a = np.random.default_rng(0).standard_normal((size, size), dtype=np.float32)
    exact = a[:64].astype(np.float64) @ a.astype(np.float64)
    if framework == "jax":
        of_jax(a, exact)
        metrics(points)
    else:
        of_torch(a, exact, device)


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:]))
