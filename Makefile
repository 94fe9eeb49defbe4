# `make demo` shows the whole cluster on real traffic; `make test` is what CI runs. Both install what is missing.
PY := .venv/bin/python

.PHONY: help setup demo test compose-test lint bench soak clean
help:
	@echo "make demo    the whole cluster in network namespaces, on real traffic (root)"
	@echo "make test    lint, types and every test (root)"
	@echo "make compose-test  the docker-compose stack, built and run; brings an engine if there is none (root)"
	@echo "make lint    ruff and mypy --strict"
	@echo "make bench   every benchmark next to its peer; bench/results/*.json"
	@echo "make soak    the slow tests; a fault campaign of ten minutes under load among them (root)"

setup:
	@deploy/setup.sh

demo: setup
	@$(PY) -m deploy.demo

lint: setup
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

# What fails is tried once more, alone: see docs/decisions/0096-a-second-chance.md.
TESTS := $(PY) -m pytest -q -m "not soak"
test: lint
	@$(TESTS) -n 4 --dist loadfile || { [ $$? = 1 ] && echo "test: what failed is tried again, alone" && \
		$(TESTS) --last-failed --last-failed-no-failures none --maxfail 5; }

compose-test: setup
	@$(PY) -m deploy.compose.check

bench: setup
	@$(PY) -m bench all

soak: setup
	@$(PY) -m pytest -q -m soak

clean:
	rm -rf .venv build *.egg-info bench/results .mypy_cache .ruff_cache .pytest_cache .hypothesis
