package packetfilter

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/flow"
	"spiderpool.dev/spiderpool/internal/linux"
)

// errFrames means that the kernel cannot judge what packet sockets send.
var errFrames = errors.New("the kernel cannot judge what packet sockets send: egress policies need Linux 5.16 or later with CONFIG_NETFILTER_EGRESS " +
	"and CONFIG_IP_ROUTE_CLASSID to hold against pods with the capability NET_RAW")

// TryPacketSockets returns an error if policies do not hold against packet sockets, which need the capability NET_RAW.
func TryPacketSockets() error { return try((*socket).tryFrames) }

// errOwner means that the kernel does not protect tables.
var errOwner = errors.New("the kernel has no owned tables of nftables (flags owner and persist, Linux 6.9): a pod with the capability NET_ADMIN can remove its policies")

// TryOwnership returns an error if policies do not hold against pods with the capability NET_ADMIN.
func TryOwnership() error {
	return try(func(s *socket) error {
		t, err := s.newTable(nftables.TableFamilyINet)
		if err != nil {
			return err
		}
		s.conn.DelTable(t)
		if err := s.flush(); err != nil {
			return err
		}
		if !s.owns {
			return errOwner
		}
		return nil
	})
}

// try runs f in the namespace of the calling thread.
func try(f func(*socket) error) error {
	ns, err := linux.Current()
	if err != nil {
		return err
	}
	defer ns.Close()
	s, err := openSocket(ns)
	if err != nil {
		return err
	}
	defer func() { _ = s.close() }()
	return f(s)
}

// LogDrops has the rules of later Applies copy some dropped packets to the group flow.LogGroup of nflog. A kernel without
// it fails, and the rules stay as they are.
func (f *Filter) LogDrops() error { return f.socket.logDrops() }

// LogDrops does the same for the packets that the node drops.
func (n *Node) LogDrops() error { return n.socket.logDrops() }

func (s *socket) logDrops() error {
	for _, family := range []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyNetdev} {
		t := s.conn.AddTable(&nftables.Table{Name: tablePrefix + "try-log", Family: family})
		c := s.conn.AddChain(&nftables.Chain{Name: "try", Table: t})
		s.conn.AddRule(&nftables.Rule{Table: t, Chain: c, Exprs: linux.LogRule(flow.Logged{Reason: flow.ByPolicy})})
		s.conn.DelTable(t)
		if err := s.flush(); err != nil {
			return fmt.Errorf("the kernel cannot copy dropped packets (CONFIG_NFT_LOG, CONFIG_NETFILTER_NETLINK_LOG): %w", err)
		}
	}
	s.logs = true
	return nil
}

// tryFrames makes the rule that the kernel may lack, and deletes it in the same transaction.
func (s *socket) tryFrames() error {
	if err := s.extend(); err != nil {
		return err
	}
	if _, err := s.conn.ListTables(); err != nil { // see linux.Namespace.withNFT
		return fmt.Errorf("the kernel has no nftables: %w", err)
	}
	t := s.conn.AddTable(&nftables.Table{Name: tablePrefix + "try", Family: nftables.TableFamilyNetdev})
	c := s.conn.AddChain(&nftables.Chain{
		Name: "try", Table: t, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookEgress, Priority: nftables.ChainPriorityFilter,
		Policy: &acceptByDefault, Device: "lo",
	})
	s.conn.AddRule(&nftables.Rule{Table: t, Chain: c, Exprs: []expr.Any{hasRoute, accept}})
	s.conn.DelTable(t)
	err := s.flush()
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EAFNOSUPPORT) {
		return fmt.Errorf("%w: %w", errFrames, err)
	}
	return err
}
