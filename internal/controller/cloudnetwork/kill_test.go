package cloudnetwork

import (
	"context"
	"errors"
	"flag"
	"net/netip"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/inet"
)

// mortal is a process that dies after some writes to the API server and calls that change the cloud. After that, it reaches
// nothing.
type mortal struct {
	cloud.Provider
	mu    sync.Mutex
	steps int // left
	dead  bool
	lost  bool // the last step happens, but its answer is lost
}

var errDead = errors.New("the process is dead")

// step runs a step, unless the process is dead.
func (m *mortal) step(do func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return errDead
	}
	m.steps--
	err := do()
	if m.steps == 0 {
		if m.dead = true; m.lost {
			return errDead
		}
	}
	return err
}

func (m *mortal) Assign(ctx context.Context, a cloud.Assignment) (got []netip.Prefix, err error) {
	err = m.step(func() error {
		got, err = m.Provider.Assign(ctx, a)
		return err
	})
	return got, err
}

func (m *mortal) Unassign(ctx context.Context, iface string, pieces []netip.Prefix) error {
	return m.step(func() error { return m.Provider.Unassign(ctx, iface, pieces) })
}

func (m *mortal) Create(ctx context.Context, n cloud.NewInterface) (made cloud.Interface, err error) {
	err = m.step(func() error {
		made, err = m.Provider.Create(ctx, n)
		return err
	})
	return made, err
}

func (m *mortal) Attach(ctx context.Context, iface, instance string, device int) error {
	return m.step(func() error { return m.Provider.Attach(ctx, iface, instance, device) })
}

func (m *mortal) Delete(ctx context.Context, iface string) error {
	return m.step(func() error { return m.Provider.Delete(ctx, iface) })
}

func (m *mortal) client(c client.WithWatch) client.WithWatch {
	return interceptor.NewClient(c, interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, options ...client.CreateOption) error {
			return m.step(func() error { return c.Create(ctx, o, options...) })
		},
		Update: func(ctx context.Context, c client.WithWatch, o client.Object, options ...client.UpdateOption) error {
			return m.step(func() error { return c.Update(ctx, o, options...) })
		},
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, options ...client.PatchOption) error {
			return m.step(func() error { return c.Patch(ctx, o, p, options...) })
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, options ...client.DeleteOption) error {
			return m.step(func() error { return c.Delete(ctx, o, options...) })
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, name string, o client.Object, p client.Patch, options ...client.SubResourcePatchOption) error {
			return m.step(func() error { return c.SubResource(name).Patch(ctx, o, p, options...) })
		},
	})
}

// wantRouted fails if a pod could get an address that the cloud does not route to its node, or has one.
func (x *bench) wantRouted(leased inet.Set) {
	x.t.Helper()
	withheld := x.withheld()
	if leased.Overlaps(withheld) {
		x.t.Fatalf("%s are in use and withheld", leased.And(withheld))
	}
	routed := map[string]inet.Set{}
	for _, i := range x.cloud.Present() {
		var sets []inet.Set
		for _, piece := range i.Assigned {
			sets = append(sets, inet.OfPrefix(piece))
		}
		routed[i.ID] = inet.Union(sets...)
	}
	for name, pool := range x.pools() {
		ips, err := inet.Parse(pool.Spec.IPs, inet.Bounds{})
		if err != nil {
			x.t.Fatal(err)
		}
		iface := pool.Labels["ipam.spidernet.io/cloud-interface"]
		if lost := ips.Minus(inet.Union(withheld, routed[iface])); !lost.IsEmpty() {
			x.t.Fatalf("pods may get %s of pool %s, which the cloud does not route to %s", lost, name, iface)
		}
	}
}

// converge reconciles until some time has passed. It checks the addresses after each reconcile.
func (x *bench) converge(within time.Duration, alive func() bool) {
	x.t.Helper()
	for end := x.clock.Now().Add(within); x.clock.Now().Before(end) && alive(); {
		next, err := x.reconcile()
		x.wantRouted(inet.Set{})
		if err != nil {
			next = 100 * time.Millisecond // the work queue tries again
		}
		x.clock.SetTime(x.clock.Now().Add(next))
	}
}

// every is small enough for each kind of step in the hermetic tests. make chaos takes 1.
var every = flag.Int("kill.every", 20, "let the controller die after every n-th write or call")

// killAtSteps runs histories in which the controller dies after one of its writes and calls. killedAt returns false if it did not
// die, because the history has fewer steps.
func killAtSteps(t *testing.T, killedAt func(t *testing.T, steps int, lost, stale bool) (died bool)) {
	for name, bad := range map[string]bool{"good answers": false, "lost answers, stale descriptions": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for steps := 1; !t.Failed() && killedAt(t, steps, bad, bad); steps += *every {
			}
		})
	}
}

// TestKilledAtEachStep lets a node get a second prefix and give it back, with a controller that dies after each of its writes and calls.
func TestKilledAtEachStep(t *testing.T) { killAtSteps(t, killedAt) }

// killedAt returns false if the controller did not die.
func killedAt(t *testing.T, steps int, lost, stale bool) (died bool) {
	x := newManagedBench(t, 4)
	eni := x.join("worker1", x.subnets[1])
	m := &mortal{Provider: x.cloud, steps: steps, lost: lost}
	x.start(m.client(x.c), m)
	successor := func() {
		if !m.dead || died {
			return
		}
		died = true
		before := len(x.assigned(eni))
		x.cloud.Thaw()
		x.restart()
		x.converge(2*callTimeout, func() bool { return true })
		if after := len(x.assigned(eni)); after > max(before, 2) {
			t.Fatalf("after %d steps, the successor assigned again: %v", steps, x.assigned(eni))
		}
	}
	alive := func() bool { return died || !m.dead }
	if stale {
		x.cloud.Freeze()
	}
	x.converge(30*time.Second, alive)
	successor()
	x.cloud.Thaw()
	x.pods("worker1", 20)
	if stale {
		x.cloud.Freeze()
	}
	x.converge(30*time.Second, alive)
	successor()
	x.cloud.Thaw()
	x.converge(time.Minute, alive)
	successor()
	x.converge(time.Minute, alive)
	x.wantAssigned(eni, "172.31.32.16/28", "172.31.32.32/28")
	x.want("aws-worker1-0-v4: 172.31.32.16-172.31.32.47")
	x.removePods()
	x.converge(10*time.Minute, alive)
	successor()
	x.converge(10*time.Minute, alive)
	left := x.assigned(eni)
	if len(left) != 1 {
		t.Fatalf("after %d steps, %s has %v, want one prefix", steps, eni, left)
	}
	x.want("aws-worker1-0-v4: " + inet.OfPrefix(left[0]).String())
	if x.reserved() != "" || len(x.network().Status.Changes) > 0 {
		t.Fatalf("after %d steps, %q are reserved, and the calls %v open", steps, x.reserved(), x.network().Status.Changes)
	}
	if got := x.withheld(); got.Count() != inet.BlockSize || got.Contains(left[0].Addr()) {
		t.Fatalf("after %d steps, %s are withheld, and %s stays", steps, got, left[0])
	}
	x.condition("PoolsUpToDate", "")
	return died
}
