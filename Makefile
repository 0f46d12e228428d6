# `make` alone lists the commands.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
# Python compiles what it imports; compiling all that is installed takes longer and 0.4 GB.
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile
PROFILE ?= demo
DATA ?=
OUT ?= build/notebooks
DOCKER ?= docker
BASE_IMAGE ?= python:3.11-slim-bookworm
BUILD_OPTIONS ?=
# What the base set is installed from: with requirements.txt nothing is compared with its checksum,
# which a build of torch that is neither PyPI's nor the CPU's for Python 3.11 needs.
LOCK ?= requirements-hashed.txt
# The CPU's build of torch, which PyPI does not have: torch-2.13.0+cpu-cp311-manylinux_2_28_x86_64.
TORCH_CPU := 6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b
TOOLS := build/tools
# A process for each CPU; the tests of a file share one, with what it has made. The files begin in the
# order of tests/conftest.py, the longest first, not in that of their number of tests.
PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder
STRIP := --extra-keys "metadata.papermill cell.metadata.papermill"
export LGGSEG_CACHE ?= $(CURDIR)/build/cache
ifdef PYTHONDONTWRITEBYTECODE
# Each process and kernel would compile torch, MONAI and pandas anew: 12 CPU seconds.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX ?= $(CURDIR)/build/bytecode
endif

.DEFAULT_GOAL := help
.PHONY: help try run check test test-all test-docker report site notebooks data lab format image push lock sbom audit clean distclean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /make \1\t/' | expand -t 18
	@echo "options: DATA=/path/to/kaggle_3m  PROFILE=smoke|demo|full"

try: $(BIN)/.try ## install what predicting needs, segment a simulated patient, name its picture
	$(BIN)/lggseg phantom build/try --patients 1
	$(BIN)/lggseg predict models/lgg-unet build/try/kaggle_3m build/try/masks --pictures
	@echo "To look at it slice by slice, at http://127.0.0.1:8081: \
	  $(BIN)/lggseg view models/lgg-unet build/try/kaggle_3m --port 8081"

run: $(BIN)/.base ## install, then execute all notebooks (on a simulated cohort unless DATA is given)
	$(BIN)/lggseg notebooks --data "$(DATA)" --profile $(PROFILE) --out $(OUT)

check: $(BIN)/.dev ## install, then lint and type-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/nbstripout --verify $(STRIP) notebooks/*.ipynb

test: $(BIN)/.dev ## install, then all tests but the slow ones
	$(PYTEST) -m "not slow"

test-all: $(BIN)/.aws check ## lint, type-check, and all tests that this machine has the tools for
	$(PYTEST)

test-docker: $(BIN)/.aws ## test the images and SageMaker's local mode in Docker, which it may start
	container/with_engine.sh bash -c \
	  'container/build_images.sh && LGGSEG_REQUIRE=docker $(BIN)/python -m pytest -s tests/cloud/test_docker.py'

report: $(BIN)/.base ## build the report and the pages of the executed notebooks; DATA adds real patients
	$(BIN)/python -m report.build $(if $(DATA),--data $(DATA))

site: report ## the same, and report, notebooks and documentation as one site: build/site
	$(BIN)/python -m report.site

notebooks: run ## execute all notebooks and keep them, with their outputs, in report/notebooks
	$(BIN)/python -m report.snapshots $(OUT)

data: $(BIN)/.base ## download the real cohort from Kaggle into data/
	$(BIN)/lggseg download data

lab: $(BIN)/.lab ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

format: $(BIN)/.dev ## format the code and strip the notebooks' outputs
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/nbstripout $(STRIP) notebooks/*.ipynb

image: ## build the Docker images lggseg:serve and lggseg:train
	@for target in serve train; do DOCKER_BUILDKIT=1 $(DOCKER) build -q $(BUILD_OPTIONS) \
	  --build-arg BASE_IMAGE=$(BASE_IMAGE) --file container/Dockerfile --target $$target \
	  --tag lggseg:$$target . || exit 1; done

push: $(BIN)/.aws ## push both images to the registry of your AWS account
	$(BIN)/lggseg push

# All extras are resolved at once, so that the lists agree. What is locked now stays: UPGRADE=--upgrade.
# A list leaves out what the lists below it have, unless those have it for some machines only (` ; `).
lock: $(TOOLS)/.tools ## write all locked lists anew from the dependencies in pyproject.toml
	mkdir -p build/lock
	sed -n '/^[A-Za-z].*==/s/ *\\$$//p' $(wildcard requirements*.txt) >build/lock/all.txt
	$(COMPILE) --all-extras --group aws-tests $(UPGRADE) -o build/lock/all.txt
	grep -E $(CUDA) build/lock/all.txt >build/lock/cuda.txt
	$(LIST) $(BASE) $(call BUT,build/lock/cuda.txt) -o requirements.txt
	$(LIST) $(BASE) $(call BUT,build/lock/cuda.txt) --generate-hashes -o requirements-hashed.txt
	sed -i -e '/$(TORCH_CPU)/d' -e 's/^torch==.*/&\n    --hash=sha256:$(TORCH_CPU) \\/' requirements-hashed.txt
	$(LIST) --extra train $(call BUT,requirements.txt) --generate-hashes -o requirements-cuda.txt
	grep -v ' ; ' requirements.txt | cat - build/lock/cuda.txt >build/lock/below.txt
	for extra in lab dev aws; do \
	  $(LIST) --extra $$extra $$([ $$extra = aws ] && echo --extra dev --group aws-tests) \
	    $(call BUT,build/lock/below.txt) --generate-hashes -o requirements-$$extra.txt || exit 1; \
	  grep -v ' ; ' requirements-$$extra.txt >>build/lock/below.txt; \
	done
	$(LIST) --extra serve --no-emit-package pandas --no-emit-package nibabel --generate-hashes \
	  -o container/requirements-serve.txt
	$(LIST) --extra serve --extra train $(call BUT,build/lock/cuda.txt) -o container/requirements-train.txt
	$(subst pyproject.toml,,$(COMPILE)) --group tools --generate-hashes $(UPGRADE) -o requirements-tools.txt
