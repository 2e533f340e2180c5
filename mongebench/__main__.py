"""`python -m mongebench`."""

from mongebench.cli import main

if __name__ == "__main__":  # processes that dask spawns import this module
    main()
