"""Declared grids, one TOML file each; `mongebench run NAME` finds them here."""

from pathlib import Path


def packaged() -> dict[str, Path]:
    """The experiments that come with mongebench, by name."""
    return {path.stem: path for path in sorted(Path(__path__[0]).glob("*.toml"))}
