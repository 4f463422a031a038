#!/usr/bin/env bash
# Go benchmarks of single steps (decode, fold, encode, commit, flush, read), compared with the last release by benchstat.
#   microbench.sh [GO-TEST-FLAG..]
# Env: BENCHTIME=200ms COUNT=6    how long and how often each runs; fewer than four runs tell no difference from chance
# Without a release there is nothing to compare with, and the figures are printed alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
work=$(mktemp -d)
cleanup() {
  if [ -d "$work/release" ]; then git worktree remove --force "$work/release"; fi
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

measure() { # DIR TO FLAG..   what is in DIR, into TO
  local dir=$1 to=$2 packages
  shift 2
  packages=$(cd "$dir" && grep -rl --include='*_test.go' '^func Benchmark' internal | xargs -n 1 dirname | sort -u | sed 's|^|./|')
  # shellcheck disable=SC2086
  (cd "$dir" && go test -run '^$' -bench . -benchmem -benchtime "${BENCHTIME:-200ms}" -count "${COUNT:-6}" -p 1 "$@" $packages) >"$to" ||
    { cat "$to" >&2; return 1; }
}

measure . "$work/now" "$@"
# The last release before what is checked out.
release=$(git describe --tags --abbrev=0 --match 'v[0-9]*' HEAD^ 2>/dev/null || true)
benchstat=$(tools/tool.sh benchstat)
if [ -z "$release" ]; then
  echo "no release to compare with"
  "$benchstat" "$work/now"
  exit
fi
git worktree add --quiet --detach "$work/release" "$release"
# What does not run there has nothing to be compared with; that it runs here has been seen.
measure "$work/release" "$work/before" "$@" || echo "not all benchmarks of $release ran" >&2
"$benchstat" "$release=$work/before" "now=$work/now"
