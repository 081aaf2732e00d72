# One command to run it all (`make up`), one to test it all (`make test`).
# Build products go to CARGO_TARGET_DIR; downloaded test parts to MEDLAKE_CACHE. Neither is in the checkout's history.

MEDLAKE_CACHE ?= $(HOME)/.cache/medlake
DATA          ?= data
SEEDS         ?= 10000
export MEDLAKE_CACHE
export CARGO_TARGET_DIR ?= $(CURDIR)/target

SCREEN := dashboards/screen

.PHONY: up release test lint unit bench soak crash fuzz screen parts clean-data help

help:
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile

up: screen ## build and run everything on ./data, with simulated traffic
	cargo run --locked --bin medlake -- up --data $(DATA)

release: screen ## the fully optimised binary (tens of minutes on two cores)
	cargo build --locked --release --bin medlake

screen: $(SCREEN)/dist/index.html ## build the screen that is embedded in the binary

$(SCREEN)/node_modules/.package-lock.json: $(SCREEN)/package-lock.json
	cd $(SCREEN) && npm ci --no-audit --no-fund

$(SCREEN)/dist/index.html: $(SCREEN)/node_modules/.package-lock.json $(wildcard $(SCREEN)/*.html) $(shell find $(SCREEN)/src $(SCREEN)/public -type f 2>/dev/null)
	cd $(SCREEN) && npm run build

parts: ## install what the tests need: Chromium, psql, Python readers
	bash scripts/install-test-parts.sh

lint: screen ## formatting and lints, warnings denied
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets --target-dir $(CARGO_TARGET_DIR)/lint -- -D warnings
	cd $(SCREEN) && npm run check

unit: screen
	cd $(SCREEN) && npm test
	cargo test --locked --workspace

test: parts lint unit ## everything: lints, unit, golden, end to end with real parts

bench: screen ## throughput, freshness, read cost, memory; each beside a limit measured in the same run
	cargo bench --locked --profile dev -p medlake-lake --bench lake
	cargo bench --locked --profile dev -p medlake-ingest --bench binlog
	cargo bench --locked --profile dev -p medlake-operational --bench orders
	cargo bench --locked --profile dev --bench line
	bash scripts/install-bench-parts.sh
	cargo bench --locked --profile dev --bench ingest

soak: ## random histories of the lake against an oracle, for as long as SEEDS says (10,000 take hours)
	MEDLAKE_LAKE_SEEDS=$(SEEDS) cargo test --locked --workspace --lib -- random_histories

crash: SEEDS = 20
crash: screen ## kill -9, cut, stall and fill up, then compare every value, for SEEDS random seeds
	MEDLAKE_CRASH_SEED=$${MEDLAKE_CRASH_SEED:-$$(od -An -N3 -tu4 /dev/urandom | tr -d ' ')} \
	MEDLAKE_CRASH_SEEDS=$(SEEDS) cargo test --locked --workspace --test main -- --nocapture after_any_crash

fuzz: SECONDS = 60
fuzz: ## any bytes for every reader of what others write, SECONDS each (compiles for minutes at first)
	fuzz/run.sh $(SECONDS)

clean-data: ## forget the local data folder
	rm -rf $(DATA)
