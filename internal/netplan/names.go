package netplan

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"strings"
)

// HostVethPrefix is the name prefix of the node's ends of all pods' veth pairs.
const HostVethPrefix = "spv"

// IsHostVeth reports whether a link of a node is named like the end of a pair.
func IsHostVeth(name string) bool { return strings.HasPrefix(name, HostVethPrefix) }

// PodVeth is the name of the pod's end.
const PodVeth = "veth0"

// The next hops of PodVeth are labels for the hardware address of the host's end: no
// interface has these addresses, and permanent neighbors resolve them. They are in
// the reserved part of 169.254.0.0/16 (RFC 3927) and in fe80::/64.
var (
	vethGateway4 = netip.MustParseAddr("169.254.0.1")
	vethGateway6 = netip.MustParseAddr("fe80::1")
)

// VethPair names the veth pair between a pod and its node.
type VethPair struct {
	Host            string // name of the host's end
	HostMAC, PodMAC MAC
}

// VethPairOf derives the name and the hardware addresses from the container ID, so
// DEL finds the pair of ADD without any stored state. The name contains the first
// 12 digits of a 64-digit hexadecimal ID, as shown by crictl, or a digest of any
// other ID.
func VethPairOf(containerID string) VethPair {
	sum := sha256.Sum256([]byte(containerID))
	short := hex.EncodeToString(sum[:6])
	if len(containerID) == 64 && strings.Trim(containerID, "0123456789abcdef") == "" {
		short = containerID[:12]
	}
	mac := func(b []byte) (m MAC) {
		copy(m[:], b)
		m[0] = m[0]&^0x01 | 0x02 // unicast, locally administered
		return m
	}
	return VethPair{Host: HostVethPrefix + short, HostMAC: mac(sum[6:12]), PodMAC: mac(sum[12:18])}
}

// MACWithPrefix returns the hardware address for podMACPrefix: the two bytes of the
// prefix, e.g. "0a:1b", and the last four bytes of the address.
func MACWithPrefix(prefix string, a netip.Addr) (MAC, *FieldError) {
	m, err := parseMAC(prefix + ":00:00:00:00")
	if err != nil || len(prefix) != len("0a:1b") {
		return MAC{}, &FieldError{"podMACPrefix", prefix, `use two hexadecimal bytes, e.g. "0a:1b"`}
	}
	if m[0]&0x01 != 0 {
		return MAC{}, &FieldError{"podMACPrefix", prefix, `the first byte is odd, which makes a multicast address; use an even one, e.g. "0a:1b"`}
	}
	b := a.AsSlice()
	copy(m[2:], b[len(b)-4:])
	return m, nil
}
