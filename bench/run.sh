#!/usr/bin/env bash
# Measures meterd and a Kafka Streams application on a real Kafka of its own; bench/README.md says what and how.
#   bench/run.sh [FLAG..]     flags of bench/main.go; they come last, so they hold
# Env: QUICK=1             throughput and latency alone, in under eight minutes
#      METERD_CACHE        where the Kafka Streams application is built and kept (by default "meterd" in the user's cache directory)
#      KAFKA_PORT=21900 REGISTRY_PORT=21920 KAFKA_HEAP=1g
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
test/testbed/setup.sh testbed
CACHE=${METERD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/meterd}
export KAFKA_PORT=${KAFKA_PORT:-21900} REGISTRY_PORT=${REGISTRY_PORT:-21920} KAFKA_HEAP=${KAFKA_HEAP:-1g}
# Nothing is compacted meanwhile: all records of the changelogs are counted.
export KAFKA_OVERRIDES=${KAFKA_OVERRIDES:-log.cleaner.min.compaction.lag.ms=86400000}
work=$(mktemp -d)
export KAFKA_DATA=$work/kafka REGISTRY_DATA=$work/registry
cleanup() {
  test/testbed/registry.sh reset >/dev/null 2>&1 || true
  test/testbed/kafka.sh reset >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# The application is built when it or Maven's file has changed.
streams=$CACHE/kstreams-$(find bench/kstreams -type f -not -path '*/target/*' -print0 | sort -z | xargs -0 cat | cksum | cut -d' ' -f1)
if [ ! -f "$streams/done" ]; then
  echo "bench: building the Kafka Streams application, once" >&2
  mkdir -p "$streams"
  cp -r bench/kstreams "$work/src"
  mvn -B -q -f "$work/src/pom.xml" -Dbuild.to="$streams" package >&2
  touch "$streams/done"
fi
mkdir -p bin
CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o bin/meterd ./cmd/meterd
go build -o "$work/bench" ./bench
test/testbed/kafka.sh up >/dev/null
test/testbed/registry.sh up >/dev/null
if [ "$(nproc)" -gt 1 ]; then taskset -a -c -p 0 "$(cat "$REGISTRY_DATA/pid")" >/dev/null; fi

flags=()
command="make bench"
if [ -n "${QUICK:-}" ]; then
  command+=" QUICK=1"
  # what was built and started before counts too
  flags=(-quick -events 3000000 -rounds 3 -seconds 15 -warm 8 -patience 15s -budget "$((440 - SECONDS))s")
fi
if [ $# -gt 0 ]; then command+=" BENCHFLAGS=\"$*\""; fi
commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
if [ -n "$(git status --porcelain -- . ":!bench/latest.*" 2>/dev/null)" ]; then commit+=" with changes"; fi
"$work/bench" -kafka "127.0.0.1:$KAFKA_PORT" -registry "http://127.0.0.1:$REGISTRY_PORT/apis/ccompat/v7" -meterd bin/meterd \
  -kstreams "$streams" -java "${JAVA_HOME:+$JAVA_HOME/bin/}java" -dir "$work" -broker "$(cat "$KAFKA_DATA/1/pid")" \
  -commit "$commit" -command "$command" ${flags[@]+"${flags[@]}"} "$@"
