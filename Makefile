# Two commands on a fresh machine with git, make, python3-venv and pip: `make bench` and `make test`.
VENV ?= .venv
PYTHON ?= python3
STAMP := $(VENV)/.installed

.PHONY: help install bench test lint docs clean

help:
	@echo "make bench   install, run the experiment quickstart, print its table, draw its figure (minutes)"
	@echo "make test    install, run the tests"
	@echo "make lint    ruff and mypy"
	@echo "make docs    the documentation, site/index.html"

install: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[test]"
	touch $@

bench: install
	$(VENV)/bin/mongebench run quickstart

test: install
	$(VENV)/bin/pytest --numprocesses auto --benchmark-disable

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: install
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

clean:
	rm -rf $(VENV) build dist *.egg-info results/runs site