COMPILE := $(TOOLS)/bin/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --no-annotate \
  --custom-compile-command 'make lock'
LIST = $(COMPILE) -c build/lock/all.txt
BASE := --extra notebooks --extra report
CUDA := '^(nvidia-|cuda-|triton==)'
BUT = $$(sed -nE 's/^([A-Za-z0-9_.-]+)==.*/--no-emit-package \1/p' $(1))

sbom: $(BIN)/.base $(TOOLS)/.tools ## list what is installed, as CycloneDX, and its licences: build/sbom
	mkdir -p build/sbom
	$(TOOLS)/bin/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml \
	  --output-reproducible --output-format JSON --output-file build/sbom/sbom.cdx.json
	$(TOOLS)/bin/pip-licenses --python=$(BIN)/python --with-urls --order=license \
	  --format=csv --output-file=build/sbom/licences.csv

audit: $(TOOLS)/.tools ## look the locked versions up in the database of known vulnerabilities
	$(TOOLS)/bin/pip-audit --require-hashes --disable-pip \
	  $(patsubst %,-r requirements-%.txt,hashed cuda lab dev aws)

clean: ## delete what running made: build/ and runs/
	rm -rf build runs .mypy_cache .ruff_cache .hypothesis

distclean: clean ## the same, and the environment
	rm -rf $(VENV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "Python 3.11 is needed: make run PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)

# Without torch; the templates of the simulation are read from nilearn's files alone.
$(BIN)/.try: requirements.txt pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV): half a minute, 0.4 GB"
	$(INSTALL) -c requirements.txt -e '.[serve]'
	$(INSTALL) --no-deps -c requirements.txt nilearn
	@touch $@

# torch first, of the build that pip is set up for: asked for checksums, pip would prefer PyPI's to a
# wheel on the disk. PyPI's needs its CUDA libraries on Linux; the CPU's, `2.13.0+cpu`, does not.
CHECKED := $(INSTALL) --require-hashes --no-deps
WHEELS := build/wheels
HASHED = rm -rf $(WHEELS) && mkdir -p $(WHEELS) && \
	  $(BIN)/pip download --quiet --no-deps --dest $(WHEELS) "$$(grep '^torch==' requirements.txt)" && \
	  sed -n '/^torch==/,/[^\\]$$/p' requirements-hashed.txt >$(WHEELS)/torch.txt && \
	  PIP_FIND_LINKS=$(WHEELS) $(CHECKED) --no-index -r $(WHEELS)/torch.txt && rm -r $(WHEELS) && \
	  $(CHECKED) -r requirements-hashed.txt && \
	  if ! $(BIN)/python -c 'from importlib.metadata import version as v; exit("+cpu" not in v("torch"))'; \
	  then $(CHECKED) -r requirements-cuda.txt; fi

$(BIN)/.base: requirements.txt requirements-hashed.txt requirements-cuda.txt pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV): about a minute, 1.4 GB (more with CUDA)"
	@$(if $(findstring hashed,$(LOCK)),$(HASHED),$(INSTALL) -r $(LOCK))
	$(INSTALL) --no-deps -e .
	@touch $@

$(BIN)/.lab: $(BIN)/.base requirements-lab.txt
	$(CHECKED) -r requirements-lab.txt
	@touch $@

$(BIN)/.dev: $(BIN)/.lab requirements-dev.txt
	$(CHECKED) -r requirements-dev.txt
	@touch $@

# What looks at the environment from outside, in one of its own.
$(TOOLS)/.tools: requirements-tools.txt
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/pip install --quiet --disable-pip-version-check --no-compile -r requirements-tools.txt
	@touch $@

# SageMaker's SDK, 1 GB, for what runs in Docker or on AWS.
$(BIN)/.aws: $(BIN)/.dev requirements-aws.txt
	$(CHECKED) -r requirements-aws.txt
	@touch $@
