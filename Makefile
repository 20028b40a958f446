# Every operation of the platform. Each target is one line of cargo, soma or a script in deploy/. `make help` lists them.
SHELL := /bin/bash
export SOMA_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/somaagenthub
export CARGO_TARGET_DIR ?= $(SOMA_CACHE)/target
SOMA := $(CARGO_TARGET_DIR)/debug/soma
STACK := python3 deploy/dev/stack.py
PIPELINE ?= control-tower
# Linking and code generation of one crate at a time already fill two cores.
CARGO_FLAGS ?=

.PHONY: help python checkout setup build up down status reset deploy demo dash test check fmt lint unit sim live chaos bench-e2e bench-hop bench-handover bench-restore bench-audit bench-clickhouse bench-kill bench-gate bench-backtest fuzz opa soak clean-cache verify-windows verify-backfill bench-analytics udfs verify-flink verify-joins

help: ## List the operations
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | sort | awk -F'\t' '{printf "  make %-12s %s\n", $$1, $$2}'

# A plain Debian has no Python; everything else is installed by the stack manager.
python:
	@command -v python3 >/dev/null || { apt-get update -q && apt-get install -y -q --no-install-recommends python3; }

setup: python ## Install what is missing: packages, Kafka, registry, engines, models (cached outside the checkout)
	@$(STACK) setup --for up

udfs: ## Build the UDFs of processors/udfs into dylibs, where soma and the tests look for them
	@deploy/dev/step.sh "build udfs" processors/udfs/build.sh

# Our own crates of another checkout never pass for this one's.
checkout:
	@deploy/dev/checkout.sh

build: checkout ## Build the one binary, soma
	@deploy/dev/step.sh "build soma" cargo build $(CARGO_FLAGS) --workspace

up: setup build ## Set up, start every server and run the pipeline
	@deploy/dev/step.sh "start servers" $(STACK) up
	@$(SOMA) deploy $(PIPELINE)
	@$(STACK) status

down: ## Stop exactly what `make up` started; data is kept
	@$(STACK) down

status: ## Health, port, pid, memory and log file of every part
	@$(STACK) status

reset: ## Stop, and clear the data
	@$(STACK) reset

deploy: build ## Check, apply topics, schemas and migrations, roll the running pipeline: PIPELINE=<name>; ENGINE=flink|arroyo: its SQL runs there
	@$(SOMA) deploy $(PIPELINE) $(if $(ENGINE),--engine $(ENGINE))

demo: ## Requests of four tenants end to end, checked against topics and stores
	@$(SOMA) demo

dash: ## A board in the terminal: BOARD=overview SINCE=1h
	@$(SOMA) dash $(BOARD) --since $(or $(SINCE),1h)

test: python ## Set up and pass every test: check, fresh simulation seeds, a minute of fuzzing, then the live tests on real servers
	@deploy/dev/step.sh "set up" $(STACK) setup --for test
	@$(MAKE) --no-print-directory check
	@$(MAKE) --no-print-directory sim SEEDS=200 SEED_FROM=$$(date +%s)
	@$(MAKE) --no-print-directory fuzz SECONDS_=60
	@$(MAKE) --no-print-directory live

check: fmt lint unit ## Format, lints, tidy, unit, contract, cases

fmt:
	@deploy/dev/step.sh "format" cargo fmt --all --check

lint: checkout
	@RUSTC_WORKSPACE_WRAPPER=$(CURDIR)/deploy/dev/clippy.sh deploy/dev/step.sh "clippy" \
		cargo test $(CARGO_FLAGS) --workspace --tests --benches --features soma-tests/live --no-run --quiet

unit: checkout udfs
	@SOMA_TERRAFORM=$$($(STACK) find terraform) && export SOMA_TERRAFORM && deploy/dev/step.sh "unit, tidy, contract, cases" \
		cargo test $(CARGO_FLAGS) --workspace --tests --quiet -- --skip simulation::every --skip simulation::the

# State on disk is synced at every checkpoint: in memory where there is room, or the disk's syncs are most of the time.
sim: checkout ## Simulated histories of the loop, from seeds: SEEDS=n SEED_FROM=n, or SEED=n for one
	@deploy/dev/step.sh "build simulation" cargo test $(CARGO_FLAGS) --workspace --test soma --no-run --quiet
	@room=$$(df --output=avail /dev/shm 2>/dev/null | tail -1); [ "$${room:-0}" -lt 2000000 ] || export TMPDIR=/dev/shm; \
		SEEDS=$(or $(SEEDS),2000) SEED_FROM=$(SEED_FROM) SEED=$(SEED) cargo test --workspace --test soma --quiet -- simulation::$(if $(SEED),invariants) --nocapture --test-threads=1

live: build ## Live tests: real servers in a home of their own, started and stopped here
	@deploy/dev/step.sh "build live tests" cargo test $(CARGO_FLAGS) --workspace --features soma-tests/live --no-run
	@deploy/dev/live.sh

