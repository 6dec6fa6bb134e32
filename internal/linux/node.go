package linux

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/netplan"
)

// EnsureNode makes the missing items of netplan.NodeState, the state shared by all
// pods of the node, and returns the changes. The items are independent: a failure
// does not undo the others.
func (n *Namespace) EnsureNode(hostRuleTable int, families []inet.Family) (netplan.Changes, error) {
	changes, err := n.CompareNode(hostRuleTable, families)
	if err != nil {
		return nil, err
	}
	return changes, n.ApplyEach(changes)
}

// CompareNode returns the changes that EnsureNode would make.
func (n *Namespace) CompareNode(hostRuleTable int, families []inet.Family) (netplan.Changes, error) {
	var acceptRA map[string]int
	if slices.Contains(families, inet.IPv6) {
		forwards, err := n.Sysctl("net/ipv6/conf/all/forwarding")
		if err != nil {
			return nil, err
		}
		if forwards != "1" {
			if acceptRA, err = n.AcceptRA(); err != nil {
				return nil, err
			}
		}
	}
	want := netplan.NodeState(hostRuleTable, families, acceptRA)
	have, err := n.ReadRelated(want)
	if err != nil {
		return nil, err
	}
	return netplan.Diff(have, want, func(netplan.Item) bool { return false }), nil
}

// Facts collects the facts for the preflight. It tries each link kind in a new
// namespace, so that the kernel also loads the modules.
func (n *Namespace) Facts(kinds ...string) (netplan.NodeFacts, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return netplan.NodeFacts{}, fmt.Errorf("read the kernel's release: %w", err)
	}
	facts := netplan.NodeFacts{Kernel: unix.ByteSliceToString(u.Release[:]), Sysctls: map[string]string{}}
	st, err := n.readSysctls(netplan.PreflightPaths())
	if err != nil {
		return facts, err
	}
	for _, it := range st {
		s := it.(netplan.Sysctl)
		facts.Sysctls[s.Path] = s.Value
	}
	if facts.ForwardDrops, err = n.forwardDrops(); err != nil {
		return facts, err
	}
	facts.Kinds, err = tryKinds(kinds)
	return facts, err
}

// forwardDrops returns the names of the nftables chains with hook forward and policy
// drop, and none on a kernel without nftables. It does not see chains of legacy
// iptables.
func (n *Namespace) forwardDrops() ([]string, error) {
	var out []string
	err := n.withNFT(func(c *nftables.Conn) error {
		chains, err := c.ListChains()
		for _, chain := range chains {
			forwards := chain.Hooknum != nil && *chain.Hooknum == *nftables.ChainHookForward
			if forwards && chain.Policy != nil && *chain.Policy == nftables.ChainPolicyDrop && nftFamilies[chain.Table.Family] != "" {
				out = append(out, nftFamilies[chain.Table.Family]+" "+chain.Table.Name+" "+chain.Name)
			}
		}
		return err
	})
	if lacksNFT(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the nftables chains of %s: %w", n.path, err)
	}
	return out, nil
}

// nftFamilies are the nftables families with forwarded IP packets.
var nftFamilies = map[nftables.TableFamily]string{
	nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyINet: "inet",
}

// inTrial runs f in a temporary namespace with a veth pair, parent and peer.
func inTrial(f func(trial *Namespace, parent netlink.Link) error) error {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open the thread's network namespace: %w", err)
	}
	defer home.Close()
	made, err := netns.New()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("make a network namespace: %w", err)
	}
	if err := netns.Set(home); err != nil {
		_ = made.Close()
		return fmt.Errorf("go back to the network namespace: %w", err) // the thread stays locked and ends
	}
	runtime.UnlockOSThread()
	nl, err := netlink.NewHandleAt(made, unix.NETLINK_ROUTE)
	if err != nil {
		_ = made.Close()
		return err
	}
	trial := &Namespace{path: "a temporary namespace", sysctls: "/proc/sys", ns: made, nl: nl}
	defer trial.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "parent"
	pair := netlink.NewVeth(attrs)
	pair.PeerName = "peer"
	if err := nl.LinkAdd(pair); err != nil {
		return fmt.Errorf("make a veth pair: %w", err)
	}
	parent, err := nl.LinkByName("parent")
	if err != nil {
		return err
	}
	return f(trial, parent)
}

