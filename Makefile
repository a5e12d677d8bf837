# The targets a contributor needs. `make test` is what CI runs, with the linters and the generated-code check.
SHELL    := /usr/bin/env bash
BIN      := $(CURDIR)/.cache/bin
MODULES  := . examples/shop bench kit/events/watermillevents/drivertest
CODEGEN  := $(BIN)/buf $(BIN)/protoc-gen-go $(BIN)/protoc-gen-go-grpc $(BIN)/protoc-gen-grpc-gateway $(BIN)/protoc-gen-openapiv3
export PATH := $(BIN):$(PATH)

.PHONY: all
all: lint test

# Tools are pinned in tools/go.mod and built into .cache/bin.
$(BIN)/buf: PKG=github.com/bufbuild/buf/cmd/buf
$(BIN)/protoc-gen-go: PKG=google.golang.org/protobuf/cmd/protoc-gen-go
$(BIN)/protoc-gen-go-grpc: PKG=google.golang.org/grpc/cmd/protoc-gen-go-grpc
$(BIN)/protoc-gen-grpc-gateway: PKG=github.com/grpc-ecosystem/grpc-gateway/v2/protoc-gen-grpc-gateway
$(BIN)/protoc-gen-openapiv3: PKG=github.com/grpc-ecosystem/grpc-gateway/v2/protoc-gen-openapiv3
$(BIN)/oasdiff: PKG=github.com/oasdiff/oasdiff
$(BIN)/golangci-lint: PKG=github.com/golangci/golangci-lint/v2/cmd/golangci-lint
$(BIN)/%: tools/go.mod tools/go.sum
	@mkdir -p $(BIN)
	GOWORK=off go -C tools build -o $@ $(PKG)

.PHONY: generate check-generated lint proto-lint
generate: $(CODEGEN) ## Protobuf, gRPC, REST mapping and the OpenAPI document
	scripts/proto-deps
	buf generate examples/shop/api
	cd examples/shop && go run ./api/openapi/generate

check-generated: generate ## fails when committed generated code is stale
	@git diff --exit-code --stat -- examples/shop/api || { echo "generated code is stale: run 'make generate' and commit the result"; exit 1; }
	@test -z "$$(git status --porcelain -- examples/shop/api)" || { git status --porcelain -- examples/shop/api; echo "generated files are not committed"; exit 1; }

proto-lint: $(CODEGEN) $(BIN)/oasdiff ## buf lint, and breaking changes of the contracts since the last commit on main
	scripts/proto-deps
	buf lint examples/shop/api
	go run ./cmd/napkin contract breaking --proto examples/shop/api --beside .cache/proto --openapi examples/shop/api/openapi/openapi.json

lint: $(BIN)/golangci-lint proto-lint
	@for m in $(MODULES); do echo "golangci-lint $$m"; (cd $$m && golangci-lint run ./...) || exit 1; done

.PHONY: test test-deps test-unit test-contract test-e2e test-crash test-long
test-deps: $(BIN)/buf $(BIN)/oasdiff
	scripts/test-deps
	scripts/install-pact

# Unit, conformance and integration tests; the events simulation; contracts; then the store end to end in both forms and in a browser; then one crash pass.
test: test-deps test-unit test-sim test-contract test-e2e test-crash

# Tests that need the native Pact library are test-contract's, which builds them with it; without, they skip.
test-unit test-long: export NAPKIN_TEST_REQUIRE := $(subst pact,,$(NAPKIN_TEST_REQUIRE))

test-unit: ## go test -short in every module, with the race detector
	@for m in $(MODULES); do (cd $$m && go vet ./... && go test -race -short -timeout 15m ./...) || exit 1; done

test-contract: test-deps ## consumers' and providers' contract tests, the shop's among them, with the native Pact library
	scripts/test-contract

.PHONY: test-sim
test-sim: ## 10,000 seeds of faults between outbox and inbox, without the race detector; with it test-unit runs a few
	go test -timeout 20m -count=1 -run TestSeeds ./kit/events/simulation -seeds 10000

test-e2e: ## the store as a whole: one process, a process per service, a browser
	cd examples/shop && go test -timeout 10m -count=1 ./e2e/...

test-crash: ## kill -9 at named crash points, then compare every ledger
	cd examples/shop && go test -timeout 15m -count=1 -v -run TestCrash ./chaos/...

test-long: test-deps ## everything of `test` at full length
	@for m in $(MODULES); do (cd $$m && go test -race -timeout 60m $$(go list ./... | grep -v -e /e2e -e /chaos)) || exit 1; done
	go test -timeout 60m -count=1 -run TestSeeds ./kit/events/simulation -seeds 100000
	go test -timeout 30m -count=1 -v ./kit/events/chaos
	cd examples/shop && go test -timeout 30m -count=1 ./e2e/...
	cd examples/shop && NAPKIN_CRASH_FULL=1 go test -timeout 80m -count=1 -v ./chaos/...

.PHONY: sim
sim: ## a metastable failure with and without the library: tables, and the plot in docs/images
	go run ./resilience/sim -svg docs/images/metastable.svg

.PHONY: bench bench-resilience
bench: bench-resilience
bench-resilience: ## policies, pipeline and adapters beside their peers; raw output in bench/results, then the bars
	@mkdir -p bench/results
	set -o pipefail; cd bench && for i in 1 2 3 4 5 6; do \
		go test -run '^$$' -bench . -benchmem -benchtime 200ms -timeout 30m ./resilience || exit 1; done | tee results/resilience.txt
	@cd bench && go run ./bars -area resilience results/resilience.txt

.PHONY: bench-idempotency
bench: bench-idempotency
bench-idempotency: ## idempotent writes beside the write alone, and the bars of section 9 of the design
	mkdir -p bench/results
	cd bench && set -o pipefail && { go test -run '^$$' -bench Memory -benchmem -benchtime 500000x -count 6 ./idempotency && \
		go test -run '^$$' -bench 'Postgres|SQLite' -benchmem -benchtime 1000x -count 6 -timeout 30m ./idempotency; } | tee results/idempotency.txt
	cd bench && go run ./bars -area idempotency results/idempotency.txt

.PHONY: bench-events
bench: bench-events
bench-events: ## from an outbox to an effect in another database, beside watermill-sql and river, and the bars of section 9 of the design
	mkdir -p bench/results
	cd bench && set -o pipefail && go test -run '^$$' -bench . -skip '^BenchmarkDrain$$/^many' -benchtime 1x -timeout 30m ./events | tee results/events.txt
	cd bench && go run ./bars -area events results/events.txt
