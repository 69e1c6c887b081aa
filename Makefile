# Two commands do all on a fresh machine (git, make, Python >= 3.11): `make up` and `make test`.
# The first that runs and is new enough (a name alone may be a shim without a Python behind it).
PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
  $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$name && break; done)
VENV := .venv
TORCH ?= 2.13.0
ATHERIS ?= 3.0.0
RUNS ?= 50000
BIN := $(VENV)/bin
export PYTHONDONTWRITEBYTECODE :=

.PHONY: up test test-slow test-torch test-images test-cluster clients check bench soak fuzz lock clean

$(VENV)/installed: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer was found; name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the locked requirements into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

up: $(VENV)/installed  ## one whole turn on the flights
	@cd examples/flights && ../../$(BIN)/treadle up

test: $(VENV)/installed  ## unit and end-to-end tests
	@$(BIN)/python -m pytest -n 2 --dist worksteal -q

test-slow: $(VENV)/installed  ## crash loops, PostgreSQL, a full disk, the year's demo
	@$(BIN)/python -m pytest -n 2 --dist worksteal -q -m slow --timeout 1200

test-torch: $(VENV)/installed  ## what needs PyTorch, in a venv of its own: its wheels are large
	@test -x .venv-torch/bin/python || $(BIN)/python -m venv .venv-torch
	@echo "import site; site.addsitedir('$(CURDIR)/$$(ls -d $(VENV)/lib/python*/site-packages)')" > "$$(ls -d .venv-torch/lib/python*/site-packages)/treadle-venv.pth"
	@.venv-torch/bin/python -c 'import torch' 2>/dev/null || .venv-torch/bin/python -m pip install --quiet --disable-pip-version-check torch==$(TORCH)
	@.venv-torch/bin/python -m pytest -q -n 0 tests/base/test_pt2.py tests/build/test_exported.py tests/operate/model/test_torch_model.py tests/e2e/test_compile.py

test-images: $(VENV)/installed  ## images: Docker, a registry and independent readers; none may be skipped
	@tests/support/setup_images
	@TREADLE_NO_SKIPS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -q -m images --timeout 900

test-cluster: $(VENV)/installed  ## Kubernetes: against the kubeconfig's current context; none may be skipped
	@TREADLE_NO_SKIPS=1 $(BIN)/python -m pytest -n 3 --dist worksteal -q -m "cluster and not soak" --timeout 900

clients: $(VENV)/installed  ## the clients of the model server that the slow tests ask it with
	@tests/real_clients/setup

check: $(VENV)/installed  ## style, types, direction of imports
	@$(BIN)/ruff check src tests examples benchmarks
	@$(BIN)/ruff format --check --quiet src tests examples benchmarks || (echo "run: $(BIN)/ruff format src tests examples benchmarks"; exit 1)
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(VENV)/installed  ## the figures of benchmarks/README.md
	@$(BIN)/python benchmarks/loop.py
	@$(BIN)/python benchmarks/serving.py --install
	@$(BIN)/python benchmarks/serving.py
	@tests/support/setup_images >/dev/null
	@$(BIN)/python benchmarks/images.py

soak: $(VENV)/installed  ## long versions of the crash, load and roll-out tests; those of a cluster skip without one
	@$(BIN)/python -m pytest -q -rs -m soak --timeout 7200

fuzz: $(VENV)/installed  ## atheris on the HTTP protocol and on binary tensors; RUNS=… each
	@test -x .venv-fuzz/bin/python || $(BIN)/python -m venv .venv-fuzz
	@echo "import site; site.addsitedir('$(CURDIR)/$$(ls -d $(VENV)/lib/python*/site-packages)')" > "$$(ls -d .venv-fuzz/lib/python*/site-packages)/treadle-venv.pth"
	@.venv-fuzz/bin/python -c 'import atheris' 2>/dev/null || .venv-fuzz/bin/python -m pip install --quiet --disable-pip-version-check atheris==$(ATHERIS)
	@.venv-fuzz/bin/python tests/fuzz/http_protocol.py -runs=$(RUNS)
	@.venv-fuzz/bin/python tests/fuzz/binary_decoder.py -runs=$(RUNS)

lock:  ## resolve again, for every platform, with hashes and without host names
	@$(BIN)/python -m pip install --quiet uv
	@$(BIN)/uv pip compile pyproject.toml --group dev --extra mlflow --extra sklearn --extra xgboost --extra lightgbm --extra onnx --extra compile --extra grpc --extra images --extra kubernetes --extra duckdb --extra postgres \
	  --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet --output-file requirements.lock

clean:
	@rm -rf $(VENV) .venv-clients .venv-torch .venv-fuzz .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
