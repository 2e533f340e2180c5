"""Declared grids, one TOML file each; `mongebench run NAME` finds them here."""
