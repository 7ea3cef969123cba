# The commands of the project. `make` alone lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help run test verify checks fix bench bench-peers bench-cluster bench-kafka campaign simulation jepsen jepsen-teeth

ENV := .ci/setup build && . .ci/env &&

help: ## Lists the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## Builds and starts one node; ARGS="--data-dir /var/lib/quorate" passes flags
	@$(ENV) cargo build --locked --workspace --bins && exec "$$CARGO_TARGET_DIR/debug/quorate" serve $(ARGS)

test: ## Every test: units, properties, end to end; ends with the totals
	@.ci/test

simulation: ## Seeds of simulated clusters; SEEDS=2000 runs more than 100, SEED=7 replays one
	@.ci/setup build && SEED="$(SEED)" SEEDS="$(SEEDS)" .ci/simulation

checks: ## Format, lints, docs, dependencies; read-only
	@.ci/checks

verify: checks test ## checks, then test; never writes in the clone

fix: ## Formats, and applies what clippy can mend by itself
	@$(ENV) cargo fmt --all && cargo clippy --fix --allow-dirty --workspace --all-targets && cargo fmt --all

bench: ## The criterion benches; ARGS="chunk" selects some by name
	@$(ENV) cargo bench --locked --workspace --bench '*' -- $(ARGS)

bench-peers: ## Quorate, Prometheus and VictoriaMetrics side by side; prints the table
	@.ci/bench-peers $(ARGS)

bench-cluster: ## What three nodes cost and do, against the bars; CHECK=1 fails below one, ARGS="--only cpu,idle" selects
	@CHECK="$(CHECK)" .ci/bench-cluster $(ARGS)

bench-kafka: ## Kafka as the log, beside the embedded one and VictoriaMetrics, against the bars; CHECK and ARGS as above
	@CHECK="$(CHECK)" .ci/bench-kafka $(ARGS)

jepsen: ## Clusters under faults over both logs; twenty minutes, all cells must pass; ARGS="--log kafka" takes one log
	@.ci/jepsen clean $(ARGS)

jepsen-teeth: ## Each planted bug, which the cells must see within ten runs; ARGS="--bug local-read" takes one
	@.ci/jepsen teeth $(ARGS)

campaign: ## The long forms: kills, crash images, the planted bugs, and jepsen for QUORATE_CAMPAIGN_MINUTES (60)
	@.ci/test campaign
	@.ci/jepsen clean
	@.ci/jepsen teeth
	@.ci/jepsen campaign --minutes "$${QUORATE_CAMPAIGN_MINUTES:-60}"
