#!/usr/bin/env bash
# Writes every generated file into the source tree, or into directory $1.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-.}
generate() { go tool -modfile=tools/go.mod controller-gen "$@"; }

mkdir -p "$out/api/v2beta1" "$out/charts/spiderpool/crds"
generate object paths=./api/... "output:object:dir=$out/api/v2beta1"
generate crd paths=./api/... "output:crd:dir=$out/charts/spiderpool/crds"
go run ./hack/helmvalues -out "$out"
