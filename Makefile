# Needs Linux, Python ≥ 3.11 with venv, git and make. Everything else is installed below this folder.
.PHONY: help install install-slurm demo environments test check lint docs check-data test-faults test-cluster benchmark lock clean-results
.DELETE_ON_ERROR:
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
CORES ?= $(shell nproc)
DRIVER := .venv/bin
TEST := .envs/test/bin
# pytest inside the environment of a rule
run_in = "$$($(DRIVER)/python tests/prefix.py $(1))/bin/python" -m pytest
CONDA := $(DRIVER)/python envs/fallback/venv_conda.py

help:  ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*##/\t/' | expand -t 18

install: .venv/installed  ## the driver: Snakemake and uv in .venv

.venv/installed: envs/driver.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 …")'
	rm -rf .venv
	$(PYTHON) -m venv .venv || { echo "error: $(PYTHON) has no venv module (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	$(DRIVER)/pip install --quiet --disable-pip-version-check -r envs/driver.txt
	touch $@

install-slurm: .venv/slurm  ## adds the SLURM plugin to the driver, see docs/cluster.md

.venv/slurm: envs/slurm.txt .venv/installed
	$(DRIVER)/pip install --quiet --disable-pip-version-check -r envs/slurm.txt
	touch $@

.envs/%/installed: envs/%.yaml | .venv/installed
	rm -rf $(@D)
	$(CONDA) env create --file $< --prefix $(@D)
	touch $@

demo: .venv/installed  ## the simulated default, from nothing to tables and figures
	$(DRIVER)/snakemake --cores $(CORES)
	@echo; cut -c 1-150 results/tables/topk_r2_wide.csv | head -20
	@echo "tables: results/tables   figures: results/figures   again: source .venv/bin/activate && snakemake --cores 8 --resources gpu=8"

lint: .envs/test/installed .venv/installed  ## ruff, mypy, snakefmt, snakemake --lint
	$(TEST)/ruff check .
	$(TEST)/ruff format --check .
	PATH="$(CURDIR)/$(TEST):$$PATH" $(TEST)/snakefmt --check Snakefile workflow/Snakefile rules
	$(TEST)/mypy
	$(DRIVER)/snakemake --lint

environments: .venv/installed  ## the environments of all rules, ready to use
	$(DRIVER)/snakemake --cores $(CORES) --configfile config/everything.yaml --conda-create-envs-only

test: lint environments .envs/comparators/installed  ## lint, then all tests
	@echo "$(words $(SUITES)) suites, $(CORES) at a time; each prints its results when it ends (minutes)"
	$(MAKE) --jobs=$(CORES) --output-sync=target --keep-going $(SUITES)

# As many run side by side as there are cores; the longest begin first.
SUITES := test-mini test-lincs test-docs test-library test-formats test-scvi test-workflow test-torch test-scripts
SUITES += test-comparators test-chem test-baselines
.PHONY: $(SUITES)
$(SUITES): export OMP_NUM_THREADS = 1
MINI := $(addprefix tests/workflow/test_,edits.py workflow.py named_runs.py security.py)  # one run serves all of these
OTHERS := $(addprefix tests/workflow/test_,docs.py formats.py lincs.py)
test-mini: ; $(TEST)/pytest $(MINI)
test-docs: ; $(TEST)/pytest tests/workflow/test_docs.py
test-formats: ; $(TEST)/pytest tests/workflow/test_formats.py
test-lincs: ; $(TEST)/pytest tests/workflow/test_lincs.py
test-workflow: ; $(TEST)/pytest tests/workflow $(addprefix --ignore=,$(MINI) $(OTHERS))
test-library: ; $(TEST)/pytest tests/library
test-scripts: ; $(TEST)/pytest tests/scripts
test-baselines: ; $(call run_in,baselines) tests/conformance --env baselines
test-torch: ; $(call run_in,torch) tests/models/torch tests/conformance --env torch
test-chem: ; $(call run_in,chem) tests/models/chem tests/conformance --env chem
test-scvi: ; $(call run_in,scvi) tests/models/scvi tests/conformance --env scvi
test-comparators: ; .envs/comparators/bin/python -m pytest tests/comparators

check: lint  ## lint and the fast tests of the library: for work on the code
	$(TEST)/pytest tests/library -m "not slow"

docs: .envs/test/installed  ## writes the tables of config/README.md and docs/metrics.md anew
	PYTHONPATH=src $(TEST)/python workflow/document_config.py
	PYTHONPATH=src $(TEST)/python workflow/document_metrics.py

check-data: .envs/test/installed  ## checks on real data: make check-data DATA=folder
	TRUESHIFT_DATA="$(realpath $(DATA))" $(TEST)/pytest tests/data

test-faults: environments .envs/test/installed  ## killed jobs, full disks, damaged files: what is lost (some need root)
	$(TEST)/pytest tests/faults -rs

.envs/slurm/installed: envs/slurm.txt
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check -r envs/slurm.txt
	touch $@

test-cluster: environments .envs/test/installed .envs/slurm/installed  ## a real SLURM on this machine (Debian, root)
	$(TEST)/pytest tests/cluster -rs

benchmark: environments .envs/comparators/installed  ## scoring beside cell-eval: time, memory, agreement
	$(DRIVER)/python benchmarks/scoring.py
	$(DRIVER)/python benchmarks/scoring.py --panel 5000
	$(DRIVER)/python benchmarks/dag.py
	"$$($(DRIVER)/python tests/prefix.py data)/bin/python" benchmarks/lincs_scale.py --models

lock: .venv/installed  ## resolves envs/requirements/*.in anew
	$(DRIVER)/python envs/lock.py

clean-results:  ## removes results, keeps environments
	rm -rf results
