# Everything a person needs: `make demo` and `make test` set up what they need first, once.
# Other Python: make PYTHON=python3.12 ...    Further options for pip: make PIP_ARGS="..." ...

SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin

# Without it pip replaces a CPU build of torch by gigabytes of CUDA at the first chance.
export PIP_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup demo test slow check fmt bench docs recipes constraints clean

help:  ## this list
	@sed -nE 's/^([a-z]+):.*## (.*)/\1@\2/p' $(MAKEFILE_LIST) | awk -F@ '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(VENV)/.dev  ## the environment in .venv, for the demo, tests and checks

$(VENV)/.demo: pyproject.toml constraints.txt
	@$(if $(PYTHON),$(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Tastemaker needs Python 3.11 or newer; got: $(or $(PYTHON),none on PATH)." \
		"Install it, or say where it is: make PYTHON=/path/to/python3.11"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make virtual environments; on Debian: apt install python3-venv"; exit 2; }
	@echo "Installing into $(VENV) (a minute or two, about 2 GB)"
	$(BIN)/pip install --quiet $(PIP_ARGS) -e ".[demo]"
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	@echo "Installing what tests and checks need"
	$(BIN)/pip install --quiet $(PIP_ARGS) -e ".[demo,curation,dev]"
	@touch $@

demo: $(VENV)/.demo  ## the main job on real pictures, on a CPU; ends with the path of a report
	$(BIN)/tastemaker run tiny/demo -o runs/demo

test: $(VENV)/.dev  ## all tests but the slow ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

slow: $(VENV)/.dev  ## the tests marked slow, which `make test` leaves out: twins of recipes, kills, a fresh clone
	TASTEMAKER_SLOW=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

check: $(VENV)/.dev  ## format, lint, imports, types, dependencies, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/deptry .
	$(BIN)/codespell

fmt: $(VENV)/.dev  ## format, fix what can be fixed, write the generated pages of the docs
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/python tools/reference_pages.py

bench: $(VENV)/.dev  ## speed of the parts that matter, in CPU seconds
	@for file in benchmarks/*.py; do echo "$$file"; OMP_NUM_THREADS=1 $(BIN)/python $$file || exit 1; done

docs: $(VENV)/.dev  ## build the docs into site/; a broken link or anchor is an error
	$(BIN)/zensical build --clean --strict

RECIPES := smoke vae clip base funnel demo sdxl_lora_style generate evaluate best_checkpoint quality_model study
recipes: $(addprefix recipe-,$(RECIPES))  ## run the tiny recipes end to end; long trainings with a few steps only

# What a recipe is given beside its name, to be short. `make -j2 recipes` runs two at a time.
recipe-vae: ARGUMENTS := images=64
recipe-clip: ARGUMENTS := images=256
recipe-base: ARGUMENTS := images=64 autoencoder=runs/tiny/vae
recipe-base: recipe-vae
recipe-demo: ARGUMENTS := images=64 before.steps=2 after.steps=2
recipe-best_checkpoint: ARGUMENTS := images=64 every=32 tests=4 judge=20
recipe-quality_model: ARGUMENTS := votes=400

recipe-%: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/tastemaker run tiny/$* $(ARGUMENTS) -o runs/tiny/$*

recipe-sdxl_lora_style: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/tastemaker run sdxl_lora_style pictures=demo:openmoji model=tiny-sdxl size=64 images=32 \
		before.steps=2 after.steps=2 -o runs/tiny/sdxl_lora_style

constraints: $(VENV)/.dev  ## write down the versions of this environment (after a deliberate upgrade)
	{ echo "# The whole environment, pinned; remade by 'make constraints'."; \
		$(BIN)/pip freeze --exclude-editable | sed 's/+cpu$$//'; } > constraints.tmp && mv constraints.tmp constraints.txt

clean:  ## remove what was built, not what was run
	rm -rf $(VENV) site build dist .pytest_cache .ruff_cache
