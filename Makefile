# From Python 3.11 or later and make alone: each target makes the environment that it needs.
#
#   make demo     the main job, end to end; options by ARGS, as in: make demo ARGS="--postgres --chaos"
#   make test     the whole suite; it starts its own broker and databases
#   make quick    all tests that need no service
#   make lint     ruff, mypy and the import contract
#   make bench    the main path beside its rivals; as in: make bench ARGS="--quick routing"
#   make soak     half an hour of steady traffic: do latency or memory grow? ARGS="--minutes 5"
#   make torture  kills, stops, cuts and poisons the bus and counts what went wrong; options by ARGS
#   make pairs    a million drawn pairs of rows: is our verdict that of SQL's EXCEPT? ARGS="--seed 7"
#   make adoption two departments of 200,000 typed people each join a bus; ARGS="--people N"
#   make screenshots: the pictures of the README, taken from the demonstration's own console

ARGS ?=
# The first Python on this machine that is young enough.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

ENV := .make/env
BIN := $(ENV)/bin
READY := $(ENV)/.ready

.PHONY: demo test quick lint bench soak torture pairs adoption screenshots lock clean

demo: $(READY)
	$(BIN)/deptbus demo $(ARGS)

# Two processes, each with servers of its own (tests/conftest.py); ARGS="-n 0" for one.
test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadscope $(ARGS)

quick: $(READY)
	$(BIN)/python -m pytest -n auto -m "not service" $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python -m benchmarks $(ARGS)

soak: $(READY)
	$(BIN)/python -m benchmarks soak $(ARGS)

torture: $(READY)
	$(BIN)/python -m tests.torture $(ARGS)

pairs: $(READY)
	$(BIN)/python -m tests.pairs $(ARGS)

adoption: $(READY)
	$(BIN)/python -m tests.adoption $(ARGS)

screenshots: $(READY)
	$(BIN)/python tools/screenshots.py

# Everything comes from the lock, digest by digest; the project itself is built without downloads.
$(READY): requirements.lock pyproject.toml Makefile
	@test -n "$(PYTHON)" || { echo "make: Python 3.11 or later is needed" >&2; exit 2; }
	@echo "Making the environment $(ENV) (once)"
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --quiet --clear --python "$$(command -v $(PYTHON))" $(ENV) && \
		uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock && \
		uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e . ; \
	else \
		$(PYTHON) -m venv --clear $(ENV) && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check \
			--require-hashes -r requirements.lock && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check \
			--no-deps --no-build-isolation -e . ; \
	fi
	@touch $(READY)

# For developers who change dependencies; needs uv. The lock holds digests and no addresses.
lock:
	uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --group dev \
		--no-header --no-emit-index-url --no-emit-find-links -o requirements.lock pyproject.toml

clean:
	rm -rf .make
