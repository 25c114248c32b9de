# Two commands matter: `make demo` and `make test`. Both make the environment they need.
PYTHON ?= python3.11
BIN := .venv/bin
export OMP_NUM_THREADS ?= 2

.PHONY: demo test quick lint types imports unit torture tables papers gallery bench clean

demo: .venv/ready            ## train on real digits, sample, mend a picture, write one report
	$(BIN)/ornstein demo --out demo

test: lint types imports unit ## everything that must be green

quick: lint types imports    ## the same without the slow tests
	$(BIN)/pytest -n 2 -m "not slow and not torture"

lint: .venv/ready
	$(BIN)/ruff check src tests docs benchmarks
	$(BIN)/ruff format --check src tests docs benchmarks
	$(BIN)/codespell src tests docs README.md CHANGELOG.md CONTRIBUTING.md

types: .venv/ready
	$(BIN)/pyright

imports: .venv/ready
	$(BIN)/lint-imports

unit: .venv/ready
	$(BIN)/pytest -n 2 -m "not torture" --dist worksteal --durations=15

tables: .venv/ready          ## every table of the README and the docs, from what was measured
	$(BIN)/python benchmarks/tables.py

papers: .venv/ready          ## the papers' claims, each with its line, then the tables of docs/papers.md
	for script in $$($(BIN)/python benchmarks/papers/table.py --list); do \
	  $(BIN)/python benchmarks/papers/$$script.py || exit 1; done
	$(BIN)/python benchmarks/tables.py

gallery: .venv/ready         ## the pictures of the docs and what is said below them: three quarters of an hour of a core
	for page in restoring editing pairs distilling detecting classifying augmenting text prior; do \
	  $(BIN)/python docs/gallery/$$page.py || exit 1; done

torture: .venv/ready         ## the long form of the kill tests: 200 kills
	$(BIN)/pytest -n 2 -m torture tests/torture

bench: .venv/ready           ## every claim of speed beside the peers, and the pages that tell them
	$(BIN)/python benchmarks/peers/install.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/suite.py
	$(BIN)/python benchmarks/tables.py

.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv || python3 -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "torch==2.13.0" -c constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]" -c constraints.txt
	touch $@

clean:
	rm -rf .venv demo .ruff_cache .pytest_cache .hypothesis .import_linter_cache
