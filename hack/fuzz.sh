#!/usr/bin/env bash
# Runs every fuzz target, one after the other. FUZZTIME is for how long each runs;
# RUN, a regular expression, chooses among their names.
set -euo pipefail
cd "$(dirname "$0")/.."

# A test binary tells best what it has; linking those without targets takes minutes.
packages=$(grep -rl --include='*_test.go' '^func Fuzz' api cmd internal | xargs -n 1 dirname | sort -u)
failed=() ran=0
for package in $packages; do
	for target in $(go test -list '^Fuzz' "./$package" | grep '^Fuzz' | grep -E -- "${RUN:-.}" || true); do
		echo "fuzz: $target of $package"
		ran=$((ran + 1))
		go test -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-30s}" "./$package" || failed+=("$target of $package")
	done
done

[ "$ran" -gt 0 ] || { echo "fuzz: no target matches ${RUN:-.}" >&2; exit 1; }
if [ ${#failed[@]} -gt 0 ]; then
	printf 'fuzz: %s failed\n' "${failed[@]}" >&2
	exit 1
fi
