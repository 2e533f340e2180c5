"""What a flow refuses before it starts: parameters out of their range, samples too small for the potential."""

from __future__ import annotations

from typing import Any

import numpy as np

from mongebench.core.errors import InvalidInput, InvalidParameter, one_of


def check_choice(given: object, valid: Any, kind: str) -> None:
    """Raise `InvalidParameter`, with the valid names, unless `given` is one of them."""
    if given not in valid:
        raise InvalidParameter(one_of(str(given), valid, kind))


def check_counts(**counts: int) -> None:
    """Raise `InvalidParameter` unless all are positive whole numbers."""
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 1:
            raise InvalidParameter(f"{name} must be a positive whole number, got {count!r}.")


def check_points(points: int | None, dim: int, parameters: int) -> None:
    """Raise `InvalidInput` where so few points of mu0 leave the minimum of D undetermined; None is any number."""
    if points is None or (points > dim and points * dim >= parameters):
        return
    raise InvalidInput(
        f"{points} points of the source in dimension {dim} do not determine a potential of {parameters} parameters: at "
        f"least {max(dim + 1, -(-parameters // dim))} points are needed. Give more points or fewer units."
    )


def check_positive(**numbers: float) -> None:
    """Raise `InvalidParameter` unless all are positive finite numbers."""
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, (int, float, np.number)) or not 0 < number < np.inf:
            raise InvalidParameter(f"{name} must be a positive finite number, got {number!r}.")
