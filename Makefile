# What a person can do here; `make help` lists it.
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run test test-rust test-postgres-18 test-conformance test-browser fuzz audit torture bench bench-own bench-cost bench-peers lint schema screenshot prerequisites

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24

run: ## the demo: a throw-away Postgres, the parking application, and a page to press buttons on
	@scripts/prerequisites postgres
	cargo run --locked -- demo

test: prerequisites lint test-rust test-postgres-18 test-conformance test-browser fuzz audit ## everything, on a clean machine too

prerequisites: ## install what the tests need, where apt and root allow it
	@scripts/prerequisites postgres node npm python3
	@scripts/prerequisites chromium pgbouncer || true

lint: ## formatting, clippy and rustdoc without a warning
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items

# Most of them wait for something most of the time: one more than there are cores. What a test says when it fails is the last that is
# seen of it, and not the runtime's stack below it.
test-rust: ## unit tests, and tests on a real Postgres and real sockets
	RUST_BACKTRACE=0 RUST_TEST_THREADS=$$(( $$(nproc) + 1 )) cargo test --locked

# The one that is fetched was built without TLS.
test-postgres-18: ## what depends on the server's version once more, on a Postgres 18 fetched into target/
	@scripts/prerequisites python3
	RUST_BACKTRACE=0 RUST_TEST_THREADS=$$(( $$(nproc) + 1 )) EXPECTED_POSTGRES=18 scripts/with-postgres-18 cargo test --locked --test it -- \
	  --skip postgres_tls:: --skip model:: --skip conformance:: --skip failover:: --skip sockets:: --skip mirrors:: --skip survival:: \
	  --skip hostile:: --skip jwt:: --skip fuzz:: --skip credentials:: --skip description:: --skip http:: --skip faults::relay \
	  --skip faults::clients --skip faults::clock --skip faults::link --skip faults::service --skip faults::database

test-conformance: ## the Autobahn cases of RFC 6455 against the code of every socket
	@scripts/prerequisites python3
	test -x target/autobahn/bin/kosoku || { python3 -m venv target/autobahn && target/autobahn/bin/pip install -q kosoku==0.1.0; }
	AUTOBAHN_DRIVER=$(CURDIR)/target/autobahn/bin/kosoku cargo test --locked conformance

test-browser: ## the demo page in a headless Chromium
	cargo build --locked
	cd tests/browser && npm ci --ignore-scripts --no-audit --no-fund && npm test

fuzz: ## random input to everything that reads what strangers send, a minute for each reader
	FUZZ_SECONDS=60 cargo test --locked --test it fuzz:: -- --test-threads=4 --nocapture

audit: ## licenses, sources, yanked versions and known vulnerabilities of all crates
	@scripts/prerequisites python3
	@scripts/audit

torture: ## every fault for longer and with more of everything; ends with the table of what was lost (nothing)
	@scripts/prerequisites postgres
	@scripts/prerequisites libfaketime || true
	@table=$$(mktemp); \
	TORTURE=1 TORTURE_TABLE=$$table cargo test --locked -- faults:: failover:: retention:: --nocapture --test-threads=2; result=$$?; \
	cat tests/support/checker/table.txt; sort $$table; rm -f $$table; exit $$result

bench: bench-own bench-peers ## what it costs and how fast it is, as the tables of docs/performance.md, in 15 minutes

bench-own: ## without the others; BENCH_QUICK=1 only sees that it runs
	@scripts/prerequisites postgres
	cargo bench --locked --bench bench

bench-cost: ## what triggers cost the application's writes, in four minutes
	@scripts/prerequisites postgres
	cargo bench --locked --bench bench -- cost

bench-peers: ## Django Channels, Node ws, socket.io and uWebSockets.js at the same work, in five minutes
	@scripts/prerequisites postgres
	@scripts/prerequisites node npm python3 redis || true
	@benches/peers/install
	ulimit -n $$(ulimit -Hn); cargo bench --locked --bench peers

schema: ## write docs/schema.txt anew after a change of migrations/ or sql/functions/
	UPDATE_SCHEMA=1 cargo test --locked schema_dump

screenshot: ## take docs/demo.png anew
	cargo build --locked
	cd tests/browser && npm ci --ignore-scripts --no-audit --no-fund && SCREENSHOT_DIR=../../docs npm test
