#!/usr/bin/env bash
# Measures meterd on a real Kafka of its own: throughput and cost catching up, and the latency of crossings.
#   bench/run.sh [FLAG..]        flags of ./bench; BENCH_PIN=1 puts the broker on core 0 and meterd on core 1
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
test/testbed/setup.sh testbed
export KAFKA_PORT=${KAFKA_PORT:-21900} REGISTRY_PORT=${REGISTRY_PORT:-21920} KAFKA_HEAP=${KAFKA_HEAP:-1g}
work=$(mktemp -d)
export KAFKA_DATA=$work/kafka REGISTRY_DATA=$work/registry
cleanup() {
  test/testbed/registry.sh reset >/dev/null 2>&1 || true
  test/testbed/kafka.sh reset >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
test/testbed/kafka.sh up >/dev/null
test/testbed/registry.sh up >/dev/null
mkdir -p bin
CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o bin/meterd ./cmd/meterd
go build -o "$work/bench" ./bench
"$work/bench" -kafka "127.0.0.1:$KAFKA_PORT" -registry "http://127.0.0.1:$REGISTRY_PORT/apis/ccompat/v7" \
  -meterd bin/meterd -dir "$work" -broker "$(cat "$KAFKA_DATA/1/pid")" ${BENCH_PIN:+-pin} "$@"
