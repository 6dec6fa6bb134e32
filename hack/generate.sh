#!/usr/bin/env bash
# Writes every generated file into the source tree, or into directory $1.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-.}
generate() { go tool -modfile=tools/go.mod controller-gen "$@"; }

mkdir -p "$out/api/v2beta1" "$out/internal/kube/definitions/crds" "$out/internal/kube/multipolicy" "$out/internal/kube/definitions/others" "$out/docs/reference"
generate object paths=./api/... "output:object:dir=$out/api/v2beta1"
generate crd paths=./api/... "output:crd:dir=$out/internal/kube/definitions/crds"
generate object paths=./internal/kube/multipolicy "output:object:dir=$out/internal/kube/multipolicy"
generate crd:maxDescLen=200 paths=./internal/kube/multipolicy "output:crd:dir=$out/internal/kube/definitions/others"
policies=$(go list -m -f '{{.Dir}}' sigs.k8s.io/network-policy-api)/config/crd/standard
install -m 644 "$policies/policy.networking.k8s.io_clusternetworkpolicies.yaml" "$out/internal/kube/definitions/others"
go run ./hack/helmvalues -out "$out"
go run ./hack/reference -out "$out"
go tool -modfile=tools/go.mod crd-ref-docs --log-level=ERROR --source-path=api/v2beta1 --renderer=markdown \
  --config=hack/reference/crd-ref-docs.yaml --templates-dir=hack/reference/templates --output-path="$out/docs/reference/api.md"
hack/bpf.sh "$out"
