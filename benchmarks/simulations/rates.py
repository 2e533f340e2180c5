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

The third table is about the inequalities of KL (`inequalities`), with curves that lie on their line, or move away
from it as e^{c t}, c = +- 0.2: to 1.5 times it, or to 0.67, at t = 2. Instead of the line W2^2 / (2 t), infinite at the
start, it is a curve that touches it at t = 2. There evaluation noise is what traces
of `rate` have: 6 % in KL over the start's, 3 % in the error over KL and 6 % in KL over the error, the latter two from
the start on.

The fourth table has no model of noise: its traces are implicit steps of 0.1 on the Gaussian pair of condition 1, where
the bound of the map is an equality, each solved exactly on a fresh batch of so many points.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wishart

from mongebench.report.rates.inequalities import KL, KL_CONVEX, MAP_BY_KL, Inequality, step_bounds
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
TABLES = ("flow", "steps", "inequalities", "batches")
EVALUATION = 0.01
"""Standard error of the ratio of errors, far from the start."""


ABOUT = {MAP_BY_KL: 0.03, KL: 0.06, KL_CONVEX: 0.06}
"""Inequalities of the third table, and the noise of evaluation of their ratios."""
TOUCHING = 0.5
"""s of (1 + s/4) / (2 t + s), a curve that is finite at the start and touches 1 / (2 t) at t = 2."""
DRIFTS = {"on the line": 0.0, "1.5 times it at t = 2": 0.2, "0.67 times it at t = 2": -0.2}
BATCHES = ((2, 4096), (8, 4096), (32, 4096))
"""Dimensions and points of a batch, of the fourth table."""
TAU = 0.1
"""Of its steps."""
SHIFT = 2.0
"""|m|^2 of its pair: the means of ours are two unit vectors."""


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


def beside(
    rng: np.random.Generator, inequality: Inequality, drift: float, kind: str, step: float, end: float, size: float
) -> list[TracePoint]:
    """One trace on e^{drift t} times the line of `inequality`, or times a curve below it that touches it at t = 2."""
    time = step * np.arange(round(end / step) + 1)
    line = inequality.of_flow(time, 1.0)
    if np.isinf(line[0]):
        line = np.log((1 + TOUCHING / 4) / (2 * time + TOUCHING))
    log_ratio = drift * time + line
    noise = ABOUT[inequality]
    shared = noise * float(rng.standard_normal()) * ((1 - np.exp(-time)) if inequality.own else np.ones(len(time)))
    seen = np.exp(log_ratio + fit_noise(rng, kind, time, np.exp(log_ratio - log_ratio[0]), size) + shared)
    spread = noise * ((1 - np.exp(-time)) if inequality.own else np.ones(len(time))) * seen
    start = {} if inequality.own else {inequality.start: 1.0, f"{inequality.start}_se": 0.0}
    return [
        TracePoint(
            iteration=k,
            flow_time=float(time[k]),
            oracle_calls=0,
            fit_seconds=0.0,
            **{
                "l2_error": None,
                inequality.observed: float(seen[k]),
                f"{inequality.observed}_se": float(spread[k]),
                inequality.ratio_se: float(spread[k] / (seen[0] if inequality.own else 1.0)),
                **(start if k == 0 else {}),
            },
        )
        for k in range(len(time))
    ]


def on_batches(rng: np.random.Generator, dim: int, points: int, count: int) -> Vector:
    """(count + 1,) squared errors of implicit steps with fresh batches, over the start's: N(0, I) to N(m, I).

    The map is A x + b, A symmetric and at first I, b = 0. Of a batch a step sees its mean and its second moments alone.
    """
    target, identity = np.full(dim, np.sqrt(SHIFT / dim)), np.eye(dim)
    matrix, shift, errors = identity, np.zeros(dim), [SHIFT]
    for _ in range(count):
        mean = rng.standard_normal(dim) / np.sqrt(points)
        second = wishart.rvs(points - 1, identity, random_state=rng) / points + np.outer(mean, mean)
        last_matrix, last_shift, slope = matrix, shift, identity
        while np.abs(slope).max() > 1e-10:  # the subproblem: exact in b, by steps with the Hessian at A = I in A
            moved = (matrix - last_matrix) / TAU
            shift = (target - (matrix + moved) @ mean + last_shift / TAU) / (1 + 1 / TAU)
            slope = (matrix + moved) @ second + np.outer(shift - target + (shift - last_shift) / TAU, mean)
            slope = (slope + slope.T) / 2 - np.linalg.inv(matrix)
            matrix = matrix - slope / (2 + 1 / TAU)
        errors.append(np.sum((matrix - identity) ** 2) + np.sum((shift - target) ** 2))
    return np.array(errors) / SHIFT


