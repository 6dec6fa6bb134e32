#!/usr/bin/env bash
# Loads the images of dist/images, or the named archives, into a cluster. Usage:
# hack/load.sh TARGET [ARCHIVE…], e.g.
#
#   hack/load.sh kind[:CLUSTER]               all nodes of a kind cluster
#   hack/load.sh minikube[:PROFILE]           all nodes of a minikube cluster
#   hack/load.sh containerd[:HOST,HOST…]      this machine, or each host by ssh
#   hack/load.sh k3s[:HOST,HOST…]             the same, for K3s
#   hack/load.sh rke2[:HOST,HOST…]            the same, for RKE2
#   hack/load.sh registry:HOST/PATH           a registry, with the credentials of "docker login"
#
# Images that nodes have are not pulled: the chart's pull policy is IfNotPresent.
set -euo pipefail
cd "$(dirname "$0")/.."
fail() { echo "load: $*" >&2; exit 1; }

target=${1:-}
shift || true
to=${target#*:}
[[ $target == *:* ]] || to=
shopt -s nullglob
images=("$@")
[ $# -gt 0 ] || images=(dist/images/*.tar)
[ ${#images[@]} -gt 0 ] || fail "no image in dist/images; run make images"

# import COMMAND: runs "COMMAND images import" on this machine or on each host of $to.
import() {
  # root of a minimal system has no sudo.
  local run="if [ \$(id -u) = 0 ]; then exec $1 images import"
  run="$run \"\$1\"; else exec sudo $1 images import \"\$1\"; fi"
  local host image
  for image in "${images[@]}"; do
    [ -n "$to" ] || { bash -c "$run" load "$image"; continue; }
    for host in ${to//,/ }; do
      echo "$host: $image"
      ssh "$host" "bash -c '$run' load -" < "$image"
    done
  done
}

case ${target%%:*} in
kind)
  for image in "${images[@]}"; do kind load image-archive "$image" --name "${to:-kind}"; done ;;
minikube)
  for image in "${images[@]}"; do minikube image load "$image" --profile "${to:-minikube}"; done ;;
containerd) import "ctr --namespace k8s.io" ;;
k3s) import "k3s ctr" ;;
rke2) import "/var/lib/rancher/rke2/bin/ctr --address /run/k3s/containerd/containerd.sock --namespace k8s.io" ;;
registry)
  [ -n "$to" ] || fail "registry has no address, e.g. registry:registry.example.com/team"
  bin/lab image push --to "$to" "${images[@]}"
  echo "Install the chart with --set global.imageRegistry=$to" ;;
*) fail "TO is '$target'; want kind[:CLUSTER], minikube[:PROFILE], containerd[:HOST,…], k3s[:HOST,…], rke2[:HOST,…] or registry:HOST/PATH" ;;
esac
