package ipam_test

import (
	"context"
	"testing"
	"testing/synctest"

	"spiderpool.dev/spiderpool/internal/ipam/alloc"
	"spiderpool.dev/spiderpool/internal/ipam/ipamtest"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/wire"
)

// gatedStore holds each write until the gate is closed.
type gatedStore struct {
	*ipamtest.Store
	gate chan struct{}
}

func (s *gatedStore) Put(ctx context.Context, b lease.Block) (string, error) {
	<-s.gate
	return s.Store.Put(ctx, b)
}

// The plugin of the first ADD was killed, and the runtime has begun another one.
func TestAbandonedTwinKeepsAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := newFakeCluster(t, "a")
		gate := make(chan struct{})
		cluster.Configure = func(c *alloc.Config) { c.Blocks = &gatedStore{cluster.Store, gate} }
		s := cluster.Service("n1")
		var reply wire.AddReply
		var err, abandoned error
		go func() { reply, err = s.Add(context.Background(), wire.AddRequest{Attachment: attachment("a")}) }()
		synctest.Wait()
		killed, kill := context.WithCancel(context.Background())
		kill()
		go func() { _, abandoned = s.Add(killed, wire.AddRequest{Attachment: attachment("a")}) }()
		synctest.Wait()
		close(gate)
		synctest.Wait()
		if err != nil || abandoned == nil {
			t.Fatalf("the ADD failed: %v; the abandoned one: %v", err, abandoned)
		}
		addr := reply.Addresses[0].Prefix.Addr()
		if l := held(t, cluster.Store)[addr]; l.ContainerID != "sandbox-a" {
			t.Errorf("an ADD gave %s, and its lease is %+v", addr, l)
		}
	})
}
