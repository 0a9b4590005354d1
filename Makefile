# make run    set everything up and run the main job: may a compressed LeNet ship to this machine?
# make test   set everything up and pass the tests
# make check  formatting, lint, types, import layers, the agent's oldest Python
# make proof  the experiments behind the verdicts (hours; see benchmarks/harness/README.md)
# make calibrate  where the protocol's block length and the history's penalty come from (half an hour)
# make bench  the speed figures of benchmarks/, side by side in one run
# make clean  remove what the others made

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# An environment with nothing but what the agent needs, of the oldest Python there is from 3.8 on.
AGENT_VENV := .venv-agent
AGENT_STAMP := $(AGENT_VENV)/.installed

.PHONY: install run test check bench proof calibrate clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "edgebench needs Python 3.10 or newer; name one: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "$(PYTHON) cannot make virtual environments; on Debian: apt install python3-venv" >&2; exit 2; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

run: install
	$(BIN)/edgebench run --target cpu

# In two processes, whatever the machine has; a file's tests stay together, since they share what they train.
test: install $(AGENT_STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile

$(AGENT_STAMP):
	@oldest=$$(ls -d $$HOME/.pyenv/versions/3.8.*/bin/python 2>/dev/null | tail -1); \
	for python in $$oldest python3.8 python3.9 python3.10 $(PYTHON); do \
	  command -v "$$python" >/dev/null && "$$python" -m venv --clear $(AGENT_VENV) \
	    && $(AGENT_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	      numpy onnxruntime && touch $@ && exit 0; \
	done; echo "no environment for the agent alone: its tests will be skipped" >&2

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/vermin --target=3.8- --no-tips --violations edgebench/agent

bench: install
	rm -rf .benchmarks/truth
	$(BIN)/python -m pytest benchmarks/speed --benchmark-only --benchmark-columns=median,iqr,rounds
	$(BIN)/python -m benchmarks.harness --only truth --model identity,lenet --trials 1 --out .benchmarks/truth

proof: install
	$(BIN)/python -m benchmarks.harness --out runs/proof --report reports/harness

calibrate: install
	$(BIN)/python -m benchmarks.calibration.warm_up
	$(BIN)/python -m benchmarks.calibration.blocks
	$(BIN)/python -m benchmarks.calibration.change_points

clean:
	rm -rf $(VENV) $(AGENT_VENV) dist build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
