package netplan

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"strings"
)

// HostVethPrefix starts the name of every host end of a pod's veth pair.
const HostVethPrefix = "spv"

// IsHostVeth reports whether a link of a node has the name of a pair's end.
func IsHostVeth(name string) bool { return strings.HasPrefix(name, HostVethPrefix) }

// PodVeth is the name of the pod's end.
const PodVeth = "veth0"

// PodVeth's next hop has no address that anything would have to resolve: these
// are labels for the hardware address of the host's end, in the block of
// 169.254.0.0/16 that RFC 3927 reserves and in fe80::/64.
var (
	vethGateway4 = netip.MustParseAddr("169.254.0.1")
	vethGateway6 = netip.MustParseAddr("fe80::1")
)

// VethPair is the pair that joins a pod to its node.
type VethPair struct {
	Host            string // name of the host's end
	HostMAC, PodMAC MAC
}

// VethPairOf derives name and hardware addresses from the container ID, so that
// a plan needs to ask nobody and DEL finds what ADD made. The name holds the
// first 12 digits of an ID of the form that container runtimes use, as crictl
// shows them, and a digest of any other.
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

// MACWithPrefix is the hardware address of podMACPrefix: the two bytes of the
// prefix ("0a:1b") and the last four bytes of the address.
func MACWithPrefix(prefix string, a netip.Addr) (MAC, error) {
	m, err := ParseMAC(prefix + ":00:00:00:00")
	if err != nil || len(prefix) != len("0a:1b") {
		return MAC{}, &FieldError{Field: "podMACPrefix", Value: prefix, Reason: `want two bytes in hexadecimal, as "0a:1b"`}
	}
	if m[0]&0x01 != 0 {
		return MAC{}, &FieldError{Field: "podMACPrefix", Value: prefix, Reason: "the lowest bit of the first byte is set: that is a multicast address"}
	}
	b := a.AsSlice()
	copy(m[2:], b[len(b)-4:])
	return m, nil
}
