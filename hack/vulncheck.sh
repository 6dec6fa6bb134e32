#!/usr/bin/env bash
# Reports the known vulnerabilities of the modules in our images, and fails if a program
# reaches one. The output lists the others, too, below "not called". The database is
# https://vuln.go.dev, or the one in GOVULNDB, e.g. file:///srv/vulndb.
# The arguments are packages, e.g. ./cmd/cni-install; without one, it is every program of an image.
set -euo pipefail
cd "$(dirname "$0")/.."
fail() { echo "vulncheck: $*" >&2; exit 1; }
db=${GOVULNDB:-https://vuln.go.dev}
case $db in
http*) curl -fsS --max-time 20 -o /dev/null "$db/index/db.json" ||
  fail "the database $db cannot be reached, so nothing was checked; give a copy with GOVULNDB=file:///PATH" ;;
esac
go build -modfile=tools/go.mod -o bin/govulncheck golang.org/x/vuln/cmd/govulncheck

# The status 3 of govulncheck means a reached vulnerability.
reached=()
check() { # DIRECTORY PACKAGE…
  local status=0
  echo "vulncheck: ${*:2} of $1"
  bin/govulncheck -C "$1" -db "$db" -show verbose "${@:2}" || status=$?
  case $status in
  0) ;;
  3) reached+=("${*:2}") ;;
  *) fail "govulncheck ended with status $status, so ${*:2} were not checked" ;;
  esac
}

if [ $# -gt 0 ]; then
  check . "$@"
else
  check . ./cmd/...
  check test/hubble github.com/cilium/cilium/hubble-relay
  # shellcheck disable=SC2046
  check test/lab/modules/plugins $(go -C test/lab/modules/plugins list tool)
fi
[ ${#reached[@]} = 0 ] || fail "these programs reach a vulnerability: ${reached[*]}; update the module, or leave out the call"
echo "vulncheck: no program reaches a vulnerability of $db"
