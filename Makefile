# make demo: install into .venv, then train and score a tiny model.  make test: all tests.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Processes that run tests side by side; many tests wait more than they compute.
JOBS ?= 2

.PHONY: demo test lint types docs check container bench gpu clean

demo: $(VENV)/.installed
	$(BIN)/jobspec demo

test: $(VENV)/.installed
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadscope --no-loadscope-reorder

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/pyright --pythonpath $(BIN)/python

# The site, to be opened from disk; a dead link or anchor is an error (mkdocs.yml). Not --quiet: that hides them.
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

check: test lint types docs

# The worker's image, by podman or buildah; see Containerfile and docs/cluster.md.
SIF ?= worker.sif
container:
	slurm/build-image $(SIF)

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.11 demo")'
	$(PYTHON) -m venv $(VENV)
	@echo "installing torch, transformers, deepspeed, trl and lm-eval into $(VENV) …"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[worker,relay,docs,dev]'
	@touch $@

# Benchmarks that need no GPU, beside others' tools; their tables go to build/bench.md. QUICK=1 takes fewer of everything.
WHAT ?=
QUICK ?=
bench: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m benchmarks.run_all --output build/bench.md $(if $(QUICK),--quick) $(WHAT)

# What this machine's GPU does, in at most 8 minutes; the page goes to docs/gpu/. Runs from the checkout with the
# packages of .venv where there is one, else with those of $(PYTHON). ONLY=demo,full-trl runs some routes.
ONLY ?=
gpu:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu $(if $(ONLY),--only $(ONLY))

clean:
	rm -rf $(VENV) build *.egg-info
