#!/usr/bin/env bash
# Builds the release of the commit twice, the second time from a clone in another
# directory with an empty build cache, and compares all files. Then it runs the arm64
# programs of the images, by qemu-user on other machines.
set -euo pipefail
cd "$(dirname "$0")/.."
fail() { echo "release-check: $*" >&2; exit 1; }

make --no-print-directory release
other=$(mktemp -d)
trap 'rm -rf "$other"' EXIT
git clone --quiet . "$other/elsewhere"
GOCACHE=$other/cache make --no-print-directory -C "$other/elsewhere" release >"$other/log" || fail "the second build failed: $(tail -20 "$other/log")"
diff -r dist/release "$other/elsewhere/dist/release" || fail "two builds of one commit differ"
echo "release-check: two builds of $(git rev-parse --short HEAD) are equal"
hack/release-smoke.sh dist/release
