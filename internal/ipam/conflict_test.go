package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/ipam/alloc"
	"spiderpool.dev/spiderpool/internal/ipam/ipamtest"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/wire"
)

// conflicting is a pod on a network where other machines answer for each address.
type conflicting struct {
	*testing.T
	cluster *ipamtest.FakeCluster
	sandbox int
}

func newConflicting(t *testing.T, ips string, nodes ...string) *conflicting {
	cluster := newFakeCluster(t)
	cluster.SetPool(rangePool(t, "p", "10.0.0.0/16", ips), true)
	for _, node := range nodes {
		cluster.SetPod(ipamtest.FakePod{Pod: ipam.Pod{PodKey: lease.PodKey{Namespace: "default", Name: node}, UID: "uid-" + node}, Node: node})
	}
	return &conflicting{T: t, cluster: cluster}
}

// conflict runs ADD on the node, reports that a machine uses the address, and runs DEL.
func (c *conflicting) conflict(node, mac string, control netip.Addr) error {
	c.Helper()
	c.sandbox++
	at := wire.Attachment{ContainerID: fmt.Sprint("c", c.sandbox), Interface: "eth0", PodNamespace: "default", PodName: node, PodUID: "uid-" + node}
	s := c.cluster.Service(node)
	reply, err := s.Add(c.Context(), wire.AddRequest{Attachment: at})
	if err != nil {
		c.Fatal(err)
	}
	err = s.Conflict(c.Context(), wire.ConflictRequest{Attachment: at, Address: reply.Addresses[0].Prefix.Addr(), MAC: mac, Control: control})
	if err := s.Delete(c.Context(), wire.DeleteRequest{Attachment: at}); err != nil {
		c.Fatal(err)
	}
	return err
}

func (c *conflicting) quarantined() (n int) {
	for _, b := range c.cluster.Store.All() {
		for _, l := range b.Leases {
			if l.State == lease.Quarantined {
				n++
			}
		}
	}
	return n
}

// wantRefused checks that a report was refused with a way out and an event of the node.
func (c *conflicting) wantRefused(err error, reason string) {
	c.Helper()
	var failure *ipam.Error
	if !errors.As(err, &failure) || failure.Kind != ipam.Unavailable || !strings.Contains(failure.Error(), reason) {
		c.Errorf("got %v, want a refusal with %q", err, reason)
	}
	events := strings.Join(c.cluster.TakeEvents(), "\n")
	if !strings.Contains(events, "Warning NetworkNotTrusted") || !strings.Contains(events, reason) {
		c.Errorf("events: %s", events)
	}
}

func TestAnswerForControlQuarantinesNothing(t *testing.T) {
	c := newConflicting(t, "10.0.1.0-10.0.1.255", "n1")
	err := c.conflict("n1", "02:00:00:00:00:01", netip.MustParseAddr("203.0.113.7"))
	c.wantRefused(err, "203.0.113.7")
	if n := c.quarantined(); n != 0 {
		t.Errorf("%d addresses are in quarantine", n)
	}
}

func TestOneMachineQuarantinesTwoAddresses(t *testing.T) {
	c := newConflicting(t, "10.0.1.0-10.0.1.255", "n1")
	for i := range 5 {
		if err := c.conflict("n1", "02:00:00:00:00:01", netip.Addr{}); i < 2 && err != nil {
			t.Errorf("conflict %d: %v", i, err)
		} else if i >= 2 {
			c.wantRefused(err, "hardware address 02:00:00:00:00:01 answers for")
		}
	}
	if n := c.quarantined(); n != 2 {
		t.Errorf("%d addresses are in quarantine", n)
	}
	c.cluster.Advance(time.Hour)
	if err := c.conflict("n1", "02:00:00:00:00:01", netip.Addr{}); err != nil {
		t.Errorf("an hour later: %v", err)
	}
}

func TestOneNodeQuarantinesEightAddresses(t *testing.T) {
	c := newConflicting(t, "10.0.1.0-10.0.1.255", "n1", "n2")
	for i := range 10 {
		if err := c.conflict("n1", fmt.Sprintf("02:00:00:00:00:%02x", i), netip.Addr{}); i < 8 && err != nil {
			t.Errorf("conflict %d: %v", i, err)
		} else if i >= 8 {
			c.wantRefused(err, "node n1 has seen conflicts of 8 addresses")
		}
	}
	if err := c.conflict("n2", "02:00:00:00:01:00", netip.Addr{}); err != nil {
		t.Errorf("on the other node: %v", err)
	}
	if n := c.quarantined(); n != 9 {
		t.Errorf("%d addresses are in quarantine", n)
	}
}

