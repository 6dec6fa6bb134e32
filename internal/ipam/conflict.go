package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/wire"
)

// quarantine is how long an address is out of service after a foreign host answered
// for it. That gives the administrator time to notice; an address in use for longer
// belongs in a SpiderReservedIP.
const quarantine = lease.MaxQuarantine

// Limits of quarantine. Each pod with a raw socket can answer for every address, and so
// can a router with proxy ARP, so answers must not cost a pool its addresses (ADR 14).
const (
	maxByMAC    = 2  // conflicts of a node with one hardware address, in the time of a quarantine
	maxByNode   = 8  // conflicts of a node, in the time of a quarantine
	maxByPool   = 32 // addresses in quarantine of one pool, and at most
	poolShare   = 8  // the n-th part of it, but at least one
	maxPoolRead = 16 // regions of the pool that are read to count them
)

const wayOutOfConflicts = "check the network for proxy ARP and for a pod that answers for other addresses; if other hosts own them, add them to a SpiderReservedIP or to excludeIPs of the pool"

// Conflict puts an address of the attachment into quarantine because a foreign
// host uses it, and the next ADD gets another address. The error says why nothing was
// put into quarantine: the answers come from a network that is wrong, or are too many. If
// a former sandbox may still use the address, e.g. in a live migration, that host is no
// stranger: the address stays in service, and the error names the sandbox.
func (s *Service) Conflict(ctx context.Context, req wire.ConflictRequest) error {
	at := lease.Attachment{ContainerID: req.ContainerID, Interface: req.Interface}
	if former := s.Allocator.FormerOf(req.Address); len(former) > 0 {
		f := former[0]
		return &Error{Kind: Unavailable, Msg: fmt.Sprintf("another host answers for %s: sandbox %s of pod %s on node %s may still use the address", req.Address, f.ContainerID, f.Pod, f.Node)}
	}
	held := s.Allocator.Attached(at)
	i := slices.IndexFunc(held, func(l lease.Lease) bool { return l.Addr == req.Address })
	if i < 0 {
		return nil
	}
	if req.Control.IsValid() {
		return s.distrust(req, fmt.Sprintf("the host with hardware address %s answers for %s, too, an address that no host can have", req.MAC, req.Control))
	}
	reason := s.conflicts.add(s.Node, req.Address, req.MAC, s.Now())
	if reason == "" {
		var err error
		if reason, err = s.manyQuarantined(ctx, held[i].Pool, 0); err != nil {
			return notReady(err)
		}
	}
	if reason != "" {
		return s.distrust(req, reason)
	}
	done, err := s.Allocator.Quarantine(ctx, at, req.Address, req.MAC, quarantine)
	if err != nil {
		return notReady(err)
	}
	if !done {
		return nil
	}
	// All nodes hear a machine that answers for each address. So count again after the
	// write: of the nodes at work now, the last writer sees the addresses of all others.
	if reason, err = s.manyQuarantined(ctx, held[i].Pool, 1); err != nil || reason != "" {
		err = errors.Join(err, s.Allocator.EndQuarantine(ctx, req.Address))
	}
	if err != nil {
		return notReady(err)
	}
	if reason != "" {
		return s.distrust(req, reason)
	}
	s.Log.Warn("put an address into quarantine", "ip", req.Address, "mac", req.MAC,
		"pod", podOf(req.Attachment), "container", req.ContainerID, "interface", req.Interface)
	s.Events.AddressConflict(Pod{PodKey: podOf(req.Attachment), UID: req.PodUID},
		fmt.Sprintf("%s of interface %s is in use by the host with hardware address %s; it is not handed out for %s, and the pod gets another address",
			req.Address, req.Interface, req.MAC, quarantine))
	return nil
}

// distrust reports that an answer proves nothing. The ADD fails.
func (s *Service) distrust(req wire.ConflictRequest, reason string) error {
	s.Log.Warn("a conflict puts no address into quarantine", "ip", req.Address, "mac", req.MAC, "reason", reason,
		"pod", podOf(req.Attachment), "container", req.ContainerID, "interface", req.Interface)
	s.Events.NetworkNotTrusted(fmt.Sprintf("another host answers for %s of interface %s of pod %s, and %s; %s",
		req.Address, req.Interface, podOf(req.Attachment), reason, wayOutOfConflicts))
	return &Error{
		Kind:    Unavailable,
		Msg:     fmt.Sprintf("another host answers for %s on interface %s, and %s", req.Address, req.Interface, reason),
		Details: wayOutOfConflicts,
	}
}

// manyQuarantined returns why no more addresses of the pool go into quarantine, or "". Of
// those in quarantine, own are the caller's.
func (s *Service) manyQuarantined(ctx context.Context, pool string, own int64) (reason string, err error) {
	usage, err := s.Allocator.ReadUsage(ctx, pool, maxPoolRead)
	if most, others := max(1, min(maxByPool, usage.Total/poolShare)), usage.Quarantined-own; err == nil && others >= most {
		reason = fmt.Sprintf("pool %s has %d of %d addresses in quarantine already, and %d is the limit", pool, others, usage.Total, most)
	}
	return reason, err
}

// conflicts are the recent conflicts of this process, so that their number is limited.
// The zero value is empty.
type conflicts struct {
	mu     sync.Mutex
	recent []conflict // at most maxByNode
}

type conflict struct {
	addr netip.Addr
	mac  string
	at   time.Time
}

// add notes a conflict of the node, or returns why there are too many.
func (c *conflicts) add(node string, addr netip.Addr, mac string, now time.Time) (reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.recent = slices.DeleteFunc(c.recent, func(old conflict) bool { return now.Sub(old.at) >= quarantine || old.addr == addr })
	var same []netip.Addr
	for _, old := range c.recent {
		if old.mac == mac {
			same = append(same, old.addr)
		}
	}
	switch {
	case len(same) >= maxByMAC:
		return fmt.Sprintf("hardware address %s answers for %v, too", mac, same)
	case len(c.recent) >= maxByNode:
		return fmt.Sprintf("node %s has seen conflicts of %d addresses within %s", node, len(c.recent), quarantine)
	}
	c.recent = append(c.recent, conflict{addr, mac, now})
	return ""
}
