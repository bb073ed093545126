# Everything a person types here; CI types the same words. `make` alone lists them.

SHELL := /bin/bash
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)

# What setup installed comes first, so that `nats-server` means the same one everywhere.
export PATH := $(CURDIR)/.beacon/bin:$(PATH)

# Passed on to `beacon demo` and `beacon bench`, for instance: make demo ARGS="--help"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup build demo test lint doc bench sim check clean-data

help: ## List these targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

setup: ## Fetch nats-server, a small local model and Modal's package into .beacon/ (quick when already there)
	@scripts/setup.sh

build: ## Build the beacon binary
	cargo build -p cli --bin beacon

demo: setup build ## Run the whole pipeline on this machine (ARGS="…" is passed on)
	"$(TARGET_DIR)/debug/beacon" demo $(ARGS)

test: setup build ## Run all tests against a real nats-server
	@folder="$${BEACON_API_DESCRIPTIONS:-../shared/providers/openapi}"; \
	if [ -d "$$folder" ]; then echo "API descriptions: bodies are held against those in $$folder"; \
	else echo "API descriptions: none, so those tests are skipped (BEACON_API_DESCRIPTIONS names their folder)"; fi
	@if cargo nextest --version >/dev/null 2>&1; then \
		set -x; cargo nextest run --workspace --no-fail-fast; \
	else \
		echo "cargo-nextest is not installed, using cargo test"; \
		set -x; cargo test --workspace; \
	fi

lint: ## Check the format, then clippy with warnings as errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

doc: ## Build the documentation with warnings as errors, and run its examples
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps
	cargo test --workspace --doc

bench: setup ## Measure Beacon against raw JetStream, in release mode (ARGS="…" is passed on, as in ARGS="--runs 2000")
	cargo build --release -p cli --bin beacon
	"$(TARGET_DIR)/release/beacon" bench $(ARGS)

# How many worlds `make sim` plays, and from which seed on.
SEEDS ?= 100000
FROM ?= 0

sim: ## Play the lease protocol in many simulated worlds, optimised (SEEDS=1000000 FROM=0)
	SEEDS=$(SEEDS) FROM=$(FROM) cargo test --profile bench -p lease-lab --test seeds -- \
		--ignored --exact no_rule_is_broken_in_as_many_worlds_as_are_asked_for --nocapture

check: lint test doc ## Everything that must pass before a change is shared

clean-data: ## Delete what runs have left in .beacon/ (streams, ledgers, logs); keeps what setup fetched
	@if [ -d .beacon ]; then \
		find .beacon -mindepth 1 -maxdepth 1 ! -name bin ! -name llm ! -name 'modal*' -exec rm -rf -- {} +; \
	fi
