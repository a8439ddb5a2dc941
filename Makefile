# `make help` lists the targets that carry a `##` comment. Every target sets up what it needs by itself.

BIN := .venv/bin
STAMP := .venv/.stamp
GPU_STAMP := .venv/.stamp-gpu
DOCS_STAMP := .venv/.stamp-docs
AUDIT_STAMP := .venv/.stamp-audit
EVALS_STAMP := .venv/.stamp-evals
PROTOS := $(shell find protos -name '*.proto')
CPP := $(shell find kernels benchmarks clients/cpp tests -name '*.cpp' -o -name '*.h')
PYTEST := $(BIN)/python -m pytest
SURFACE := $(addprefix tests/services/test_,api.py http.py bad_input.py greedy.py determinism.py)

.DEFAULT_GOAL := help
.PHONY: help demo setup browser test test-long test-gpu test-compose test-chaos test-clients lint audit format bench bench-gpu simulate docs reference pictures released-protos wheel clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' Makefile

demo: $(STAMP) ## start every service on free ports, generate from a prompt, stop
	$(BIN)/quire demo

setup: $(STAMP) ## make .venv with Quire and the developer tools

$(STAMP): pyproject.toml hatch_build.py tools/venv.sh tools/kubernetes_tools.py $(PROTOS)
	@tools/venv.sh $@ $^

$(GPU_STAMP): $(STAMP)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pip install --quiet --no-build-isolation --editable '.[all,gpu]'
	@touch $@

browser:
	@tools/chromium.sh

test: $(STAMP) browser ## import contracts and every test that needs neither GPU, containers nor minutes
	$(BIN)/lint-imports --no-logo
	$(PYTEST) -n logical --dist loadfile -m "not gpu and not long and not compose and not chaos and not clients"

test-long: $(STAMP) ## tests that take minutes
	$(PYTEST) -m long

test-gpu: $(GPU_STAMP) ## tests that need an NVIDIA GPU, and the request surface's with executors on one
	$(PYTEST) -m gpu
	QUIRE_TEST_DEVICE=cuda $(PYTEST) $(SURFACE)

test-compose: $(STAMP) ## tests that need docker compose
	$(PYTEST) -m compose

test-chaos: $(STAMP) ## 1,000 faults in services under load, QUIRE_CHAOS_FAULTS and QUIRE_CHAOS_SEED say others
	$(PYTEST) -m chaos -s

$(EVALS_STAMP): $(STAMP) tools/evals.sh tests/clients/evals.txt
	tools/evals.sh
	@touch $@

test-clients: $(EVALS_STAMP) ## clients in Node.js, C++ and Go, and clients and tools of other projects, against Quire; gets them all
	tools/clients.sh
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target .venv/chat-templates 'axolotl>=0.19' 'trl>=1.16'
	$(BIN)/python -m venv .venv/clients
	.venv/clients/bin/python -m pip install --quiet 'cloudcoil-models-prometheus-operator>=0.80' 'langchain-openai>=1' 'litellm>=1.100' 'openai-agents>=0.20'
	$(PYTEST) -m clients

lint: $(STAMP) ## ruff with Bandit's rules, formatting of Python and C++, mypy, import contracts, protos and what breaks their clients
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CPP)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/buf lint
	$(BIN)/buf breaking --against protos/released.txtpb

# An environment of its own: what it brings is not what Quire runs with.
$(AUDIT_STAMP): $(STAMP)
	$(BIN)/python -m venv .venv/audit
	.venv/audit/bin/python -m pip install --quiet 'pip-audit>=2.10'
	@touch $@

audit: $(AUDIT_STAMP) ## known vulnerabilities of the installed packages, and of the lowest versions that Quire allows; needs the network
	.venv/audit/bin/python tools/audit.py "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" $(AUDIT)

format: $(STAMP) ## format Python and C++, and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

bench: $(STAMP) ## measure the CPU executor and the services, write bench-report/; BENCH="--peer URL" compares
	$(BIN)/python tools/bench.py bench-report $(BENCH)

bench-gpu: $(GPU_STAMP) ## measure the executor, mixtures of experts and products on an NVIDIA GPU
	$(BIN)/python benchmarks/gpu.py
	$(BIN)/python benchmarks/gpu_experts.py
	$(BIN)/python benchmarks/gpu_linear.py

simulate: $(STAMP) ## judge scheduling policies in virtual time
	$(BIN)/python benchmarks/simulate.py

$(DOCS_STAMP): $(STAMP)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pip install --quiet --group docs
	@touch $@

docs: reference $(DOCS_STAMP) ## build the site in build/site; a dead link or a page outside the navigation fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

reference: $(STAMP) ## write the pages that come from settings, protos and metrics; tests compare them
	$(BIN)/python tools/settings_reference.py docs/reference/settings.md
	$(BIN)/python tools/grpc_reference.py docs/reference
	$(BIN)/python tools/helm_reference.py docs/reference/helm.md
	$(BIN)/python tools/metrics_reference.py docs/reference/metrics.md

pictures: $(STAMP) browser ## take the pictures of the live page in docs/images, of real services under load
	PYTHONPATH=tests $(BIN)/python tools/page_pictures.py docs/images

released-protos: $(STAMP) ## with a release: record its public protos; `make lint` compares later ones with them
	$(BIN)/buf build --path protos/quire/v1 --exclude-source-info -o protos/released.txtpb

wheel: $(STAMP) ## a wheel in dist/ that carries the C++ kernels for every level of instructions
	@rm -rf build/wheel
	PATH="$(CURDIR)/$(BIN):$$PATH" QUIRE_WHEEL_KERNELS=1 $(BIN)/python -m hatchling build --target wheel --directory build/wheel
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/auditwheel repair --plat manylinux_2_28_x86_64 --wheel-dir dist build/wheel/*.whl

clean: ## remove .venv, stubs, builds and caches
	rm -rf .venv .editable build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache clients/go/v1 clients/node/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
