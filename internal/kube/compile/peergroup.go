package compile

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/observe"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/service"
)

// PeerSlice is the content of a SpiderPeerGroup.
type PeerSlice struct {
	// Group is the name of the group (policy.Group.Name).
	Group string
	// Index is 0 for the first object of the group, which has Slices and Selects.
	Index   int
	Slices  int
	Selects string
	Members []policy.Member
}

// MaxPeers is the maximum number of members in a SpiderPeerGroup.
const MaxPeers = 1000

// maxSelects is the maximum length of spec.selects. The text may contain letters of several bytes.
const maxSelects = 1024

// PeerGroupName returns the name of an object of a group, e.g. "3f2c…" for index 0, and "3f2c…-1" for index 1.
func PeerGroupName(group string, index int) string {
	if index == 0 {
		return group
	}
	return group + "-" + strconv.Itoa(index)
}

// ParsePeerGroupName is the inverse of PeerGroupName. It returns false for other names.
func ParsePeerGroupName(name string) (group string, index int, ok bool) {
	group, number, tail := strings.Cut(name, "-")
	if !tail {
		return group, 0, true
	}
	index, err := strconv.Atoi(number)
	return group, index, err == nil && index > 0 && PeerGroupName(group, index) == name
}

// PeerGroupLabel is the label selector of the objects of a group but the first.
func PeerGroupLabel(group string) string { return names.LabelPeerGroup + "=" + group }

func compareMembers(a, b policy.Member) int {
	return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port), a.Addr.Compare(b.Addr))
}

// PeerGroupObject returns the SpiderPeerGroup with this content.
func PeerGroupObject(s PeerSlice) *v2beta1.SpiderPeerGroup {
	object := &v2beta1.SpiderPeerGroup{
		TypeMeta:   metav1.TypeMeta{APIVersion: v2beta1.GroupVersion.String(), Kind: "SpiderPeerGroup"},
		ObjectMeta: metav1.ObjectMeta{Name: PeerGroupName(s.Group, s.Index)},
	}
	if s.Index == 0 {
		object.Spec.Slices, object.Spec.Selects = int32(s.Slices), observe.Truncate(s.Selects, maxSelects)
	} else {
		object.Labels = map[string]string{names.LabelPeerGroup: s.Group}
	}
	for _, m := range slices.SortedFunc(slices.Values(s.Members), compareMembers) {
		ips := &object.Spec.IPs
		if m.Port != 0 {
			ports := &object.Spec.Ports
			last := len(*ports) - 1
			if last < 0 || (*ports)[last].Protocol != m.Protocol.String() || (*ports)[last].Port != int32(m.Port) {
				*ports = append(*ports, v2beta1.PeerPort{Protocol: m.Protocol.String(), Port: int32(m.Port)})
				last++
			}
			ips = &(*ports)[last].IPs
		}
		*ips = append(*ips, m.Addr.String())
	}
	return object
}

// PeerGroup returns the content of a SpiderPeerGroup. It leaves invalid entries out, so that they allow nothing. It
// returns false if the name is none of ours.
func PeerGroup(object *v2beta1.SpiderPeerGroup) (PeerSlice, bool) {
	group, index, ok := ParsePeerGroupName(object.Name)
	s := PeerSlice{Group: group, Index: index, Slices: int(object.Spec.Slices), Selects: object.Spec.Selects}
	s.addMembers(object.Spec.IPs, 0, 0)
	for _, port := range object.Spec.Ports {
		protocol, known := peerProtocols[port.Protocol]
		if known && port.Port > 0 && port.Port <= math.MaxUint16 {
			s.addMembers(port.IPs, protocol, uint16(port.Port))
		}
	}
	return s, ok
}

var peerProtocols = map[string]service.Protocol{
	service.TCP.String(): service.TCP, service.UDP.String(): service.UDP, service.SCTP.String(): service.SCTP,
}

func (s *PeerSlice) addMembers(ips []string, protocol service.Protocol, port uint16) {
	for _, text := range ips {
		if addr, err := netip.ParseAddr(text); err == nil && addr == addr.Unmap().WithZone("") {
			s.Members = append(s.Members, policy.Member{Addr: addr, Protocol: protocol, Port: port})
		}
	}
}
