# What can be done with this checkout; "make help" lists it. Everything that is fetched or built for the checks and tests
# is kept: tools in METERD_CACHE (by default ~/.cache/meterd), Kafka and Druid in METERD_TESTBED_CACHE.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
DATE ?= $(shell git log -1 --format=%cI 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT) -X main.date=$(DATE)

# More flags for "go test", say TESTFLAGS=-v.
TESTFLAGS ?=
# How long each fuzz target runs.
FUZZTIME ?= 10s

SCRIPTS := .ci/run tools/*.sh test/testbed/*.sh bench/*.sh
# The packages that have tests for a real Kafka and Druid.
INTEGRATION = $(shell grep -rlE --include='*_test.go' '^//go:build .*integration' cmd internal test 2>/dev/null | xargs -r -n 1 dirname | sort -u | sed 's|^|./|')

.PHONY: help
help: ## Show this list
	@sed -n 's/^\([a-z0-9]*\):.*## \(.*\)/\1\t\2/p' Makefile | while IFS=$$'\t' read -r name what; do printf '  %-12s %s\n' "$$name" "$$what"; done

.PHONY: build
build: ## Build bin/meterd, static and stamped with its version
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/meterd ./cmd/meterd

.PHONY: test
test: race histories integration ## All tests: unit tests with the race detector, random histories, then integration tests

.PHONY: check
check: format lint vet dockerfile k8s scripts unit ## Before a commit: format, linters, unit tests, image, Kubernetes, scripts

.PHONY: unit
unit: ## Unit tests, with few random histories
	go test -short $(TESTFLAGS) ./...

.PHONY: histories
histories: ## The proof of the rules by random histories (METERD_HISTORIES=1000000 METERD_SEED=random for more and others)
	go test -timeout 40m $(TESTFLAGS) ./internal/model

.PHONY: race
race: ## Unit tests with the race detector
	@test/testbed/setup.sh race
	CGO_ENABLED=1 go test -race -timeout 20m $(TESTFLAGS) ./...

# Faults: rounds with the in-memory Kafka, then with three real brokers. FAULTFLAGS="-seed 7" for others.
FAULTFLAGS ?=
# How long "make soak" breaks things, and how many worlds it breaks at a time.
DURATION ?= 3h
WORLDS ?= 3

.PHONY: faults
faults: ## At least 150 faults over 2 million events, with real processes; what they find is an error
	@test/testbed/setup.sh testbed
	go run ./test/faults run -faults 150 -events 2000000 -round 25 -worlds 3 $(FAULTFLAGS)
	go run ./test/faults run -real -faults 15 -events 100000 -round 15 $(FAULTFLAGS)

.PHONY: planted
planted: ## Plant known bugs, and demand that the faults find each of them
	go run ./test/faults planted -round 15 -events 40000 -gap 400ms -worlds 3 $(FAULTFLAGS)

.PHONY: soak
soak: ## Faults for DURATION (3h), a part of them on real brokers
	@test/testbed/setup.sh testbed
	go run ./test/faults soak -duration $(DURATION) -round 25 -events 150000 -worlds $(WORLDS) $(FAULTFLAGS)

.PHONY: integration
integration: ## Tests with a real Kafka, registry and Druid, started for them (test/testbed)
	test/testbed/testbed.sh run go test -tags integration -count=1 -p 1 -timeout 40m $(TESTFLAGS) $(or $(INTEGRATION),$(error there are no integration tests))

.PHONY: fuzz
fuzz: ## Run each fuzz target for FUZZTIME (10s)
	tools/fuzz.sh $(FUZZTIME)

.PHONY: bench
bench: ## Side by side with Kafka Streams, on a real Kafka (QUICK=1: in under eight minutes; BENCHFLAGS="-rounds 9")
	bench/run.sh $(BENCHFLAGS)

.PHONY: microbench
microbench: ## Go benchmarks of single steps, compared with the last release (BENCHTIME=200ms COUNT=6)
	tools/microbench.sh $(TESTFLAGS)

.PHONY: demo
demo: build ## See meterd count: Kafka, history and traffic in one process
	bin/meterd demo

.PHONY: lint
lint: ## golangci-lint, see .golangci.yml
	"$$(tools/tool.sh golangci-lint)" run ./...

.PHONY: fmt
fmt: ## Format all Go code with gofumpt
	"$$(tools/tool.sh golangci-lint)" fmt

.PHONY: format
format: ## Fail on Go code that "make fmt" would change
	"$$(tools/tool.sh golangci-lint)" fmt --diff

.PHONY: vet
vet: ## go vet, also of the integration tests
	go vet ./...
	go vet -tags integration,failpoints ./...

.PHONY: dockerfile
dockerfile: ## hadolint
	@test/testbed/setup.sh check
	"$$(tools/tool.sh hadolint)" Dockerfile

.PHONY: k8s
k8s: ## Build deploy/k8s, decode it strictly, and check what it promises
	cd tools/k8s && "$$(../tool.sh k8s.test)"

.PHONY: scripts
scripts: ## shellcheck
	@test/testbed/setup.sh check
	"$$(tools/tool.sh shellcheck)" -x -P SCRIPTDIR $(SCRIPTS)

.PHONY: clean
clean: ## Remove what was built here; the caches stay
	rm -rf bin coverage.out
