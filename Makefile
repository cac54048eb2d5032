# What people and CI run. Each target ends with the one command that mends it, if it fails.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help up test fmt lint unit chaos mutants prepare openapi doc deny bench rivals clean-data

help: ## Shows this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: web/node_modules ## Runs everything on this machine: database, API, worker, scheduler, demo tenant (ARGS=…)
	@cargo build --quiet
	@$${CARGO_TARGET_DIR:-target}/debug/engageninja up $(ARGS)

test: web/node_modules fmt lint unit ## Formatting, lints, every test and the drift checks among them

fmt:
	cargo fmt --check
	cargo fmt --check --manifest-path tools/prepare/Cargo.toml
	cargo fmt --check --manifest-path benches/rivals/Cargo.toml

lint:
	cargo clippy --quiet --all-targets -- -D warnings
	tests/mutants/run.sh --check

# Tests wait for databases and clocks more than they compute: never fewer than four at once.
TEST_THREADS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN); [ "$$n" -gt 4 ] && echo "$$n" || echo 4)

# The drift checks are tests: .sqlx against the schema, openapi/openapi.json against the program.
# Chaos needs the machine for itself: it comes last, one run at a time.
unit:
	cargo test --no-fail-fast -- --test-threads=$(TEST_THREADS) --skip delivery::chaos::
	cargo test --test it -- --test-threads=1 delivery::chaos::

chaos: web/node_modules ## Kills, stops and restarts everything for CHAOS_SECS seconds [1800]; CHAOS_SEED repeats a run
	cargo test --test it -- --ignored --nocapture delivery::chaos::

mutants: web/node_modules ## Switches off one mechanism after another and expects its tests to fail (ARGS=names)
	tests/mutants/run.sh $(ARGS)

prepare: web/node_modules ## Rewrites .sqlx after a change of a query or of the schema
	cargo run --quiet --manifest-path tools/prepare/Cargo.toml --target-dir target

openapi: ## Rewrites openapi/openapi.json after a change of the API
	cargo run --quiet -- openapi > target/openapi.json
	mv target/openapi.json openapi/openapi.json

doc: ## The documentation of the code, private items too
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items

deny: ## Licences, advisories and banned packages (needs cargo-deny)
	cargo deny check

bench: web/node_modules ## Measures import, expansion, sending and the queue on a durable database
	cargo run --quiet --release -- bench $(ARGS)

rivals: web/node_modules ## Measures the queue beside other engines on a durable database; builds them first
	cargo run --quiet --release --manifest-path benches/rivals/Cargo.toml -- $(ARGS)

clean-data: ## Removes what `make up` keeps: the database, keys and credentials of the demo
	@if [ -e .data/lock ] && command -v flock >/dev/null && ! flock -n .data/lock true; then \
	  echo ".data is in use; stop the program that make up started" >&2; exit 1; fi
	@for file in .data/pg/data-*/postmaster.pid; do \
	  [ -e "$$file" ] || continue; pid=$$(head -n 1 "$$file"); \
	  kill -INT "$$pid" 2>/dev/null && while kill -0 "$$pid" 2>/dev/null; do sleep 0.1; done; true; done
	@[ ! -e .data/pg ] || rm -rf "$$(readlink -f .data/pg)"
	@rm -rf .data

# Brings the PostgreSQL programs. Where npm or the network is missing, the system's PostgreSQL has to do.
web/node_modules: web/package-lock.json
	@if command -v npm >/dev/null; then \
	  npm ci --prefix web --no-audit --no-fund --loglevel=error && touch web/node_modules || \
	  echo "npm ci failed; looking for a PostgreSQL of the system" >&2; \
	else echo "no npm; looking for a PostgreSQL of the system" >&2; fi
