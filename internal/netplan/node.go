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

// NodeState plans what all pods of a node share, for the IP versions that pods
// have: the rules that lead to the pods' routes, forwarding, and the masquerading
// of what pods send through their veth pairs. acceptRA is
// net.ipv6.conf.*.accept_ra of each interface of a node that does not forward
// IPv6 yet: a kernel that forwards ignores router advertisements where it is 1,
// and the node's own default route may depend on them.
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

// MinSysctl is a sysctl of a node that must not be below a value.
type MinSysctl struct {
	Path  string
	Least int
	Why   string
}

// MinSysctls are the limits that the datapath needs to be higher than the kernel's
// defaults. The neighbor tables are one for all namespaces of a kernel: on a
// layer-2 network every pod has entries of its own for the peers it talks to.
var MinSysctls = []MinSysctl{
	{"net/ipv4/neigh/default/gc_thresh1", 4096, manyNeighbors},
	{"net/ipv4/neigh/default/gc_thresh2", 16384, manyNeighbors},
	{"net/ipv4/neigh/default/gc_thresh3", 32768, manyNeighbors},
	{"net/ipv6/neigh/default/gc_thresh1", 4096, manyNeighbors},
	{"net/ipv6/neigh/default/gc_thresh2", 16384, manyNeighbors},
	{"net/ipv6/neigh/default/gc_thresh3", 32768, manyNeighbors},
}

const manyNeighbors = "the pods of a node share one neighbor table, and what it has no room for is unreachable"

// NodeFacts are what a preflight looks at.
type NodeFacts struct {
	// Kernel is the release, as "6.1.0-18-amd64".
	Kernel string
	// Sysctls are values by path; a path that does not exist is missing.
	Sysctls map[string]string
	// Kinds are the kinds of links that were tried, and whether the kernel makes them.
	Kinds map[string]bool
	// Masters are the interfaces that pods' interfaces are made on.
	Masters []Master
	// ForwardDrops are the chains of nftables, as "ip filter FORWARD", that drop
	// what is forwarded unless one of their rules accepts it.
	ForwardDrops []string
}

// Master is an interface of a node that a network attachment names.
type Master struct {
	Attachment string
	Name       string
	// MTU that pods' interfaces are to have; 0 where they take the parent's.
	MTU int
	// HasMTU is what the interface has; 0 where there is no such interface.
	HasMTU int
}

// Finding is something about a node that underlay pods depend on.
type Finding struct {
	What string `json:"what"`
	Is   string `json:"is"`
	Want string `json:"want"`
	// Why that matters.
	Why string `json:"why"`
	// OK is whether the node has it.
	OK bool `json:"ok"`
}

func (f Finding) String() string {
	return fmt.Sprintf("%s is %s, want %s: %s", f.What, f.Is, f.Want, f.Why)
}

// disableIPv6 is 1 where a node has IPv6 and does not use it.
const disableIPv6 = "net/ipv6/conf/all/disable_ipv6"

// PreflightPaths are the sysctls that Preflight and Raise look at.
func PreflightPaths() []string {
	paths := []string{disableIPv6}
	for _, f := range MinSysctls {
		paths = append(paths, f.Path)
	}
	return paths
}

// LinkKinds are the kinds of links that attachments are made of.
var LinkKinds = []string{"ipvlan", "macvlan", "vlan", "bond"}

// Preflight looks at what a node needs for underlay pods; ipv6 says whether pods
// get IPv6 addresses. What is not known is left out.
func Preflight(facts NodeFacts, ipv6 bool) []Finding {
	var out []Finding
	if v, ok := kernelVersion(facts.Kernel); ok {
		out = append(out, Finding{"kernel", facts.Kernel, "5.7 or newer",
			"what pods send through their node cannot be masqueraded by input interface; let kube-proxy masquerade all (--masquerade-all)",
			slices.Compare(v, []int{5, 7}) >= 0})
	}
	for _, k := range slices.Sorted(maps.Keys(facts.Kinds)) {
		is := "unknown to the kernel"
		if facts.Kinds[k] {
			is = "known"
		}
		out = append(out, Finding{"link kind " + k, is, "known",
			"if any attachment is of this kind, it cannot be made: load or build the module", facts.Kinds[k]})
	}
	if v, ok := facts.Sysctls[disableIPv6]; ok && ipv6 {
		out = append(out, Finding{"sysctl " + disableIPv6, v, "0", "pods get IPv6 addresses, but the node does not speak IPv6", v == "0"})
	}
	for _, p := range facts.Masters {
		why := "pods' interfaces of network attachment " + p.Attachment + " are made on it"
		if p.HasMTU == 0 {
			out = append(out, Finding{"interface " + p.Name, "missing", "on the node", why, false})
			continue
		}
		out = append(out, Finding{"MTU of interface " + p.Name, strconv.Itoa(p.HasMTU), fmt.Sprintf("%d or more", p.MTU), why, p.HasMTU >= p.MTU})
	}
	for _, chain := range facts.ForwardDrops {
		out = append(out, Finding{"policy of chain " + chain, "drop", "accept, or a rule that accepts " + HostVethPrefix + "*",
			"what pods send to services is forwarded by their node", false})
	}
	for _, f := range MinSysctls {
		if v, err := strconv.Atoi(facts.Sysctls[f.Path]); err == nil {
			out = append(out, Finding{"sysctl " + f.Path, strconv.Itoa(v), fmt.Sprintf("%d or more", f.Least), f.Why, v >= f.Least})
		}
	}
	return out
}

// Failed returns those of the findings that the node lacks.
func Failed(findings []Finding) []Finding {
	return slices.DeleteFunc(slices.Clone(findings), func(f Finding) bool { return f.OK })
}

// Raise plans the sysctls that are below their floors.
func RaiseSysctls(sysctls map[string]string) State {
	var st State
	for _, f := range MinSysctls {
		if v, err := strconv.Atoi(sysctls[f.Path]); err == nil && v < f.Least {
			st = append(st, Sysctl{Path: f.Path, Value: strconv.Itoa(f.Least)})
		}
	}
	return st
}

// kernelVersion is the first two numbers of a release.
func kernelVersion(release string) ([]int, bool) {
	parts := strings.SplitN(release, ".", 3)
	if len(parts) < 2 {
		return nil, false
	}
	major, err1 := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(strings.TrimRight(parts[1], "-+abcdefghijklmnopqrstuvwxyz"))
	return []int{major, minor}, err1 == nil && err2 == nil
}
