# Every command of the project. Each makes its own virtual environment; nothing has to be installed first but Python, make and pip.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PURE := addresses awschecks budget caller carriers claims clusterfacts compat credentials crowd doctorchecks entitlements errors eventobjects findings handoverstate iamdocuments iamformats imds interfaces kernelview keyring kubeanswers loglimit metricnames migration neighbours netlink netlinksieve netlinkwire nodechecks objects patterns peers places pods policy redirectiptables redirectnft redirectplan redirectport redirectrender redirectroutes roles sessions status statuspage statusview store tcptable tenancy ties tokens trust typedjson watchends watchlines wording
# What works on a node alone: covered by the tests in network namespaces.
NODE := redirect redirectcommands redirectnode
# What builds images (docker, podman or buildah), and what is told of them in their labels.
BUILDER ?= docker
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"$$/\1/p' metaproxy/__init__.py)
REVISION = $(shell git rev-parse HEAD)
CREATED = $(shell git log -1 --format=%cI)
comma := ,
empty :=
space := $(empty) $(empty)

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-all test-network test-browser test-chart test-image conformance conformance-latest image image-agent image-redirect lint bench check docs lock clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

venv: $(STAMP)

$(STAMP): requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --prefer-binary -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP) ## see a pod get a real AssumeRole answer (ARGS=--once ends after the tour)
	$(BIN)/metaproxy demo $(ARGS)

# Each suite with a name of its own for what it measures: they run at the same time, and a combination takes all it finds.
test: export COVERAGE_FILE := .coverage.fast
test: $(STAMP) ## the fast tests: run anywhere, with the coverage gates
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest tests/unit tests/component tests/contract tests/system $(ARGS)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --fail-under=95 --omit=$(subst $(space),$(comma),$(NODE:%=metaproxy/%.py))
	$(BIN)/python -m coverage report --fail-under=100 --include=$(subst $(space),$(comma),$(PURE:%=metaproxy/%.py))

test-all: $(STAMP) ## every suite, two at a time; says loudly what could not run (root, Go, other toolchains, minutes)
	$(BIN)/python -m scripts.test_all

test-network: export COVERAGE_FILE := .coverage.network
test-network: $(STAMP) ## the tests in network namespaces (root, nftables, iptables, conntrack)
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest tests/network/test_redirect.py $(ARGS)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --fail-under=95 --include=$(subst $(space),$(comma),$(NODE:%=metaproxy/%.py))
	$(BIN)/python -m pytest tests/network --ignore=tests/network/test_redirect.py $(ARGS)

test-browser: $(STAMP) ## the status page in a real browser (Chromium); pictures of it in build/browser
	$(BIN)/python -m pytest tests/browser $(ARGS)

test-chart: $(STAMP) ## the Helm chart: rendered, on a real API server, its containers run (Go, root)
	$(BIN)/python -m pytest tests/chart $(ARGS)

conformance: $(STAMP) ## every SDK and tool in every situation against a real agent (ARGS=--write commits to a new outcome)
	$(BIN)/python -m pytest tests/conformance
	$(BIN)/python -m tests.conformance $(ARGS)

conformance-latest: $(STAMP) ## the same with the newest versions of the clients
	$(BIN)/python -m tests.conformance --latest $(ARGS)

image: image-agent image-redirect ## build both container images (BUILDER=docker, podman or buildah; ARGS for it)

image-agent: IMAGE := metaproxy
image-redirect: IMAGE := metaproxy-redirect
# docker before 23 has another builder too, which knows no platform but its own.
image-agent image-redirect: export DOCKER_BUILDKIT := 1
image-agent image-redirect: image-%:
	$(BUILDER) build --target $* --tag $(IMAGE):$(VERSION) --build-arg VERSION=$(VERSION) \
		--build-arg REVISION=$(REVISION) --build-arg CREATED=$(CREATED) $(ARGS) .

test-image: $(STAMP) ## the tests of the container images (root, buildah, podman, mmdebstrap, crun)
	$(BIN)/python -m pytest tests/image $(ARGS)

lint: $(STAMP) ## style, types, layers, generated documents
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy metaproxy tests scripts benchmarks
	$(BIN)/lint-imports
	$(BIN)/python -m scripts.generate_docs --check

bench: $(STAMP) ## measure against nginx in one run and write docs/performance.md
	$(BIN)/python -m benchmarks $(ARGS)

docs: $(STAMP) ## write the generated documents anew
	$(BIN)/python -m scripts.generate_docs

check: lint ## everything that must be green
	$(MAKE) demo ARGS=--once
	$(MAKE) test-all

lock: ## resolve the dependencies anew, with hashes (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --upgrade pyproject.toml -o requirements/run.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --upgrade requirements/build.in \
		-c requirements/run.txt -o requirements/build.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header pyproject.toml requirements/build.in \
		--extra demo --group test --group lint -c requirements/run.txt -c requirements/build.txt -o requirements/dev.txt

clean: ## remove what the commands made
	rm -rf $(VENV) .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build
