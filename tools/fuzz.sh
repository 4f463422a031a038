#!/usr/bin/env bash
# Runs each fuzz target of the module for a while, and ends at the first that fails.
#   fuzz.sh [TIME=10s]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

targets=$(grep -rnoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' cmd internal 2>/dev/null | sort) || true
if [ -z "$targets" ]; then
  echo "fuzz.sh: there are no fuzz targets" >&2
  exit 1
fi
while IFS=: read -r file _ func; do
  go test -run '^$' -fuzz "^${func#func }\$" -fuzztime "${1:-10s}" "./$(dirname "$file")"
done <<<"$targets"
