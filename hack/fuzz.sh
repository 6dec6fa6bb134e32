#!/usr/bin/env bash
# Runs every fuzz target, one after the other. FUZZTIME is the time per target
# (default 30s). RUN is a regular expression that selects targets by name.
set -euo pipefail
cd "$(dirname "$0")/.."

# "go test -list" finds the targets. It runs only in packages with a func Fuzz…, because linking all test binaries takes minutes.
packages=$(grep -rl --include='*_test.go' '^func Fuzz' api cmd internal | xargs -n 1 dirname | sort -u)
failed=() ran=0
for package in $packages; do
	for target in $(go test -list '^Fuzz' "./$package" | grep '^Fuzz' | grep -E -- "${RUN:-.}" || true); do
		echo "fuzz: $target in $package"
		ran=$((ran + 1))
		go test -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-30s}" "./$package" || failed+=("$target in $package")
	done
done

[ "$ran" -gt 0 ] || { echo "fuzz: no target matches ${RUN:-.}" >&2; exit 1; }
if [ ${#failed[@]} -gt 0 ]; then
	printf 'fuzz: %s failed\n' "${failed[@]}" >&2
	exit 1
fi
