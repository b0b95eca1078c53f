# Every target makes what it needs, the virtual environment included.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo test lint proto bench soak drill up down lock clean
.DEFAULT_GOAL := test

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Tongxing needs Python 3.11 or later: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the pinned dependencies into $(VENV) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP)  ## the main job: three provinces, 588 travellers; behind Envoy: make demo DOOR=envoy
	@$(BIN)/python scripts/demo.py $(addprefix --door ,$(DOOR))

up: $(STAMP)  ## leave the three provinces running; a whole exchange: make up PROVINCES=32
	@$(BIN)/python scripts/demo.py up $(PROVINCES) $(addprefix --door ,$(DOOR))

down: $(STAMP)
	@test ! -d .demo/exchange || $(BIN)/tongxing exchange down --directory .demo/exchange

# Hundreds of nodes and commands start: none is to compile anew what another has compiled.
test: export PYTHONDONTWRITEBYTECODE =
test: lint  ## everything that CI runs
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/generate.py --check

proto: $(STAMP)  ## write exchange/v1 anew from proto/
	$(BIN)/python scripts/generate.py

bench: $(STAMP)  ## every figure beside its peer; one of them: make bench CASE=fetch
	$(BIN)/python -m scripts.bench $(CASE)

soak: $(STAMP)  ## an hour of load, and what grows: make soak SECONDS=90 RATE=200 DOOR=envoy OUT=soak.jsonl PLOT=soak.png
	@$(BIN)/python -m scripts.soak $(addprefix --seconds ,$(SECONDS)) $(addprefix --rate ,$(RATE)) $(addprefix --door ,$(DOOR)) $(addprefix --out ,$(OUT)) $(addprefix --plot ,$(PLOT))

drill: $(STAMP)  ## rotate every key under load, then revoke a stolen one at 32 nodes
	@$(BIN)/python scripts/drill.py rotation
	@$(BIN)/python scripts/drill.py stolen

lock: pyproject.toml  ## pin anew: needs uv
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --group dev pyproject.toml -o requirements.txt
	@! grep -nE '://' requirements.txt

clean: down
	rm -rf $(VENV) .demo .pytest_cache .mypy_cache .ruff_cache
