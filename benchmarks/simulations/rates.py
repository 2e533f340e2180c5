"""Error rates of the rate verdict, on synthetic traces whose answer is known: `python benchmarks/simulations/rates.py`.

lambda = 1. Curves of the squared error relative to the start's: e^{-2 t}, which keeps the bound with equality; the same
at 1.6, 1.8 and 2.5 in place of 2; a stall at e^{-2} from t = 1 on; e^{-2 t} + 0.01, which bends into a plateau.
Steps and lengths are those of the suite's experiments. Noise of the fit has the given standard deviation in log error
at t = 2, in equal parts of three kinds:

    stationary AR(1) with correlation 0.7, and 0.95
    batches: each step moves the map by independent noise, which the flow contracts as it contracts the error

Evaluation noise of 1 % is common to all steps, and recorded as a real trace records it. In the second table the curves
are those of implicit steps, (1 + tau)^{-2} where a flow has e^{-2 tau}: held against their own bound, or extrapolated
from two traces, at tau and tau / 2, whose batches differ and whose evaluation points do not.
"""

from __future__ import annotations

import argparse
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from mongebench.report.rates.verdict import Scheme, Verdict, rate_verdict
from mongebench.run.record import TracePoint

Vector = NDArray[np.float64]

CURVES = {
    "2, with equality": lambda t: np.exp(-2.0 * t),
    "1.8": lambda t: np.exp(-1.8 * t),
    "1.6": lambda t: np.exp(-1.6 * t),
    "2.5": lambda t: np.exp(-2.5 * t),
    "stall from t = 1": lambda t: np.exp(-2.0 * np.minimum(t, 1.0)),
    "2, plateau at 1 %": lambda t: np.exp(-2.0 * t) + 0.01 * (1 - np.exp(-2.0 * t)),
}
"""Squared error relative to the start's, (n,) -> (n,)."""
STEPS = (0.05, 0.1, 0.2, 0.4)
"""Of our experiments, in flow time."""
KINDS = ("AR(1), 0.7", "AR(1), 0.95", "batches")
SIZES = (0.01, 0.03, 0.1)
"""Standard deviations of the noise of the fit."""
COLUMNS = (Verdict.HOLDS, Verdict.PLATEAU, Verdict.BROKEN, Verdict.INCONCLUSIVE)
"""Of a cell of the table, in percent of the traces."""
EVALUATION = 0.01
"""Standard error of the ratio of errors, far from the start."""


def fit_noise(rng: np.random.Generator, kind: str, time: Vector, ratio: Vector, size: float) -> Vector:
    """(n,) of log error, 0 at the start; of standard deviation `size` at t = 2."""
    n, step = len(time), time[1] - time[0]
    if kind.startswith("AR(1)"):
        rho, noise = float(kind.rpartition(" ")[2]), np.zeros(n)
        previous = 0.0
        for k in range(1, n):
            previous = rho * previous + np.sqrt(1 - rho**2) * rng.standard_normal()
            noise[k] = size * previous
        return noise
    # T - T* along itself: every step adds noise of one size, and both fall alike.
    added = rng.standard_normal(n - 1) / np.sqrt(ratio[1:])
    at_two = np.sqrt(np.sum(1 / ratio[1:][time[1:] <= 2 + step / 2]))
    shift = np.append(0.0, np.cumsum(added)) * size / at_two
    return np.asarray(2 * np.log(np.abs(1 + shift / 2)), dtype=float)


def synthetic(
    rng: np.random.Generator,
    curve: str,
    kind: str,
    step: float,
    end: float,
    size: float,
    common: float,
    implicit: bool = False,
) -> list[TracePoint]:
    """One trace from 0 to `end`; `common` is the evaluation points' share, a standard normal."""
    time = step * np.arange(round(end / step) + 1)
    ratio = CURVES[curve](np.log1p(step) / step * time if implicit else time)
    shared = EVALUATION * common * (1 - np.exp(-time))
    seen = 3.0 * ratio * np.exp(fit_noise(rng, kind, time, ratio, size) + shared)
    return [
        TracePoint(
            iteration=k,
            flow_time=float(time[k]),
            oracle_calls=0,
            fit_seconds=0.0,
            l2_error=float(seen[k]),
            l2_ratio_se=float(EVALUATION * (1 - np.exp(-time[k])) * seen[k] / seen[0]),
        )
        for k in range(len(time))
    ]


def verdicts(
    curve: str, size: float, horizon: float, trials: int, *, implicit: bool = False, halved: bool = False
) -> Counter[Verdict]:
    """Of `trials` traces that end at the horizon, steps and kinds of noise in turn."""
    found: Counter[Verdict] = Counter()
    for trial in range(trials):
        rng = np.random.default_rng((trial, int(1e4 * size), int(10 * horizon)))
        kind, step = KINDS[trial % len(KINDS)], STEPS[trial // len(KINDS) % len(STEPS)]
        common = float(rng.standard_normal())
        trace, refined = (synthetic(rng, curve, kind, tau, horizon, size, common, implicit) for tau in (step, step / 2))
        verdict = rate_verdict(
            trace,
            1.0,
            refined=refined if halved else None,
            scheme=Scheme.IMPLICIT if implicit else Scheme.FLOW,
            horizon=horizon,
            seed=trial,
        )
        found[verdict.verdict] += 1
    return found


def main() -> None:
    """Print the table of docs/theory.md."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=240, help="traces per line")
    trials = parser.parse_args().trials
    flow = [("horizon", f"{horizon:g}", horizon, {}) for horizon in (2.0, 4.0)]
    steps = [
        ("held against", words, 2.0, {"implicit": True, "halved": halved})
        for words, halved in (("the bound of the steps", False), ("the flow's, extrapolated", True))
    ]
    for settings in (flow, steps):
        print(f"\n| rate of the error | {settings[0][0]} | {' | '.join(f'noise {100 * size:g} %' for size in SIZES)} |")
        print(f"|{'---|' * (2 + len(SIZES))}")
        for curve in CURVES:
            for _, words, horizon, how in settings:
                cells = []
                for size in SIZES:
                    found = verdicts(curve, size, horizon, trials, **how)
                    cells.append(" / ".join(f"{100 * found[verdict] / trials:.0f}" for verdict in COLUMNS))
                print(f"| {curve} | {words} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
