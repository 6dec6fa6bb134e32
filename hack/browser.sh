#!/usr/bin/env bash
# Installs what the tests of the console in a browser need: Debian's Chromium, and axe-core from
# the npm registry into bin/, with the checksum of this release.
set -euo pipefail
cd "$(dirname "$0")/.."
export DEBIAN_FRONTEND=noninteractive
version=4.14.1
checksum='FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==' # SHA-512

missing=()
command -v chromium >/dev/null || missing+=(chromium)
command -v npm >/dev/null || missing+=(npm)
if [ ${#missing[@]} -gt 0 ]; then
  apt-get update -qq
  apt-get install -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

if ! grep -qs "axe v$version" bin/axe.min.js; then
  work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
  npm pack --silent --pack-destination "$work" "axe-core@$version" >/dev/null
  got=$(openssl dgst -sha512 -binary "$work/axe-core-$version.tgz" | base64 -w0)
  [ "$got" = "$checksum" ] || { echo "axe-core $version has the SHA-512 $got, want $checksum" >&2; exit 1; }
  mkdir -p bin
  tar -xzf "$work/axe-core-$version.tgz" -C "$work" package/axe.min.js
  mv "$work/package/axe.min.js" bin/
fi
