"""`python -m mongebench`."""

from mongebench.cli import main

main()
