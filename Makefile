# Everything is installed into one virtual environment, at the versions in requirements.lock. `make help` lists the targets.
#
#   VENV=DIR       where the virtual environment is or goes
#   PYTHON=NAME    the Python to make it with, 3.11 or newer
#   PYTEST_FLAGS=... flags for pytest, such as -n 0 to run in one process
#   PIP_FLAGS=...  more flags for pip, such as another index. Torch's builds for CPU and GPU share one version number: which one
#                  pip takes for `torch==2.13.0` depends on the index it asks.

PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?= $(if $(CI),--quiet)
PYTEST_FLAGS ?= -n auto --dist worksteal
BENCH_FLAGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install $(PIP_FLAGS) -c requirements.lock
# What builds, pinned, first, and no build isolation: so the project and source packages are built with nothing from outside the lock.
INSTALL = $(PIP) $$(grep -E '^setuptools(-scm)?==' requirements.lock) && $(PIP) --no-build-isolation -e

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint install bench bench-ways bench-domain bench-scale bench-passages bench-speed bench-textbook lock clean distclean

help: ## this list
	@awk -F ': .*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.installed-demo ## train, test and use a news classifier (about 4 minutes on two cores, after the installation)
	$(BIN)/python scripts/demo_data.py demo
	@rm -rf demo/model
	$(BIN)/tunesmith train demo/bbc-train.csv --test demo/bbc-test.csv --max-length 128 --epochs 2 --batch-size 16 --lr 1e-4 --out demo/model
	@echo
	@echo 'Three sentences that the model has not seen:'
	$(BIN)/tunesmith predict demo/model < scripts/demo_sentences.csv
	@echo
	@echo 'The whole report, with every figure and how it was got: demo/model/report.html'

test: lint ## check everything: lint, types, import layers, tests
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_FLAGS)

lint: $(VENV)/.installed-test ## ruff, mypy and the import layers
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

install: $(VENV)/.installed-all ## everything, into $(VENV)

bench: $(VENV)/.installed-bench ## side by side with transformers.Trainer; hours (BENCH_FLAGS="--rows trec --seeds 0" for less)
	$(BIN)/python -m bench.run $(BENCH_FLAGS)

bench-speed: $(VENV)/.installed-bench ## training, a file's whole road, prediction and tokenising beside what people use today; hours
	$(BIN)/python -m bench.speed --whole $(BENCH_FLAGS)

bench-gpu: $(VENV)/.installed-bench ## training on a GPU beside transformers.Trainer, with a build of torch for CUDA
	$(BIN)/python -m bench.speed --gpu $(BENCH_FLAGS)

bench-ways: $(VENV)/.installed-bench ## every way to tune on the same rows (BENCH_FLAGS="--data trec --ways full,head")
	$(BIN)/python -m bench.ways $(BENCH_FLAGS)

bench-domain: $(VENV)/.installed-bench ## fine-tuning after pretraining on a domain's own text, and without (BENCH_FLAGS="--data imdb")
	$(BIN)/python -m bench.domain $(BENCH_FLAGS)

bench-textbook: $(VENV)/.installed-bench ## all of IMDB at 512 tokens, three epochs, and what could make it better (BENCH_FLAGS="--whole plain,mean")
	$(BIN)/python -m bench.textbook $(BENCH_FLAGS)

bench-passages: $(VENV)/.installed-bench ## an index of a million passages: built and searched (BENCH_FLAGS="--passages 100000")
	$(BIN)/python -m bench.passages $(BENCH_FLAGS)

bench-scale: $(VENV)/.installed-test ## memory while training on two million rows; about ten minutes
	$(BIN)/python -m bench.scale

lock: $(VENV)/.installed-all ## write requirements.lock from what $(VENV) holds (after `pip install -U` of what should move)
	$(BIN)/python scripts/lock.py > requirements.lock.new
	mv requirements.lock.new requirements.lock

clean: ## remove what builds, tests and the demo left
	rm -rf build dist demo src/*.egg-info .pytest_cache .hypothesis .ruff_cache .import_linter_cache .cache

distclean: clean ## the same, and the virtual environment
	@if [ -e "$(VENV)/pyvenv.cfg" ]; then rm -rf "$(VENV)"; fi

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo 'tunesmith needs Python 3.11 or newer; name one with PYTHON=python3.12, for instance.' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	    || { echo "$(PYTHON) lacks venv. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv "$(VENV)"

# The stamps: nothing is installed again until the lock or the requirements change.
$(VENV)/.installed-demo: $(VENV)/pyvenv.cfg requirements.lock pyproject.toml
	$(INSTALL) '.[demo]'
	@touch $@

$(VENV)/.installed-test: $(VENV)/pyvenv.cfg requirements.lock pyproject.toml
	$(INSTALL) '.[dev,bench]'
	@touch $@

$(VENV)/.installed-bench: $(VENV)/pyvenv.cfg requirements.lock pyproject.toml
	$(INSTALL) '.[bench]'
	@touch $@

$(VENV)/.installed-all: $(VENV)/pyvenv.cfg pyproject.toml
	$(INSTALL) '.[dev,bench,demo]'
	@touch $@
