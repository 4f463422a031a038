#!/usr/bin/env bash
# Kafka, the schema registry and Druid together, for tests: ports and data of their own, apart from what
# kafka.sh, registry.sh and druid.sh use when they are called by hand.
#   testbed.sh up                    start all three (what is missing is installed and downloaded); prints env
#   testbed.sh env                   the variables that tests read, as lines for the shell's eval
#   testbed.sh status | down | reset     reset: down, and remove the data
#   testbed.sh run COMMAND..         a fresh testbed around COMMAND: up, COMMAND with env, reset, whatever happens;
#                                    with METERD_TEST_KAFKA already set, COMMAND alone
# Each running testbed has a slot, which gives it its ports and its data. 'run' takes the first free one from 1 on,
# so several can run at once; the others mean slot 0.
# Env: METERD_TESTBED_SLOT   METERD_TESTBED_CACHE   DRUID_SPLIT=1 (0: all of Druid in one JVM, which no test can kill in part)
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CACHE=${METERD_TESTBED_CACHE:-$HOME/.cache/meterd-testbed}
SLOTS=9

say() { echo "$*" >&2; }
usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2; }

# All ports of a slot are below 32768, where Linux begins to hand out ports to clients.
slot() { # NUMBER
  SLOT=$1
  local base=$((20000 + SLOT * 100))
  export METERD_TESTBED=$HERE METERD_TESTBED_CACHE=$CACHE METERD_TESTBED_SLOT=$SLOT METERD_TESTBED_DATA=$CACHE/slot-$SLOT
  export KAFKA_PORT=$base KAFKA_DATA=$METERD_TESTBED_DATA/kafka
  export REGISTRY_PORT=$((base + 20)) REGISTRY_DATA=$METERD_TESTBED_DATA/registry
  export DRUID_PORT=$((base + 30)) DRUID_DATA=$METERD_TESTBED_DATA/druid DRUID_SPLIT=${DRUID_SPLIT:-1}
  export KAFKA=127.0.0.1:$KAFKA_PORT REGISTRY=http://127.0.0.1:$REGISTRY_PORT/apis/ccompat/v7
  export METERD_TEST_KAFKA=$KAFKA METERD_TEST_REGISTRY=$REGISTRY
  export METERD_TEST_DRUID=http://127.0.0.1:$((DRUID_PORT + 1)) METERD_TEST_DRUID_COORDINATOR=http://127.0.0.1:$DRUID_PORT
}
print_env() {
  local v
  for v in "${!METERD_TEST@}" "${!KAFKA@}" "${!REGISTRY@}" "${!DRUID@}"; do
    printf 'export %s=%q\n' "$v" "${!v}"
  done
}

fetch() { # one at a time: Maven's repository does not like two at once
  "$HERE/setup.sh" testbed
  "$HERE/kafka.sh" fetch
  "$HERE/registry.sh" fetch
  "$HERE/druid.sh" fetch
}
# start brings the three up side by side; they do not need each other to start. What it waits for is in BACKGROUND,
# so that cleanup can end it first: a script that goes on starting things would start them after the reset.
BACKGROUND=()
start() {
  local pid rc=0 began=$SECONDS
  fetch & BACKGROUND=($!)
  wait "${BACKGROUND[0]}" || return 1
  "$HERE/kafka.sh" up >/dev/null & BACKGROUND=($!)
  "$HERE/registry.sh" up >/dev/null & BACKGROUND+=($!)
  "$HERE/druid.sh" up >/dev/null & BACKGROUND+=($!)
  for pid in "${BACKGROUND[@]}"; do wait "$pid" || rc=1; done
  BACKGROUND=()
  if [ $rc = 0 ]; then say "testbed: slot $SLOT is up after $((SECONDS - began)) s"; fi
  return $rc
}
each() { # COMMAND   to all three, even if one fails
  local s pids=() pid rc=0
  for s in druid registry kafka; do "$HERE/$s.sh" "$1" & pids+=($!); done
  for pid in "${pids[@]}"; do wait "$pid" || rc=1; done
  return $rc
}
reset() {
  # Druid in either mode, whatever this call's DRUID_SPLIT says: 'down' knows all of its services
  each reset
  rm -rf "$METERD_TESTBED_DATA"
}

# lock takes the first free slot. The lock is the open file 9, which what we start must not inherit: services
# that outlive us would hold it for ever.
lock() {
  local n first=1 last=$SLOTS
  if [ -n "${METERD_TESTBED_SLOT:-}" ]; then first=$METERD_TESTBED_SLOT last=$first; fi
  mkdir -p "$CACHE"
  for ((n = first; n <= last; n++)); do
    exec 9>"$CACHE/slot-$n.lock"
    if flock -n 9; then slot "$n"; return; fi
  done
  say "testbed.sh: slot $first to $last: all in use"
  exit 1
}
run() { # COMMAND..
  local rc=0
  lock
  trap cleanup EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  trap 'exit 129' HUP
  # what a run that was killed left in this slot
  reset 9>&-
  start 9>&-
  # In the background, so that a signal is handled at once and not when the command ends; in a session of its own,
  # so that the signal reaches all of it: 'go test' that is ended leaves its test binaries behind.
  setsid "$@" 9>&- <&0 & CHILD=$!
  wait "$CHILD" || rc=$?
  CHILD=
  exit $rc
}
cleanup() {
  local rc=$?
  trap - EXIT
  trap '' INT TERM HUP
  if [ ${#BACKGROUND[@]} -gt 0 ]; then
    kill "${BACKGROUND[@]}" 2>/dev/null || true
    wait "${BACKGROUND[@]}" 2>/dev/null || true
  fi
  if [ -n "${CHILD:-}" ]; then
    kill -TERM -- "-$CHILD" 2>/dev/null || true
    wait "$CHILD" 2>/dev/null || true
  fi
  reset 9>&- || say "testbed.sh: slot $SLOT was not cleaned up"
  exit "$rc"
}

cmd=${1:-help}
[ $# -eq 0 ] || shift
if [ "$cmd" = run ]; then
  [ $# -gt 0 ] || usage
  if [ -n "${METERD_TEST_KAFKA:-}" ]; then exec "$@"; fi
  run "$@"
fi
slot "${METERD_TESTBED_SLOT:-0}"
case $cmd in
  fetch) fetch ;;
  up)
    start || { each down; exit 1; }
    print_env ;;
  env) print_env ;;
  status) each status ;;
  down) each down ;;
  reset) reset ;;
  *) usage ;;
esac
