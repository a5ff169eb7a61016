# Every verb of the project. `make help` explains them; CI calls the same ones.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
# uv itself, hashed; everything else comes from the locks that it installs.
BOOTSTRAP := requirements/bootstrap.txt
LOCK := requirements/dev.txt
STAMP := $(VENV)/.installed
# fastai is measured beside candor, in an environment of its own.
FASTAI := benchmarks/.venv-fastai
FASTAI_LOCK := benchmarks/requirements-fastai.txt
# So is each server that answers beside candor's.
PEERS := $(foreach peer,bentoml fastapi litserve mosec ray,benchmarks/.venv-$(peer))
# What looks for weak spots in manifests.
CHECKOV := .venv-checkov
export BENTOML_DO_NOT_TRACK := true
# An environment beside ours, of the lock that comes first among what it is made from.
define environment
@test -x $(@D)/bin/python || { echo "creating $(@D)"; $(BIN)/python -m venv --without-pip $(@D); }
@echo "installing $<"
@VIRTUAL_ENV=$(@D) $(UV) pip sync --quiet --require-hashes $<
@touch $@
endef

.PHONY: help install run fit lint fmt types imports unit check test test-fault lock bench-training peers bench-serving gpu-check bento image \
	image-check sbom k8s-check clean

help:  ## explain the verbs
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(STAMP)  ## everything into .venv, from the hashed locks

