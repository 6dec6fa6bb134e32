#!/usr/bin/env bash
# Runs the static checks. Each failure names the problem and the fix.
set -euo pipefail
cd "$(dirname "$0")/.."
say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
[ -t 2 ] || say() { printf '%s\n' "$*" >&2; }
fail() { say "verify: $*"; exit 1; }

say "formatting"
unformatted=$(git ls-files '*.go' | xargs gofmt -l)
[ -z "$unformatted" ] || fail "not formatted; run gofmt -w on: $unformatted"

say "go vet and staticcheck"
tags=apiserver,awscli,browser,e2e,gitops,kernel
go vet -tags "$tags" ./...
go tool -modfile=tools/go.mod staticcheck -tags "$tags" ./...
lint=$(mktemp -d); trap 'rm -rf "$lint"' EXIT
go build -modfile=tools/go.mod -o "$lint/staticcheck" honnef.co/go/tools/cmd/staticcheck
(cd test/monitoring && go vet ./... && "$lint/staticcheck" ./...)
(cd hack/site && go vet ./... && "$lint/staticcheck" ./...)
(cd test/console && go vet ./... && "$lint/staticcheck" ./...)
(cd hack/release && go vet ./... && "$lint/staticcheck" ./...)
(cd test/lab && go vet -tags kernel ./... && "$lint/staticcheck" -tags kernel ./...)

say "go.mod"
go mod tidy -diff || fail "go.mod is not tidy; run go mod tidy"
go -C test/lab mod tidy -diff || fail "test/lab/go.mod is not tidy; run go -C test/lab mod tidy"
go -C test/console mod tidy -diff || fail "test/console/go.mod is not tidy; run go -C test/console mod tidy"
go -C test/hubble mod tidy -diff || fail "test/hubble/go.mod is not tidy; run go -C test/hubble mod tidy"
go -C hack/site mod tidy -diff || fail "hack/site/go.mod is not tidy; run go -C hack/site mod tidy"
go -C test/vpccni mod tidy -diff || fail "test/vpccni/go.mod is not tidy; run go -C test/vpccni mod tidy"
for tool in flux argocd; do
  go -C "test/gitops/$tool" mod tidy -diff || fail "test/gitops/$tool/go.mod is not tidy; run go -C test/gitops/$tool mod tidy"
done
go -C hack/release mod tidy -diff || fail "hack/release/go.mod is not tidy; run go -C hack/release mod tidy"
go -C test/monitoring mod tidy -diff || fail "test/monitoring/go.mod is not tidy; run go -C test/monitoring mod tidy"

say "licences"
make --no-print-directory licences

say "generated files"
fresh=$lint/fresh
hack/generate.sh "$fresh"
for f in $(cd "$fresh" && find . -type f); do
  cmp -s "$fresh/$f" "$f" || fail "$f is out of date; run make update"
done

go test -run Reference ./internal/observe ./internal/agent ./internal/controller

say "links in Markdown files, and the navigation of the site"
go -C hack/site run . --root ../.. || fail "correct these links"

# A shallow clone may lack the base; then there is nothing to compare with.
say "commit subjects"
base=ebe2d3d282554a72aba5d1efee44c06575d488a5
if git merge-base --is-ancestor "$base" HEAD 2>/dev/null; then
  wrong=$(git log --no-merges --format=%s "$base..HEAD" | grep -vE '^[a-z0-9.][^:]*: [^ ].*[^. ]$' || true)
  long=$(git log --no-merges --format=%s "$base..HEAD" | awk 'length > 76')
  [ -z "$wrong$long" ] || fail "these subjects are not 'area: imperative summary' of at most 76 characters: $wrong $long"
fi

say "layering"
go test ./internal/archtest