def verdicts_on_batches(dim: int, points: int, trials: int) -> tuple[Counter[Verdict], Vector]:
    """How often each verdict on the map came out, to t = 2; (trials,) squared errors there over their bound."""
    found: Counter[Verdict] = Counter()
    last, count = [], round(2.0 / TAU)
    for trial in range(trials):
        ratio = on_batches(np.random.default_rng((trial, dim, points)), dim, points, count)
        trace = [
            TracePoint(
                iteration=k,
                flow_time=TAU * k,
                oracle_calls=0,
                fit_seconds=0.0,
                l2_error=float(ratio[k]),
                l2_ratio_se=0.0,
            )
            for k in range(count + 1)
        ]
        found[rate_verdict(trace, 1.0, scheme=Scheme.IMPLICIT, horizon=2.0, seed=trial).verdict] += 1
        last.append(ratio[-1] / step_bounds(TAU, 1.0).implicit ** count)
    return found, np.array(last)


def verdicts_beside(inequality: Inequality, drift: float, size: float, trials: int) -> Counter[Verdict]:
    """How often each verdict came out, to t = 2."""
    found: Counter[Verdict] = Counter()
    for trial in range(trials):
        rng = np.random.default_rng((trial, 1))
        kind, step = KINDS[trial % len(KINDS)], STEPS[trial // len(KINDS) % len(STEPS)]
        trace = beside(rng, inequality, drift, kind, step, 2.0, size)
        lam = 1.0 if inequality.strictly_convex else 0.0
        found[rate_verdict(trace, lam, inequality=inequality, horizon=2.0, seed=trial).verdict] += 1
    return found


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
    """Print the tables of docs/theory.md."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=240, help="traces per line")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES)
    given = parser.parse_args()
    ways: list[tuple[str, str, float, dict[str, bool]]] = []
    if "flow" in given.tables:
        ways += [("horizon", f"{horizon:g}", horizon, {}) for horizon in (2.0, 4.0)]
    if "steps" in given.tables:
        ways += [
            ("held against", words, 2.0, {"implicit": True, "halved": halved})
            for words, halved in (("the bound of the steps", False), ("the flow's, extrapolated", True))
        ]
    for column in dict.fromkeys(way[0] for way in ways):
        _head("rate of the error", column)
        for curve in CURVES:
            for _, words, horizon, how in (way for way in ways if way[0] == column):
                _line(curve, words, [verdicts(curve, size, horizon, given.trials, **how) for size in SIZES])
    if "inequalities" in given.tables:
        _head("inequality", "curve")
        for inequality in ABOUT:
            for words, drift in DRIFTS.items():
                found = [verdicts_beside(inequality, drift, size, given.trials) for size in SIZES]
                _line(inequality.name, words, found)
    if "batches" in given.tables:
        print("\n| d | points per batch | squared error at t = 2 over its bound (sd) | verdicts |\n|---|---|---|---|")
        for dim, points in BATCHES:
            counts, last = verdicts_on_batches(dim, points, given.trials)
            print(f"| {dim} | {points} | {last.mean():.3f} ({last.std(ddof=1):.3f}) | {_shares(counts)} |", flush=True)


def _head(first: str, second: str) -> None:
    print(f"\n| {first} | {second} | {' | '.join(f'noise {100 * size:g} %' for size in SIZES)} |")
    print(f"|{'---|' * (2 + len(SIZES))}")


def _line(first: str, second: str, counts: Sequence[Counter[Verdict]]) -> None:
    print(f"| {first} | {second} | {' | '.join(map(_shares, counts))} |", flush=True)


def _shares(found: Counter[Verdict]) -> str:
    """Percent of the traces in each of `COLUMNS`."""
    return " / ".join(f"{100 * found[verdict] / found.total():.0f}" for verdict in COLUMNS)


if __name__ == "__main__":
    main()