$(STAMP): $(LOCK) $(BOOTSTRAP)
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"candor needs Python 3.11 or newer, and {sys.executable} is {v.major}.{v.minor}; try make PYTHON=python3.12")'
	@test -x $(BIN)/python || { echo "creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@test -x $(UV) || $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(BOOTSTRAP)
	@echo "installing $(LOCK) (6 GB the first time, most of it CUDA libraries)"
	@VIRTUAL_ENV=$(VENV) $(UV) pip sync --quiet --require-hashes $(LOCK)
	@touch $@

run: install  ## set up, train the sample once, and serve on 127.0.0.1:3000
	@$(BIN)/python -m training quickstart
	@CANDOR_DEFAULT_MODEL=$${CANDOR_DEFAULT_MODEL:-imagenet} exec $(BIN)/python -m service

fit: install  ## fine-tune on your own images: make fit DATA=~/photos NAME=birds [ARGS="--epochs 8"]
	@test -n "$(DATA)" -a -n "$(NAME)" || { echo 'usage: make fit DATA=~/photos NAME=birds'; exit 2; }
	@$(BIN)/python -m training fit "$(DATA)" --name "$(NAME)" $(ARGS)

fmt: install  ## format the code
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix-only --quiet .

lint: install  ## ruff: style and format
	@$(BIN)/ruff check . && $(BIN)/ruff format --check --quiet .

types: install  ## mypy --strict on models and service, mypy on training
	@$(BIN)/mypy models service training

imports: install  ## import-linter: who may import whom
	@$(BIN)/lint-imports

# Two processes, a file in one of them: one waits where the other computes. What measures time runs alone. (xdist's `loadgroup`
# would keep several files together; with this pytest it does not.)
BOTH := -n 2 --dist loadfile

unit: install  ## unit and contract tests
	@OMP_NUM_THREADS=1 $(BIN)/pytest $(BOTH) tests/unit tests/contract

check: lint types imports unit  ## what every change must pass, in 6 minutes on two cores

test: check  ## check, then end-to-end and fault tests
	@$(BIN)/pytest $(BOTH) tests/e2e tests/oracle
	@$(BIN)/pytest tests/fault tests/gpu

test-fault: install  ## faults alone: what dies, fills up, hangs or lies
	@$(BIN)/pytest tests -m fault

lock: install  ## resolve the dependency groups into hashed locks again
	@cd requirements && ./compile ../$(UV)

bench-training: install $(FASTAI)/.installed  ## candor beside fastai: accuracy, calibration, time (an hour on two cores)
	@$(BIN)/python -m benchmarks.training $(ARGS)
	@$(BIN)/python -m benchmarks.table

$(FASTAI)/.installed: $(FASTAI_LOCK) | $(STAMP)
	$(environment)

peers: install $(PEERS:=/.installed)  ## the servers that candor's is measured against, each in an environment of its own

benchmarks/.venv-%/.installed: benchmarks/peers/requirements-%.txt | $(STAMP)
	$(environment)

bench-serving: peers  ## candor beside other servers and beside what the machine could do (20 minutes, alone on the machine)
	@$(BIN)/python -m benchmarks.serving $(ARGS)
	@$(BIN)/python -m benchmarks.table

gpu-check: install  ## does this GPU train and answer as the CPU does, and how fast (10 minutes; ARGS=--rehearse without a GPU)
	@$(BIN)/python -m benchmarks.gpu_check $(ARGS)

k8s-check: install $(CHECKOV)/.installed  ## render and validate the manifests, without a cluster or a network (a minute)
	@command -v promtool >/dev/null || { echo 'promtool is missing: apt-get install prometheus'; exit 2; }
	@$(BIN)/pytest tests/cluster
	@rendered=$$(mktemp -d) && trap 'rm -r "$$rendered"' EXIT && for folder in k8s/overlays/* k8s/train/*; do \
	  $(BIN)/kubectl kustomize $$folder > "$$rendered/$$(basename $$folder).yaml" || exit 1; done && \
	  $(CHECKOV)/bin/checkov --config-file k8s/checkov.yaml --directory "$$rendered" && echo "checkov finds nothing"

$(CHECKOV)/.installed: requirements/checkov.txt | $(STAMP)
	$(environment)

# What BentoML keeps lies under the home like everything else. Where there is no imagenet yet, it is published as it comes.
MODEL ?= imagenet
bento: export BENTOML_HOME := $(abspath $(or $(CANDOR_HOME),var))/bentoml
bento: install  ## a Bento with a model in it, without the network: make bento [MODEL=birds]
	@test "$(MODEL)" != imagenet || $(BIN)/python -m models list imagenet >/dev/null 2>&1 || \
	  $(BIN)/python -m training publish-pretrained --name imagenet
	@$(BIN)/python -m models export-bento $(MODEL)
	@$(BIN)/bentoml build

# Images: what each is built from, and what it is called (docs/images.md).
IMAGE ?= cpu
IMAGES := cpu openvino gpu trainer
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
LOCKS_cpu := requirements/service-cpu.txt
LOCKS_openvino := $(LOCKS_cpu) requirements/cpu.txt
LOCKS_gpu := requirements/service.txt
LOCKS_trainer := $(LOCKS_gpu) requirements/training.txt
TAG_cpu := candor-serve:$(VERSION)-cpu
TAG_openvino := candor-serve:$(VERSION)-openvino
TAG_gpu := candor-serve:$(VERSION)
TAG_trainer := candor-trainer:$(VERSION)
BUILDER ?= docker
KNOWN_IMAGE = test -n "$(LOCKS_$(IMAGE))" || { echo 'IMAGE=$(IMAGE) is none of: $(IMAGES)'; exit 2; }

image:  ## build an image: make image IMAGE=cpu|openvino|gpu|trainer BASE=python:3.11-slim@sha256:… [BUILDER=podman]
	@$(KNOWN_IMAGE)
	@test -n "$(BASE)" || { echo 'BASE is missing: an image with Python 3.11 or newer, by its digest (docs/images.md)'; exit 2; }
	$(BUILDER) build $(BUILD_OPTIONS) -f containers/$(if $(filter trainer,$(IMAGE)),trainer,serve).Containerfile \
	  --build-arg BASE=$(BASE) --build-arg "LOCKS=$(LOCKS_$(IMAGE))" -t $(TAG_$(IMAGE)) .

image-check: install  ## build an image for real, look at its files and run it (root, 4 minutes): make image-check [IMAGE=gpu]
	@$(KNOWN_IMAGE)
	@$(BIN)/python -m containers.check $(IMAGE) $(TAG_$(IMAGE)) "$(LOCKS_$(IMAGE))"

SBOM := var/sbom
sbom: install  ## what is in each image, as CycloneDX, into var/sbom
	@mkdir -p $(SBOM)
	@$(foreach image,$(IMAGES),awk '/^[a-z0-9]/ { once = !seen[$$1]++ } once' $(LOCKS_$(image)) | \
	  PYTHONWARNINGS=ignore $(BIN)/cyclonedx-py requirements - --pyproject pyproject.toml --output-reproducible --no-validate \
	  -o $(SBOM)/$(subst :,-,$(TAG_$(image))).cdx.json &&) echo $(SBOM)

clean:  ## remove the environment and all state (trained models too)
	rm -rf $(VENV) $(CHECKOV) $(FASTAI) $(PEERS) var .pytest_cache .mypy_cache .ruff_cache
