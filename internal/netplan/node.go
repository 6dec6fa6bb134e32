package netplan

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"spiderpool.dev/spiderpool/internal/inet"
)

const (
	forwarding4 = "net/ipv4/ip_forward"
	forwarding6 = "net/ipv6/conf/all/forwarding"
)

// NodeState plans the state shared by all pods of a node, for the IP families of
// the pods: rules to the table of pod routes, forwarding, and masquerading of
// packets from and to the pods' veth pairs.
//
// acceptRA is net.ipv6.conf.*.accept_ra per interface, of a node not yet forwarding
// IPv6. A forwarding kernel ignores router advertisements on an interface with
// value 1, and the node's own default route may depend on them; so 1 becomes 2.
func NodeState(hostRuleTable int, families []inet.Family, acceptRA map[string]int) State {
	var st State
	for _, f := range families {
		forwarding := forwarding4
		if f == inet.IPv6 {
			forwarding = forwarding6
			for dev, v := range acceptRA {
				if v == 1 {
					st = append(st, Sysctl{Path: "net/ipv6/conf/" + dev + "/accept_ra", Value: "2"})
				}
			}
		}
		st = append(st,
			Sysctl{Path: forwarding, Value: "1"},
			Rule{Family: f, Priority: hostRulePriority, Table: hostRuleTable, Proto: Protocol},
			Masquerade{Family: f, Links: HostVethPrefix})
	}
	return st.sorted()
}

// MinSysctl is a sysctl of a node with a minimum.
type MinSysctl struct {
	Path  string
	Least int
	Why   string
}

// MinSysctls are limits with a default too low for the datapath. All namespaces of
// a kernel share the limits of the neighbor tables, and on a layer-2 network every
// pod has its own entries for its peers.
var MinSysctls = []MinSysctl{
	{"net/ipv4/neigh/default/gc_thresh1", 4096, manyNeighbors},
	{"net/ipv4/neigh/default/gc_thresh2", 16384, manyNeighbors},
	{"net/ipv4/neigh/default/gc_thresh3", 32768, manyNeighbors},
	{"net/ipv6/neigh/default/gc_thresh1", 4096, manyNeighbors},
	{"net/ipv6/neigh/default/gc_thresh2", 16384, manyNeighbors},
	{"net/ipv6/neigh/default/gc_thresh3", 32768, manyNeighbors},
}

const manyNeighbors = "all pods of a node share one neighbor table; when it is full, further peers are unreachable"

// NodeFacts are the input of a preflight.
type NodeFacts struct {
	// Kernel is the release, e.g. "6.1.0-18-amd64".
	Kernel string
	// Sysctls maps paths to values; paths unknown to the kernel are missing.
	Sysctls map[string]string
	// Kinds maps each tried link kind to whether the kernel supports it.
	Kinds map[string]bool
	// NoBandwidth is the reason why the kernel cannot limit the bandwidth of pods, "" if
	// it can or if this is unknown.
	NoBandwidth string
	// NoAntiSpoof is the same for the setting antiSpoof.
	NoAntiSpoof string
	// Masters are the master interfaces of pods.
	Masters []Master
	// ForwardDrops are the nftables chains with hook forward and policy drop, e.g.
	// "ip filter FORWARD".
	ForwardDrops []string
}

// Master is a master interface named in a network attachment.
type Master struct {
	Attachment string
	Name       string
	// MTU configured for the pods' interfaces; 0 means the MTU of the master.
	MTU int
	// HasMTU is the MTU of the master; 0 if the interface does not exist.
	HasMTU int
}

// Finding is the result of one check of a node.
type Finding struct {
	What string `json:"what"`
	Is   string `json:"is"`
	Want string `json:"want"`
	// Why is the effect of a failed check.
	Why string `json:"why"`
	// OK reports whether the node passes.
	OK bool `json:"ok"`
}

func (f Finding) String() string {
	return fmt.Sprintf("%s is %s, want %s: %s", f.What, f.Is, f.Want, f.Why)
}

