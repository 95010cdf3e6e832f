# One word for each thing that people do here. What the words need is installed on the way; what they
# build is kept in ~/.cache/mintmark (XDG_CACHE_HOME is honoured), so the next clone starts warm.

# What `make run` asks the binary to do.
ARGS ?= dev --once
# The part of the benches that `make bench` runs, such as `mint`; all of them when empty.
ONLY ?=
# How long `make soak` is: signatures among random faults, new starts of the token's library, the time for
# which the token is away, that of each overload, kills of a process that mints, and of a whole signer under load.
SOAK_SIGNATURES ?= 1000000
SOAK_RECOVERIES ?= 10000
SOAK_AWAY_MILLISECONDS ?= 5000
SOAK_OVERLOAD_SECONDS ?= 60
SOAK_KILLS ?= 1000
SOAK_SIGNER_KILLS ?= 1000

.DEFAULT_GOAL := help
.PHONY: help run test lint bench soak

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## build the release binary and run it: mint one SVID, or what ARGS="..." says
	@.ci/install rust
	@. .ci/env && cargo run --release --locked -p mintmark --bin mintmark -- $(ARGS)

test: ## every check and every test, none skipped
	@.ci/install
	@.ci/test

lint: ## format, clippy, documentation and dependencies
	@.ci/install rust lints deny
	@.ci/lint

bench: ## every speed claim beside its limit, or the part that ONLY=... names
	@.ci/install rust token openbao
	@. .ci/env && cargo run --release --locked -p mintmark-benches --bin mintmark-bench -- \
		$(if $(ONLY),--only $(ONLY))

soak: export SOAK_SIGNATURES := $(SOAK_SIGNATURES)
soak: export SOAK_RECOVERIES := $(SOAK_RECOVERIES)
soak: export SOAK_AWAY_MILLISECONDS := $(SOAK_AWAY_MILLISECONDS)
soak: export SOAK_OVERLOAD_SECONDS := $(SOAK_OVERLOAD_SECONDS)
soak: export SOAK_KILLS := $(SOAK_KILLS)
soak: export SOAK_SIGNER_KILLS := $(SOAK_SIGNER_KILLS)
soak: ## the long form of the fault tests: minutes of random faults, and the figures
	@.ci/install rust token
	@. .ci/env && cargo test --release --locked -p keymanager --test faults -- \
		--nocapture --test-threads 1 soak:: crowds:: among_random_faults a_hundred_thousand
	@. .ci/env && cargo test --release --locked -p ca-core --test crash -- \
		--nocapture --test-threads 1 whatever_was_released
	@. .ci/env && cargo test --release --locked -p mintmark --test end_to_end -- \
		--nocapture --test-threads 1 under_load::
