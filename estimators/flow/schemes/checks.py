"""What a flow refuses before it starts: samples too small for the potential."""

from __future__ import annotations

from mongebench.core.errors import InvalidInput


def check_points(points: int | None, dim: int, parameters: int) -> None:
    """Raise `InvalidInput` where so few points of mu0 leave the minimum of D undetermined; None is any number."""
    if points is None or (points > dim and points * dim >= parameters):
        return
    raise InvalidInput(
        f"{points} points of the source in dimension {dim} do not determine a potential of {parameters} parameters: at "
        f"least {max(dim + 1, -(-parameters // dim))} points are needed. Give more points or fewer units."
    )
