# Two commands on a fresh machine with git, make, python3-venv and pip: `make bench` and `make test`.
VENV ?= .venv
PYTHON ?= python3
STAMP := $(VENV)/.installed

.PHONY: help install extras bench test slow browser lint docs address clean

help:
	@echo "make bench   install, run the experiment quickstart: tables, a figure, a verdict, a report (minutes)"
	@echo "make test    install, run the tests"
	@echo "make slow    the other cases of what they test once, which .ci/run runs too"
	@echo "make browser install Chromium and what drives it, test the report and the dashboard in it"
	@echo "make extras  the optional solvers; installs Debian's libeigen3-dev as root, says so otherwise (minutes)"
	@echo "make lint    ruff and mypy"
	@echo "make docs    the documentation, site/index.html"
	@echo "make address REPOSITORY=OWNER/NAME   where the project lives, in every file that says so"

install: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[test]"
	touch $@

# MultiScaleOT is compiled at its installation and looks for Eigen where CPLUS_INCLUDE_PATH says.
extras: install
	test -d /usr/include/eigen3 || { test "$$(id -u)" = 0 && apt-get install --yes libeigen3-dev; } \
	  || { echo "The extra multiscale needs Debian's libeigen3-dev: sudo apt-get install libeigen3-dev"; exit 1; }
	CPLUS_INCLUDE_PATH=/usr/include/eigen3 $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --editable ".[multiscale,semidiscrete,neural]"

bench: install
	$(VENV)/bin/mongebench run quickstart --report

# A process begins with files of its own, and takes of another's when it has none left: what the tests of a file share,
# fits and compiled functions, is made once in nearly all of them.
PYTEST = $(VENV)/bin/pytest --numprocesses auto --dist worksteal --benchmark-disable

test: install
	$(PYTEST)

slow: install
	$(PYTEST) -m "slow and not long"
	$(PYTEST) benchmarks/micro

# Debian's and Ubuntu's own Chromium: playwright's download of one is not needed.
browser: install
	@command -v chromium chromium-browser google-chrome > /dev/null || \
	if command -v apt-get > /dev/null && [ "$$(id -u)" = 0 ]; then \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium > /dev/null; \
	else \
	  echo "No Chromium here, and no apt-get run as root to install it: install chromium, then run make browser again." >&2; exit 1; \
	fi
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[browser]"
	$(VENV)/bin/pytest -m browser tests/report

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: install
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

# One variable: what mongebench/core/address.py says now is replaced in all files that name it.
address:
	@test -n "$(REPOSITORY)" || { echo "Say where: make address REPOSITORY=OWNER/NAME"; exit 2; }
	@now=$$(sed -n 's/^REPOSITORY = "\(.*\)"/\1/p' mongebench/core/address.py); \
	  grep -rlF "$$now" mongebench/core/address.py CITATION.cff asv.conf.json pyproject.toml README.md docs/*.md \
	  | xargs sed -i "s|$$now|$(REPOSITORY)|g"

clean:
	rm -rf $(VENV) build dist *.egg-info results/runs site
