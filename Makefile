# The commands of the project. `make` alone lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help run test verify checks fix bench bench-peers campaign

ENV := .ci/setup build && . .ci/env &&

help: ## Lists the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## Builds and starts one node; ARGS="--data-dir /var/lib/quorate" passes flags
	@$(ENV) cargo build --locked --workspace --bins && exec "$$CARGO_TARGET_DIR/debug/quorate" serve $(ARGS)

test: ## Every test: units, properties, end to end; ends with the totals
	@.ci/test

checks: ## Format, lints, docs, dependencies; read-only
	@.ci/checks

verify: checks test ## checks, then test; never writes in the clone

fix: ## Formats, and applies what clippy can mend by itself
	@$(ENV) cargo fmt --all && cargo clippy --fix --allow-dirty --workspace --all-targets && cargo fmt --all

bench: ## The criterion benches; ARGS="chunk" selects some by name
	@$(ENV) cargo bench --locked --workspace --bench '*' -- $(ARGS)

bench-peers: ## Quorate, Prometheus and VictoriaMetrics side by side; prints the table
	@.ci/bench-peers $(ARGS)

campaign: ## The long forms: 200 kills, crash images of a power loss, the planted bug
	@.ci/test campaign
