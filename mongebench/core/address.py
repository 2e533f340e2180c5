"""Where the project lives: the one place that says so, for templates, metadata and the tests that hold files to it."""

REPOSITORY = "mongebench/mongebench"
"""OWNER/NAME on GitHub; `make address REPOSITORY=OWNER/NAME` puts another one into every file that names it."""
