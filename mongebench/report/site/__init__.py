"""Pages: the report of runs, and the page of a selection."""
