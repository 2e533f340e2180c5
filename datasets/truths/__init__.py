"""Certified optimal transport maps that the sources of this package do not have in closed form."""
