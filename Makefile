# make demo    the whole way on the built-in world, in an environment of its own; ends with the path of the report
# make test    the whole test suite
# make check   lint, format, types: what a contributor runs
# make papers  docs/papers.md from the declarations of the losses
# make architectures  docs/architectures.md from what benchmarks/architectures.py found
# make site    the documents as a site in build/site, which can be opened from disk
# make stubs   src/assent/__init__.pyi from the options of the commands
# make dist    wheel, sdist and the bill of materials (CycloneDX), in dist
#
# Needs Python >= 3.11 and a package index; no C compiler, no accelerator. PYTHON=... chooses the interpreter.

PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet --constraint constraints.txt
JOBS ?= 2

.PHONY: demo test check format papers architectures stubs site dist clean

demo: $(VENV)/.stamp-run
	$(BIN)/assent demo

test: $(VENV)/.stamp-test
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -n $(JOBS)

check: $(VENV)/.stamp-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.stamp-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

papers: $(VENV)/.stamp-run
	$(BIN)/python docs/make_papers.py

architectures: $(VENV)/.stamp-run
	$(BIN)/python docs/make_architectures.py

stubs: $(VENV)/.stamp-run
	$(BIN)/python docs/make_stubs.py

site: $(VENV)/.stamp-test
	$(BIN)/python docs/make_site.py

dist:
	$(PYTHON) distributions/make_dist.py

clean:
	rm -rf $(VENV)

# torch first and alone: whatever build of that version the index has (CPU or CUDA) is then left as it is.
$(VENV)/.stamp-torch: constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; give it with PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	touch $@

$(VENV)/.stamp-run: $(VENV)/.stamp-torch pyproject.toml
	$(PIP) --editable .
	touch $@

$(VENV)/.stamp-test: $(VENV)/.stamp-run
	$(PIP) --editable '.[test]'
	touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp-test
	$(PIP) --editable '.[dev]'
	touch $@