// disableIPv6 is 1 on a node with IPv6 support, but disabled.
const disableIPv6 = "net/ipv6/conf/all/disable_ipv6"

// PreflightPaths returns the sysctls read by Preflight and RaiseSysctls.
func PreflightPaths() []string {
	paths := []string{disableIPv6}
	for _, f := range MinSysctls {
		paths = append(paths, f.Path)
	}
	return paths
}

// LinkKinds are the link kinds used by network attachments.
var LinkKinds = []string{"ipvlan", "macvlan", "vlan", "bond"}

// Preflight checks the requirements of underlay pods on a node. ipv6 reports whether
// pods get IPv6 addresses. Checks without a known fact are left out.
func Preflight(facts NodeFacts, ipv6 bool) []Finding {
	var out []Finding
	if ok, known := masquerading.In(facts.Kernel); known {
		out = append(out, Finding{"kernel", facts.Kernel, strings.TrimPrefix(masquerading.Version(), "Linux ") + " or newer", masquerading.Without, ok})
	}
	for _, k := range slices.Sorted(maps.Keys(facts.Kinds)) {
		is := "not supported"
		if facts.Kinds[k] {
			is = "supported"
		}
		out = append(out, Finding{"link kind " + k, is, "supported",
			"network attachments of this kind fail; load or build the kernel module", facts.Kinds[k]})
	}
	if facts.NoBandwidth != "" {
		out = append(out, Finding{"bandwidth of pods", "without limits", "limited by annotations",
			"pods that ask for a limit do not start here; " + facts.NoBandwidth, false})
	}
	if facts.NoAntiSpoof != "" {
		out = append(out, Finding{"antiSpoof of the coordinator", "on", "off, or " + spoofing.Version() + " or newer",
			"pods do not start here; " + facts.NoAntiSpoof, false})
	}
	if v, ok := facts.Sysctls[disableIPv6]; ok && ipv6 {
		out = append(out, Finding{"sysctl " + disableIPv6, v, "0", "pods get IPv6 addresses, but IPv6 is disabled on the node", v == "0"})
	}
	for _, p := range facts.Masters {
		why := "it is the master of network attachment " + p.Attachment
		if p.HasMTU == 0 {
			out = append(out, Finding{"interface " + p.Name, "missing", "on the node", why, false})
			continue
		}
		out = append(out, Finding{"MTU of interface " + p.Name, strconv.Itoa(p.HasMTU), fmt.Sprintf("%d or more", p.MTU), why, p.HasMTU >= p.MTU})
	}
	for _, chain := range facts.ForwardDrops {
		out = append(out, Finding{"policy of chain " + chain, "drop", "accept, or a rule that accepts " + HostVethPrefix + "*",
			"the node forwards the pods' packets to services", false})
	}
	for _, f := range MinSysctls {
		if v, err := strconv.Atoi(facts.Sysctls[f.Path]); err == nil {
			out = append(out, Finding{"sysctl " + f.Path, strconv.Itoa(v), fmt.Sprintf("%d or more", f.Least), f.Why, v >= f.Least})
		}
	}
	return out
}

// Failed returns the findings of failed checks.
func Failed(findings []Finding) []Finding {
	return slices.DeleteFunc(slices.Clone(findings), func(f Finding) bool { return f.OK })
}

// RaiseSysctls plans the sysctls below their minimum.
func RaiseSysctls(sysctls map[string]string) State {
	var st State
	for _, f := range MinSysctls {
		if v, err := strconv.Atoi(sysctls[f.Path]); err == nil && v < f.Least {
			st = append(st, Sysctl{Path: f.Path, Value: strconv.Itoa(f.Least)})
		}
	}
	return st
}

// kernelVersion returns the first two numbers of a release, e.g. 6 and 1.
func kernelVersion(release string) ([]int, bool) {
	parts := strings.SplitN(release, ".", 3)
	if len(parts) < 2 {
		return nil, false
	}
	major, err1 := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(strings.TrimRight(parts[1], "-+abcdefghijklmnopqrstuvwxyz"))
	return []int{major, minor}, err1 == nil && err2 == nil
}
