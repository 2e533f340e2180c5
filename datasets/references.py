"""Reference draws of targets that are known by V alone: made once by NUTS, checked, and kept by their digest.

Long chains of the No-U-Turn sampler (Hoffman and Gelman 2014; blackjax) stand in for a sampler. They are accepted once
split R-hat is below 1.01 and the bulk effective sample size above 10^4, for every coordinate and for V itself, of the
draws that are kept (Vehtari et al. 2021). Those of the problems as they are by default come with the package; others
are built once, `mongebench references build`, and kept in the user's cache.

A file holds the draws, standardised and rounded to float16 (an error of 2^-11 of a draw, a twentieth of what 10^4
draws leave of a mean), and their certificate: R-hat, effective sample size, divergent transitions, and V at some of the
draws, by which a file is refused that was made for another V.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mongebench.core.arrays import Points
from mongebench.core.errors import InvalidInput, NotConverged
from mongebench.core.measure import Source, Target, drawn_from
from mongebench.core.npz import read_arrays
from mongebench.core.problem import Problem
from mongebench.datasets.linear import Array

SHIPPED = Path(__file__).with_name("draws")
CHAINS, KEPT = 8, 1500
"""Chains, and draws of each that are kept, evenly spaced."""
WARM_UP = 1000
ROUNDS = 5
"""Times that chains are run on, each for twice as long as before, before they are given up."""
R_HAT, BULK = 1.01, 10_000
PROBED = 16
"""Draws at which V is kept."""
LARGEST = 1 << 26
"""Bytes that a file of draws may unpack to."""


@dataclass(frozen=True)
class Reference:
    """Draws of a target, and what is known of their quality.

    Attributes
    ----------
    draws
        (n, d), those of a chain one after the other.
    certificate
        "r_hat", "bulk" (the worst of all coordinates and V), "divergent" transitions, "drawn" (of each chain, of which
        every "thinning"-th is kept), and the versions of blackjax and JAX.
    """

    draws: Points
    certificate: Mapping[str, Any]


def problem(source: Source, target: Target, draws: Points, **known: Any) -> Problem:
    """The problem of a target that has no sampler but draws: every other one to fit from, the rest to evaluate on.

    Parameters
    ----------
    source, target
        The two measures, without those draws.
    draws
        (n, d).
    **known
        Of `Problem`.
    """
    variance = float(draws.var(axis=0).sum())
    to_fit, to_evaluate = (
        replace(target, sampler=drawn_from(part), size=len(part), total_variance=target.total_variance or variance)
        for part in (draws[::2], draws[1::2])
    )
    return Problem(source=source, target=to_fit, held_out=(source, to_evaluate), dim=draws.shape[1], **known)


def digest(name: str, content: Mapping[str, Any]) -> str:
    """What a file of draws is called by: name and content hash of what the target was made with."""
    text = json.dumps(content, sort_keys=True)
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def cache() -> Path:
    """The folder of draws that were built on this machine."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mongebench" / "references"


def load(called: str, potential: Callable[[Array], Array], how: str, folder: Path | None = None) -> Reference:
    """The draws of that digest, from the package or the cache.

    Parameters
    ----------
    called
        From `digest`.
    potential
        V, (n, d) -> (n,), which the file is held against.
    how
        The command that builds it, for the message.
    folder
        Where to look in place of the package and the cache.

    Raises
    ------
    InvalidInput
        There are none, or they are those of another V.
    """
    paths = [place / f"{called}.npz" for place in ((folder,) if folder else (SHIPPED, cache()))]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        places = " or ".join(str(path.parent) for path in paths)
        raise InvalidInput(f"There are no reference draws {called} in {places}: build them with `{how}`.")
    with path.open("rb") as file:
        kept = read_arrays(file, LARGEST)
    try:
        draws = kept["mean"] + kept["deviation"] * kept["standardised"].astype(np.float64)
        probe = kept["probe"]
        certificate = json.loads(bytes(kept["certificate"]))
    except (KeyError, ValueError) as error:
        raise InvalidInput(f"{path} holds no reference draws: {error}. Build them with `{how}`.") from error
    now = np.asarray(potential(draws[:PROBED]))
    if not np.allclose(now, probe, rtol=1e-6, atol=1e-6 * np.ptp(probe)):
        raise InvalidInput(f"{path} was made for another potential: build it again with `{how}`.")
    return Reference(draws, certificate)