// Other nodes may have filled the quarantine of the pool already.
func TestUnreadableBlocksQuarantineNothing(t *testing.T) {
	c := newConflicting(t, "10.0.1.0-10.0.1.255", "n1")
	c.cluster.Service("n1")
	c.cluster.Store.Before = func(operation string, _ netip.Addr) error {
		if operation == "list" {
			return ipamtest.ErrAway
		}
		return nil
	}
	err := c.conflict("n1", "02:00:00:00:00:01", netip.Addr{})
	c.cluster.Store.Before = nil
	var failure *ipam.Error
	if n := c.quarantined(); n != 0 || !errors.As(err, &failure) || failure.Kind != ipam.Unavailable {
		t.Errorf("got %v, and %d addresses are in quarantine", err, n)
	}
}

func TestPoolKeepsMostAddresses(t *testing.T) {
	for ips, most := range map[string]int{"10.0.1.0-10.0.1.31": 4, "10.0.1.0-10.0.1.3": 1, "10.0.0.0-10.0.15.255": 32} {
		t.Run(ips, func(t *testing.T) {
			var nodes []string
			for i := range 6 {
				nodes = append(nodes, fmt.Sprint("n", i))
			}
			c := newConflicting(t, ips, nodes...)
			for i := range most + 3 {
				err := c.conflict(nodes[i%len(nodes)], fmt.Sprintf("02:00:00:00:00:%02x", i), netip.Addr{})
				if i < most && err != nil {
					t.Fatalf("conflict %d: %v", i, err)
				} else if i >= most {
					c.wantRefused(err, "pool p has")
				}
			}
			if n := c.quarantined(); n != most {
				t.Errorf("%d addresses are in quarantine, want %d", n, most)
			}
		})
	}
}

// inQuarantine returns the number of addresses that no pod gets now.
func (c *conflicting) inQuarantine() (n int) {
	for _, b := range c.cluster.Store.All() {
		for _, l := range b.Leases {
			if l.State == lease.Quarantined && c.cluster.Now().Before(l.Until) {
				n++
			}
		}
	}
	return n
}

// A liar with a new hardware address each time answers for each new pod, on all nodes.
func TestDayOfLiesCostsAnEighth(t *testing.T) {
	var nodes []string
	for i := range 12 {
		nodes = append(nodes, fmt.Sprint("n", i))
	}
	c := newConflicting(t, "10.0.1.0-10.0.1.255", nodes...)
	most, lies, quarantines := 0, 0, 0
	for range 24 * 3 {
		for _, node := range nodes {
			lies++
			if c.conflict(node, fmt.Sprintf("02:00:00:00:%02x:%02x", lies>>8, lies&0xff), netip.Addr{}) == nil {
				quarantines++
			}
		}
		most = max(most, c.inQuarantine())
		c.cluster.TakeEvents()
		c.cluster.Advance(20 * time.Minute)
	}
	t.Logf("%d lies, %d quarantines; at most %d of 256 addresses at a time", lies, quarantines, most)
	if most > 32 || quarantines < 24*32-32 {
		t.Errorf("want at most an eighth of the pool at a time, but that each hour")
	}
}

// meetingStore lets all nodes read a region before one of them goes on, once each.
type meetingStore struct {
	*ipamtest.Store
	absent  atomic.Int64 // nodes that have not read yet
	meeting sync.WaitGroup
}

func (s *meetingStore) InRegion(ctx context.Context, region netip.Prefix) ([]lease.Block, error) {
	blocks, err := s.Store.InRegion(ctx, region)
	if s.absent.Add(-1) >= 0 {
		s.meeting.Done()
		s.meeting.Wait()
	}
	return blocks, err
}

func TestConflictsOnAllNodesCostAnEighth(t *testing.T) {
	const nodes = 100
	c := newConflicting(t, "10.0.1.0-10.0.1.255")
	store := &meetingStore{Store: c.cluster.Store}
	c.cluster.Configure = func(config *alloc.Config) { config.Blocks = store }
	reports := make([]func() error, nodes)
	for i := range reports {
		node := fmt.Sprint("n", i)
		c.cluster.SetPod(ipamtest.FakePod{Pod: ipam.Pod{PodKey: lease.PodKey{Namespace: "default", Name: node}, UID: "uid-" + node}, Node: node})
		s := c.cluster.Service(node)
		addr := mustAdd(t, s, wire.AddRequest{Attachment: attachment(node)}).Addresses[0].Prefix.Addr()
		reports[i] = func() error {
			return s.Conflict(t.Context(), wire.ConflictRequest{Attachment: attachment(node), Address: addr, MAC: "02:00:00:00:00:01"})
		}
	}
	store.meeting.Add(nodes)
	store.absent.Store(nodes)
	var wg sync.WaitGroup
	for _, report := range reports {
		wg.Go(func() { _ = report() }) // an error means: no quarantine
	}
	wg.Wait()
	if n := c.inQuarantine(); n > 32 {
		t.Errorf("%d of 256 addresses are in quarantine, want at most an eighth", n)
	}
}
