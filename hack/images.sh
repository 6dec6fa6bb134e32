#!/usr/bin/env bash
# Builds the container images into dist/images/, without a Docker daemon. Registry
# and tag are those of the chart, so that the chart finds the images.
# The arguments are architectures, e.g. arm64; without one, it is this machine's.
# Several architectures need the format oci. The environment changes the rest:
#
#   BIN      directory of the programs; "{arch}" in it stands for the architecture (bin)
#   OUT      directory of the archives (dist/images)
#   FORMAT   docker, or oci (docker)
#   TAG      tag of the images (the appVersion of the chart)
#   RELAY    build the image of hubble-relay, too, unless empty
#   REVISION commit of the sources, a label of the images (none)
set -euo pipefail
cd "$(dirname "$0")/.."

tag=${TAG:-$(awk '$1 == "appVersion:" {print $2}' charts/spiderpool/Chart.yaml)}
repository=$(awk '$1 == "imageRegistry:" {print $2}' charts/spiderpool/values.yaml)
bin=${BIN:-bin}
out=${OUT:-dist/images}
format=${FORMAT:-docker}
arches=("$@")
[ $# -gt 0 ] || arches=("$(go env GOARCH)")
suffix=tar
[ "$format" = docker ] || suffix=$format.tar
mkdir -p "$out"

# image NAME ENTRYPOINT ARGUMENT...
image() {
  local name=$1 entrypoint=$2
  shift 2
  bin/lab image build --format "$format" --arch "$(IFS=,; echo "${arches[*]}")" --tag "$repository/$name:$tag" "$@" \
    --add LICENSE:/licenses/LICENSE:644 \
    --label "org.opencontainers.image.version=$tag" \
    ${REVISION:+--label "org.opencontainers.image.revision=$REVISION"} \
    --label org.opencontainers.image.licenses=Apache-2.0 \
    --entrypoint "$entrypoint" -o "$out/$name.$suffix"
  echo "$repository/$name:$tag  $out/$name.$suffix"
}

image spiderpool-agent /usr/bin/spiderpool-agent --link /run:/var/run \
  --add "$bin/spiderpool-agent:/usr/bin/spiderpool-agent:755" \
  --add "$bin/spiderpoolctl:/usr/bin/spiderpoolctl:755" \
  --add "$bin/cni-install:/usr/bin/cni-install:755" \
  --add "$bin/spiderpool:/opt/spiderpool/cni/spiderpool:755" \
  --add "$bin/coordinator:/opt/spiderpool/cni/coordinator:755" \
  --add "$bin/ifacer:/opt/spiderpool/cni/ifacer:755"

image spiderpool-controller /usr/bin/spiderpool-controller --link /run:/var/run \
  --add "$bin/spiderpool-controller:/usr/bin/spiderpool-controller:755" \
  --add "$bin/spiderpool-init:/usr/bin/spiderpool-init:755"

image spiderpool-console /usr/bin/spiderpool-console --link /run:/var/run --add "$bin/spiderpool-console:/usr/bin/spiderpool-console:755"

# The unmodified program of Cilium, which test/hubble/go.mod pins.
if [ -n "${RELAY:-}" ]; then
  image spiderpool-hubble-relay /usr/bin/hubble-relay --link /run:/var/run --add "$bin/hubble-relay:/usr/bin/hubble-relay:755"
fi

# The plugins of containernetworking/plugins, in the lab's version.
plugins=$(dirname "$out")/plugins
rm -rf "$plugins"
for arch in "${arches[@]}"; do
  mkdir -p "$plugins/$arch/cni" "$plugins/$arch/vlan"
  CGO_ENABLED=0 GOARCH=$arch go -C test/lab/modules/plugins build -trimpath -ldflags='-s -w' -o "$(realpath "$plugins")/$arch/cni/" tool
  cp "$plugins/$arch/cni/vlan" "$plugins/$arch/vlan/"
done
image spiderpool-plugins /usr/bin/cni-install \
  --add "$bin/cni-install:/usr/bin/cni-install:755" \
  --add "$plugins/{arch}:/opt/plugins"
