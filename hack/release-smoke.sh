#!/usr/bin/env bash
# Runs every program of the images of a release for an architecture, by qemu-user if
# the machine has another one: hack/release-smoke.sh dist/release [arm64].
set -euo pipefail
cd "$(dirname "$0")/.."
fail() { echo "release-smoke: $*" >&2; exit 1; }

release=$(realpath "${1:?the directory of a release, e.g. dist/release}")
arch=${2:-arm64}
case $arch in
amd64) machine=x86_64 ;;
arm64) machine=aarch64 ;;
*) fail "architecture $arch: want amd64 or arm64" ;;
esac
run=()
if [ "$(uname -m)" != "$machine" ]; then
  command -v "qemu-$machine-static" >/dev/null || fail "qemu-$machine-static is missing, so no program was run; apt-get install qemu-user-static"
  run=("qemu-$machine-static")
fi

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
go -C hack/release run . extract --platform "linux/$arch" "$release" "$root" >"$root/entrypoints"
count=0
while IFS= read -r program; do
  name=${program#"$root/"}
  case $program in
  # The CNI plugins. VERSION is the only command without a network (CNI specification, section 4).
  */cni/* | */vlan/*) CNI_COMMAND=VERSION "${run[@]}" "$program" </dev/null ;;
  *) "${run[@]}" "$program" --help ;;
  esac >"$root/out" 2>&1 || fail "$name does not run on $arch: $(head -5 "$root/out")"
  [ -s "$root/out" ] || fail "$name prints nothing on $arch"
  count=$((count + 1))
done < <(find "$root" -type f -perm -u+x | sort)
while IFS= read -r entrypoint; do
  [ -x "$entrypoint" ] || fail "the entrypoint ${entrypoint#"$root/"} is no program"
done <"$root/entrypoints"
echo "release-smoke: $count programs of $(wc -l <"$root/entrypoints") images run on $arch"

# One of them works: it installs the CNI plugins of its image, as on a node.
agent=$(dirname "$(dirname "$(dirname "$(grep spiderpool-agent "$root/entrypoints")")")")
mkdir "$root/bin"
"${run[@]}" "$agent/usr/bin/cni-install" plugins --source="$agent/opt/spiderpool/cni" --target="$root/bin" >"$root/out" 2>&1 ||
  fail "cni-install does not install on $arch: $(head -5 "$root/out")"
cmp "$agent/opt/spiderpool/cni/spiderpool" "$root/bin/spiderpool" || fail "cni-install installed another file"
echo "release-smoke: cni-install installs $(find "$root/bin" -type f | wc -l) files on $arch"