// tryKinds makes a link of each kind in a temporary namespace. The result lacks a
// kind if its trial failed for another reason, given in the error.
func tryKinds(kinds []string) (map[string]bool, error) {
	if len(kinds) == 0 {
		return nil, nil
	}
	known := map[string]bool{}
	err := inTrial(func(trial *Namespace, parent netlink.Link) error {
		var errs []error
		for _, kind := range kinds {
			attrs := netlink.NewLinkAttrs()
			attrs.Name, attrs.ParentIndex = "trial", parent.Attrs().Index
			err := trial.nl.LinkAdd(linkOf(kind, attrs))
			if err == nil || errors.Is(err, unix.EOPNOTSUPP) {
				known[kind] = err == nil
			} else {
				errs = append(errs, fmt.Errorf("try a link of kind %s: %w", kind, err))
			}
			if err != nil {
				continue
			}
			if err := trial.nl.LinkDel(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: "trial"}}); err != nil {
				errs = append(errs, fmt.Errorf("remove the trial %s: %w", kind, err))
			}
		}
		return errors.Join(errs...)
	})
	return known, err
}

// TryBandwidth limits the bandwidth of a link in a temporary namespace, so that the
// kernel also loads the modules. It returns the reason if the kernel cannot.
func TryBandwidth() error {
	return inTrial(func(trial *Namespace, parent netlink.Link) error {
		limit := netplan.Limit{Dev: parent.Attrs().Name, Rates: netplan.Rates{Ingress: 1_000_000, Egress: 1_000_000}}
		links := netplan.State{netplan.Link{Name: limit.Dev, MTU: parent.Attrs().MTU}}
		return trial.Apply(netplan.Diff(nil, limit.Shape(links), nil), nil)
	})
}

func linkOf(kind string, attrs netlink.LinkAttrs) netlink.Link {
	switch kind {
	case "ipvlan":
		return &netlink.IPVlan{LinkAttrs: attrs, Mode: netlink.IPVLAN_MODE_L2}
	case "macvlan":
		return &netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}
	case "vlan":
		return &netlink.Vlan{LinkAttrs: attrs, VlanId: 1}
	case "bond":
		attrs.ParentIndex = 0
		return netlink.NewLinkBond(attrs)
	default:
		return &netlink.GenericLink{LinkAttrs: attrs, LinkType: kind}
	}
}

// PodFamilies returns the IP families of our routes in the table, and so those of
// the node's pods.
func (n *Namespace) PodFamilies(table int) ([]inet.Family, error) {
	filter := &netlink.Route{Table: table, Protocol: netplan.Protocol}
	var out []inet.Family
	for number, family := range map[int]inet.Family{netlink.FAMILY_V4: inet.IPv4, netlink.FAMILY_V6: inet.IPv6} {
		routes, err := dump(func() ([]netlink.Route, error) {
			return n.nl.RouteListFiltered(number, filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
		})
		if err != nil {
			return nil, fmt.Errorf("list the routes of table %d in %s: %w", table, n.path, err)
		}
		if len(routes) > 0 {
			out = append(out, family)
		}
	}
	return out, nil
}

// Pairs returns the names of the node's ends of the pods' veth pairs.
func (n *Namespace) Pairs() ([]string, error) {
	links, err := dump(n.nl.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list the links of %s: %w", n.path, err)
	}
	var out []string
	for _, l := range links {
		if l.Type() == "veth" && strings.HasPrefix(l.Attrs().Name, netplan.HostVethPrefix) {
			out = append(out, l.Attrs().Name)
		}
	}
	return out, nil
}
