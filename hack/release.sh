#!/usr/bin/env bash
# Builds the release of the commit that is checked out into dist/release/, without a
# Docker daemon. The same commit and the same version of Go give the same files,
# on any machine. docs/guides/release.md describes the files.
#
# The version is the tag of the commit, e.g. v0.1.0. Without a tag, it is a version
# before the next release, e.g. v0.1.0-0.20261129210328.41d1e31c2a0b.
set -euo pipefail
cd "$(dirname "$0")/.."
fail() { echo "release: $*" >&2; exit 1; }
umask 022

[ -z "$(git status --porcelain)" ] || fail "the checkout has changes or new files, which no commit describes; commit or remove them: $(git status --porcelain | head -5)"
[ "$(git rev-parse --is-shallow-repository)" = false ] || fail "the clone is shallow, so the tags are unknown; run git fetch --unshallow --tags"
commit=$(git rev-parse HEAD)
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
next=$(awk '$1 == "appVersion:" {print $2}' charts/spiderpool/Chart.yaml)
version=$(git describe --tags --exact-match --match 'v[0-9]*' 2>/dev/null) ||
  version=$next-0.$(date --utc --date="@$SOURCE_DATE_EPOCH" +%Y%m%d%H%M%S).${commit:0:12}
[[ $version == "$next" || $version == "$next"-0.* ]] || fail "the tag is $version, but appVersion in charts/spiderpool/Chart.yaml is $next; they must be equal"

# Nothing of the environment changes a program.
export SOURCE_DATE_EPOCH GOFLAGS=-buildvcs=true GOAMD64=v1 GOARM64=v8.0 GOEXPERIMENT='' GOWORK=off LC_ALL=C TZ=UTC
build=dist/release-build
out=dist/release
arches=(amd64 arm64)
rm -rf "$build" "$out"
mkdir -p "$build" "$out"

for arch in "${arches[@]}"; do
  make --no-print-directory build "$build/$arch/hubble-relay" ARCH="$arch" BIN="$build/$arch" VERSION="$version"
done
BIN="$build/{arch}" OUT="$build/images" FORMAT=oci TAG="$version" RELAY=1 REVISION="$commit" hack/images.sh "${arches[@]}"
for image in "$build"/images/*.oci.tar; do
  mv "$image" "$out/$(basename "$image" .oci.tar)-$version.oci.tar"
done

for platform in linux-amd64 linux-arm64 darwin-amd64 darwin-arm64 windows-amd64; do
  GOOS=${platform%-*} make --no-print-directory "$build/$platform/spiderpoolctl" ARCH="${platform#*-}" BIN="$build/$platform" VERSION="$version"
done

export HELM_CACHE_HOME=$PWD/$build/helm HELM_CONFIG_HOME=$PWD/$build/helm HELM_DATA_HOME=$PWD/$build/helm
# The version of Helm decides on the form of the archive, so it is the lab's.
go -C test/lab/modules/cluster build -trimpath -o "$PWD/$build/helm/helm" helm.sh/helm/v4/cmd/helm
"$build/helm/helm" package charts/spiderpool --version "${version#v}" --app-version "$version" --destination "$out"
cp LICENSE "$out/"

go -C hack/release run . finish --version "$version" --commit "$commit" --programs "$PWD/$build" "$PWD/$out"