opa: checkout ## Our Rego beside the OPA binary: OPA's published tests and our bundle, pair by pair (needs Go)
	@deploy/dev/step.sh "opa" deploy/dev/opa.sh

fuzz: checkout ## Avro, plans, controls and approvals under random bytes, SECONDS_ each: SECONDS_=60, KEEP=1 keeps what it learnt
	@deploy/dev/step.sh "fuzz" deploy/dev/fuzz.sh

chaos: setup build ## Three instances on real servers, one fault after the other, everything checked after: MINUTES=10 RATE=10 FAULTS=kill (nothing but kills)
	@deploy/dev/step.sh "build chaos" cargo test $(CARGO_FLAGS) --workspace --features soma-tests/live --test soma --no-run --quiet
	@deploy/dev/chaos.sh

verify-windows: setup build ## Every window of pipelines/flights beside ClickHouse's own computation, with kills and several instances: ROWS= KILLS= INSTANCES= SEED=
	@deploy/dev/step.sh "set up" $(STACK) setup --for test
	@deploy/dev/verify_windows.sh

verify-backfill: setup build ## Windows of pipelines/flights computed again from topic, Parquet and ClickHouse, with kills on the way: ROWS= KILLS= SEED=
	@deploy/dev/step.sh "set up" $(STACK) setup --for test
	@deploy/dev/verify_windows.sh backfill

verify-joins: setup build ## Every window of the joins of pipelines/hubs beside ClickHouse's own computation, with kills and several instances: ROWS= KILLS= INSTANCES= SEED=
	@deploy/dev/step.sh "set up" $(STACK) setup --for test
	@PIPELINE=hubs deploy/dev/verify_windows.sh

verify-flink: setup build ## The same SQL on a real Flink cluster of two task managers, every window beside ClickHouse's own computation: PIPELINE=hubs (joins) ROWS= SEED=
	@deploy/dev/step.sh "set up" $(STACK) setup --for test
	@deploy/dev/verify_flink.sh

bench-analytics: setup checkout ## Streaming views beside a bare consumer and Flink SQL, one core each: RECORDS= ROUNDS= PARTITIONS= FLINK=none
	@deploy/dev/step.sh "set up" $(STACK) setup --for test
	@deploy/dev/bench-analytics.sh

bench-e2e: setup checkout ## One-step runs at 100/s for 60 s, request to outcome: RATE= SECONDS_= DISTINCT=1
	@deploy/dev/bench.sh

bench-hop: python checkout ## One transactional stage beside a bare client loop and Kafka Streams: RECORDS= ROUNDS=
	@deploy/dev/bench-hop.sh

bench-handover: setup build ## Three instances under load, scaled out, rolled and scaled in: how long partitions stand still that do not move: RATE= REST=
	@deploy/dev/step.sh "build live tests" cargo test $(CARGO_FLAGS) --workspace --features soma-tests/live --test soma --no-run --quiet
	@deploy/dev/chaos.sh handover

soak: setup checkout ## Steady load on state on disk that forgets: whether memory and open files stay flat: MINUTES= RATE= FORGET=minutes SLOPE_MAX=MB an hour
	@deploy/dev/soak.sh

soak-analytics: setup build ## A streaming view with KEYS=1000000 open keys at half of what it sustains: whether its memory stays flat: MINUTES= RATE= SLOPE_MAX=MB an hour
	@deploy/dev/step.sh "set up" $(STACK) setup --for test
	@deploy/dev/soak-analytics.sh

bench-kill: build ## Two hundred runs in flight, a kill at each scope: how long until the last thing was sent
	@deploy/dev/step.sh "build live tests" cargo test $(CARGO_FLAGS) --workspace --features soma-tests/live --test soma --no-run --quiet
	@SOMA_BENCH=1 SOMA_LIVE_FILTER=kill_switch deploy/dev/live.sh

bench-audit: setup checkout ## A chain of ENTRIES verified on one core; CHANGES random changes to copies of topic and table, all to be found
	@deploy/dev/bench-audit.sh

bench-clickhouse: setup checkout ## A topic kept in ClickHouse, row by row beside column by column: RECORDS= ROUNDS= BATCHES=
	@deploy/dev/bench-clickhouse.sh

bench-gate: checkout ## The policy gate on one core, beside the bare Rego engine and an OPA server (needs Go): DECISIONS= ROUNDS=
	@deploy/dev/bench-gate.sh

bench-backtest: setup checkout ## A seeded week of VERDICTS judged again by another bundle, the report beside a direct evaluation (release build: half an hour at first)
	@deploy/dev/bench-backtest.sh

bench-restore: setup checkout ## State read back from its changelog, and from a checkpoint on disk: KEYS=
	@deploy/dev/bench-restore.sh
