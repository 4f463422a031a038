#!/usr/bin/env bash
# Installs what the tests and checks need besides Go, where it is missing.
#   setup.sh [make] [testbed] [race] [check]     without arguments: all of them
#     make     make
#     testbed  JDK 17 or later, Maven, curl: Kafka, registry and Druid (testbed.sh)
#     race     a C compiler: Go's race detector
#     check    Python with venv: hadolint and shellcheck come from PyPI (tools/tool.sh)
# As root on Debian or Ubuntu it installs by apt-get; elsewhere it prints one line naming what to install and fails.
set -euo pipefail

has() { command -v "$1" >/dev/null 2>&1; }

# The JDK's own "release" file tells its version without the start of a JVM.
jdk() {
  local javac file major
  has "${JAVA_HOME:+$JAVA_HOME/bin/}java" && javac=$(command -v "${JAVA_HOME:+$JAVA_HOME/bin/}javac") || return 1
  file=$(dirname "$(dirname "$(readlink -f "$javac")")")/release
  if [ -r "$file" ]; then
    major=$(sed -n 's/^JAVA_VERSION="\([0-9]*\).*/\1/p' "$file")
  else
    major=$("$javac" -version 2>&1 | sed -n 's/^javac \([0-9]*\).*/\1/p')
  fi
  [ "${major:-0}" -ge 17 ]
}
# Debian splits pip's part of venv off; without it "python3 -m venv" fails at its last step.
venv() { has python3 && python3 -S -c 'import importlib.util as u, sys; sys.exit(not (u.find_spec("venv") and u.find_spec("ensurepip")))'; }
headers() { echo '#include <stdlib.h>' | "${CC:-gcc}" -E - >/dev/null 2>&1; }

packages=()
missing=()
need() { # APT-PACKAGE WHAT
  packages+=("$1")
  missing+=("$2")
}
[ $# -gt 0 ] || set -- make testbed race check
for group; do
  case $group in
    make)
      has make || need make "make" ;;
    testbed)
      jdk || need jdk "a JDK, 17 or later"
      has mvn || need maven "Maven"
      has curl || need curl "curl" ;;
    race)
      has "${CC:-gcc}" || need gcc "a C compiler"
      headers || need libc6-dev "the C library's headers" ;;
    check)
      venv || need python3-venv "Python 3 with venv" ;;
    *)
      sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2
      exit 2 ;;
  esac
done
[ ${#missing[@]} -gt 0 ] || exit 0

if ! has apt-get || [ "$(id -u)" != 0 ]; then
  list=$(printf '%s, ' "${missing[@]}")
  echo "setup.sh: please install: ${list%, }" >&2
  exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update >&2
for i in "${!packages[@]}"; do
  if [ "${packages[$i]}" = jdk ]; then
    packages[i]=openjdk-17-jdk-headless
    if [ -z "$(apt-cache madison openjdk-17-jdk-headless 2>/dev/null)" ]; then packages[i]=openjdk-21-jdk-headless; fi
  fi
done
echo "setup.sh: installing ${packages[*]}" >&2
apt-get -qq -y --no-install-recommends install "${packages[@]}" ca-certificates >&2
