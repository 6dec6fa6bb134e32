#!/usr/bin/env bash
# Builds the container images from bin/ into dist/images/, without a Docker
# daemon. Registry and tag are those of the chart, so that the chart finds the images.
# The first argument is the architecture, e.g. arm64; without one, it is this machine's.
set -euo pipefail
cd "$(dirname "$0")/.."

tag=$(awk '$1 == "appVersion:" {print $2}' charts/spiderpool/Chart.yaml)
repository=$(awk '$1 == "imageRegistry:" {print $2}' charts/spiderpool/values.yaml)
arch=${1:-$(go env GOARCH)}
mkdir -p dist/images

# image NAME ENTRYPOINT PROGRAM:DESTINATION...
image() {
  local name=$1 entrypoint=$2 add=()
  shift 2
  for program; do add+=(--add "bin/${program%%:*}:${program#*:}:755"); done
  bin/lab image build --arch "$arch" --tag "$repository/$name:$tag" "${add[@]}" \
    --add LICENSE:/licenses/LICENSE:644 \
    --link /run:/var/run \
    --label "org.opencontainers.image.version=$tag" \
    --label org.opencontainers.image.licenses=Apache-2.0 \
    --entrypoint "$entrypoint" -o "dist/images/$name.tar"
  echo "$repository/$name:$tag  dist/images/$name.tar"
}

image spiderpool-agent /usr/bin/spiderpool-agent \
  spiderpool-agent:/usr/bin/spiderpool-agent \
  spiderpoolctl:/usr/bin/spiderpoolctl \
  cni-install:/usr/bin/cni-install \
  spiderpool:/opt/spiderpool/cni/spiderpool \
  coordinator:/opt/spiderpool/cni/coordinator \
  ifacer:/opt/spiderpool/cni/ifacer

image spiderpool-controller /usr/bin/spiderpool-controller \
  spiderpool-controller:/usr/bin/spiderpool-controller \
  spiderpool-init:/usr/bin/spiderpool-init

image spiderpool-console /usr/bin/spiderpool-console \
  spiderpool-console:/usr/bin/spiderpool-console

# The unmodified program of Cilium, which test/hubble/go.mod pins.
if [ -n "${RELAY:-}" ]; then
  image spiderpool-hubble-relay /usr/bin/hubble-relay hubble-relay:/usr/bin/hubble-relay
fi

# The plugins of containernetworking/plugins, in the lab's version.
rm -rf dist/plugins
mkdir -p dist/plugins/cni dist/plugins/vlan
CGO_ENABLED=0 GOARCH=$arch go -C test/lab/modules/plugins build -trimpath -ldflags='-s -w' -o "$PWD/dist/plugins/cni/" tool
cp dist/plugins/cni/vlan dist/plugins/vlan/
bin/lab image build --arch "$arch" --tag "$repository/spiderpool-plugins:$tag" \
  --add bin/cni-install:/usr/bin/cni-install:755 \
  --add dist/plugins:/opt/plugins \
  --add LICENSE:/licenses/LICENSE:644 \
  --label "org.opencontainers.image.version=$tag" \
  --entrypoint /usr/bin/cni-install -o dist/images/spiderpool-plugins.tar
echo "$repository/spiderpool-plugins:$tag  dist/images/spiderpool-plugins.tar"
