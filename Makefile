# The words of this project. Each does its own set-up: `make demo` and `make test` work on a fresh clone.
#
#   make demo    rerank real text over HTTP, then a Qwen3 layout with random weights against transformers
#   make test    lint, types and tests
#   make check   lint, types, the rules of the code and the quick tests, before each commit
#   make test-ray       the executor and datasets on a Ray cluster of two simulated nodes (installs the extra `ray`)
#   make test-clients   other projects' SDKs against this server, in an environment of their own
#   make bench   a short benchmark of the packaged model on this machine
#   make lint    ruff, clang-format and mypy only      make format   let ruff and clang-format rewrite
#   make setup   the virtual environment               make clean    remove what the others made

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell command -v $(name) 2>/dev/null)))
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.engine-setup
# torch goes first and by itself: the project's build never needs it, and its CPU build is chosen here.
TORCH ?= torch==2.13.0
# Parallel test processes; two cores are enough for the whole suite.
JOBS ?= 2
PYTEST_ARGS ?=
# What `make check` runs: no server, no model, no comparison with another library's tokenizers or defaults.
QUICK := tests/architecture tests/engine tests/serve/test_golden.py tests/bench/test_dataset.py tests/bench/test_summary.py \
	tests/inputs/test_identity.py tests/inputs/test_ranges.py tests/inputs/test_resolver.py tests/inputs/test_saved_templates.py
CPP := $(wildcard kernels/cpu/csrc/*.cpp kernels/cpu/csrc/*.h)
NATIVE := $(shell find kernels CMakeLists.txt \( -name '*.cpp' -o -name '*.h' -o -name '*.hpp' -o -name 'CMakeLists.txt' \) 2>/dev/null)

# The checkout stays off sys.path, so that nothing can import the bare folder names (docs/architecture.md).
export PYTHONSAFEPATH := 1

.PHONY: setup demo test check test-ray test-clients bench lint format clean
.DEFAULT_GOAL := test

setup: $(STAMP)

$(STAMP): pyproject.toml $(NATIVE)
	@test -n "$(PYTHON)" || { echo "make: no python3 found; install Python 3.11 or later, or say make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is older than Python 3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

demo: setup
	$(BIN)/python -m engine.entrypoints.demo

test: lint
	$(BIN)/python -m pytest -n $(JOBS) --dist loadscope $(PYTEST_ARGS)

check: lint
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadscope $(QUICK)

test-ray: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev,ray]"
	$(BIN)/python -m pytest $(PYTEST_ARGS) tests/distributed

test-clients: setup
	test -x $(VENV)-clients/bin/python || $(PYTHON) -m venv $(VENV)-clients
	$(VENV)-clients/bin/python -m pip install --quiet --upgrade pip # an older one takes very long to find versions that agree
	$(VENV)-clients/bin/python -m pip install --quiet -r tests/clients/requirements.txt
	$(VENV)-clients/bin/python -m pip install --quiet --no-deps -r tests/clients/requirements-alone.txt
	@command -v npm >/dev/null || echo "make: no npm here: the tests of the JavaScript clients are skipped"
	! command -v npm >/dev/null || npm install --prefix tests/clients/javascript --no-package-lock --no-audit --no-fund --silent
	ENGINE_PYTHON=$(abspath $(BIN))/python $(VENV)-clients/bin/python -m pytest -c tests/clients/pytest.ini --rootdir . tests/clients

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

bench: setup
	$(BIN)/engine bench throughput --num-prompts 200 --random-input-len 200

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis site $(STAMP)
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