def save(reference: Reference, called: str, potential: Callable[[Array], Array], folder: Path) -> Path:
    """Write draws and certificate; the path."""
    mean, deviation = reference.draws.mean(axis=0), reference.draws.std(axis=0)
    standardised = ((reference.draws - mean) / deviation).astype(np.float16)
    rounded = mean + deviation * standardised[:PROBED].astype(np.float64)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{called}.npz"
    np.savez_compressed(
        path,
        standardised=standardised,
        mean=mean,
        deviation=deviation,
        probe=np.asarray(potential(rounded)),
        certificate=np.frombuffer(json.dumps(dict(reference.certificate)).encode(), dtype=np.uint8),
    )
    return path


def sample(
    potential: Callable[[Any], Any], mode: Array, factor: Array, *, seed: int = 0, say: Callable[[str], None] = print
) -> Reference:
    """Draws of exp(-V) / Z by NUTS, in the coordinates z of b = mode + factor z.

    Parameters
    ----------
    potential
        V, (n, d) -> (n,), written for JAX.
    mode
        Where chains start about, (d,).
    factor
        Of the Laplace approximation's covariance, (d, d): it makes the target round, which saves steps and changes
        nothing else.
    seed
        Of starts and chains.
    say
        Told what each round came to.

    Raises
    ------
    NotConverged
        R-hat or effective sample size do not suffice after `ROUNDS` rounds.
    """
    import blackjax
    import jax
    import jax.numpy as jnp
    from arviz_stats.base import array_stats

    with jax.enable_x64(True):
        centre, turn = jnp.asarray(mode), jnp.asarray(factor)

        def log_density(z: Any) -> Any:
            return -potential((centre + turn @ z)[None])[0]

        def warm(key: Any, start: Any) -> Any:
            adapted, _ = blackjax.window_adaptation(blackjax.nuts, log_density).run(key, start, WARM_UP)
            return adapted.state, adapted.parameters

        def run(key: Any, state: Any, tuned: Any, count: int) -> Any:
            kernel = blackjax.nuts(log_density, **tuned).step

            def step(state: Any, key: Any) -> Any:
                state, info = kernel(key, state)
                return state, (state.position, -state.logdensity, info.is_divergent)

            return jax.lax.scan(step, state, jax.random.split(key, count))

        keys = jax.random.split(jax.random.key(seed), ROUNDS + 2)
        starts = 2 * jax.random.normal(keys[0], (CHAINS, len(mode)))
        state, tuned = jax.jit(jax.vmap(warm))(jax.random.split(keys[1], CHAINS), starts)
        advance = jax.jit(jax.vmap(run, in_axes=(0, 0, 0, None)), static_argnums=3)
        positions, values, divergent = [], [], 0
        for attempt in range(ROUNDS):
            count = KEPT * 2 ** max(attempt - 1, 0)
            state, (z, v, bad) = advance(jax.random.split(keys[2 + attempt], CHAINS), state, tuned, count)
            positions.append(np.asarray(z))
            values.append(np.asarray(v))
            divergent += int(bad.sum())
            drawn = sum(part.shape[1] for part in values)
            thinning = drawn // KEPT
            chains = (
                mode + np.concatenate(positions, axis=1)[:, thinning - 1 :: thinning] @ factor.T
            )  # (chains, KEPT, d)
            energies = np.concatenate(values, axis=1)[:, thinning - 1 :: thinning]
            every = np.concatenate([chains, energies[:, :, None]], axis=2)
            r_hat = max(float(array_stats.rhat(every[:, :, j])) for j in range(every.shape[2]))
            bulk = min(float(array_stats.ess(every[:, :, j])) for j in range(every.shape[2]))
            say(f"{CHAINS} chains of {drawn}: R-hat {r_hat:.4f}, bulk effective sample size {bulk:.0f}")
            if r_hat < R_HAT and bulk > BULK:
                break
        else:
            raise NotConverged(
                f"NUTS: R-hat {r_hat:.4f} and bulk effective sample size {bulk:.0f} after {drawn} draws of each of "
                f"{CHAINS} chains; expected below {R_HAT} and above {BULK}."
            )
    certificate = {
        "r_hat": r_hat,
        "bulk": bulk,
        "divergent": divergent,
        "drawn": drawn,
        "thinning": thinning,
        "seed": seed,
        "blackjax": blackjax.__version__,
        "jax": jax.__version__,
    }
    return Reference(chains.reshape(-1, len(mode)), certificate)
