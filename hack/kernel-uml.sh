#!/bin/sh
# Runs the kernel tests inside User Mode Linux. The lab's UML kernel has ipvlan,
# VLANs, bonds and IPVS; the machine's own kernel may lack some of them. The script
# needs root and the output of `make lab-tools`.
#
#   hack/kernel-uml.sh [--update] [-test.run=REGEXP ...]
#
# A run of all tests compares its results with docs/reference/datapath.md. With
# --update, it writes them there.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
kernel=$("$root/bin/lab" env --dir)/linux

cd "$root"
packages="internal/linux internal/linux/bpf internal/linux/flows internal/linux/packetfilter internal/linux/pathprobe internal/linux/probe internal/cni/coordinator internal/cni/ifacer internal/agent/nodeguard internal/agent/bandwidth test/chains"
for package in $packages; do
	CGO_ENABLED=0 go test -tags kernel -c -o "$work/$(basename $package).test" "./$package"
done

# Compile outside User Mode Linux, because a compiler is too slow inside.
CGO_ENABLED=0 go -C test/lab/modules/plugins build -trimpath -o "$work/plugins/" tool
CGO_ENABLED=0 go build -trimpath -o "$work/plugins/" ./cmd/spiderpool ./cmd/coordinator ./cmd/ifacer

update=
[ "${1:-}" != --update ] || { update=1; shift; }
[ "$*" != -test.run=. ] || shift
arguments=
for a in "$@"; do
	arguments="$arguments '$(printf %s "$a" | sed "s/'/'\\\\''/g")'"
done
cat > "$work/init" <<INIT
#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TMPDIR=/run/tests DATAPATH_RESULTS=$work/results.tsv CNI_PLUGINS=$work/plugins
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /run
mkdir -p /run/netns /run/tests
ip link set lo up
status=0
for package in $packages; do
	echo "== \$package"
	cd $root/\$package
	$work/\$(basename \$package).test -test.v $arguments || status=1
done
echo \$status > $work/status
poweroff -f
INIT
chmod +x "$work/init"

# User Mode Linux keeps its memory in a file in TMPDIR, so TMPDIR must be in memory.
TMPDIR=/dev/shm "$kernel" seccomp=on mem=2G root=/dev/root rootfstype=hostfs rw init="$work/init" con=null con0=fd:0,fd:1 quiet </dev/null |
	grep -v -- '=== RUN'
[ "$(cat "$work/status" 2>/dev/null)" = 0 ]
[ -z "$arguments" ] || exit 0
go run ./hack/datapath "$work/results.tsv" > "$work/datapath.md"
if [ "$update" ]; then
	cp "$work/datapath.md" docs/reference/datapath.md
elif ! diff docs/reference/datapath.md "$work/datapath.md"; then
	echo "docs/reference/datapath.md differs from these results; if this is intended, run \`make datapath\`" >&2
	exit 1
fi
