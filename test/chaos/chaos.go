package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/scheme"
	"spiderpool.dev/spiderpool/test/history"
	"spiderpool.dev/spiderpool/test/sim"
)

const (
	namespace = "chaos"
	// startLimit bounds the start of the cluster, drainLimit the remaining work after the
	// last fault.
	startLimit = 2 * time.Minute
	drainLimit = 2 * time.Minute
)

// chaos is one run.
type chaos struct {
	*options
	cluster  *sim.Cluster
	objects  client.Client
	runtimes []*sim.Runtime // of the nodes
	attached []*attached    // of the nodes' runtimes
	netns    string
	history  *history.Log
	outages  *outages
	refused  problems // calls that failed without an excuse, and processes that ended
	moved    problems // changes of fixed addresses
	count    counts
	pools    []sim.Pool
}

// counts are the counts of events, for the summary, and for the check that a run was
// long enough to prove something.
type counts struct {
	pods, repeated, lateDels, lost   atomic.Int64
	adds, failedAdds                 atomic.Int64
	dels, failedDels, delsWithoutAPI atomic.Int64
	checks, failedChecks             atomic.Int64
	kills, pauses, restarts          atomic.Int64
	second, fixed, gcs               atomic.Int64
}

func newChaos(o *options) *chaos {
	return &chaos{options: o, history: &history.Log{}, outages: newOutages()}
}

func (c *chaos) run(ctx context.Context, d *sim.Definition, root string) error {
	stop, err := c.start(ctx, d, root)
	if err != nil {
		return err
	}
	defer stop()

	supervising, endSupervision := context.WithCancel(ctx)
	var supervision sync.WaitGroup
	supervision.Go(func() { c.supervise(supervising) })
	defer func() { endSupervision(); supervision.Wait() }()

	anchors, err := c.anchor(ctx)
	if err != nil {
		return err
	}

	// 1. Pods come and go while faults happen.
	breaking, calm := context.WithTimeout(ctx, c.time)
	defer calm()
	var faults, work sync.WaitGroup
	c.breakThings(breaking, &faults)
	c.collectAll(breaking, &faults)
	working, giveUp := context.WithTimeoutCause(ctx, c.time+drainLimit, fmt.Errorf("pods are still at work %s after the last fault", drainLimit))
	defer giveUp()
	stuck := c.workAll(breaking, working, &work)
	c.show(breaking)

	// 2. The faults end; running pods finish.
	faults.Wait()
	if err := c.awaitReady(ctx); err != nil {
		return err
	}
	work.Wait()
	if err := errors.Join(stuck.all()...); err != nil {
		return err
	}

	// 3. Remains are reclaimed, living pods keep their addresses, and every address can
	// be allocated again.
	if err := c.deleteStatefulSets(ctx); err != nil {
		return err
	}
	leaked := c.awaitNoLeases(ctx, anchors)
	if leaked != nil {
		return c.judge(leaked, errNotTried)
	}
	for _, s := range anchors {
		if err := errors.Join(c.end(ctx, s), c.deletePod(ctx, s)); err != nil {
			return err
		}
	}
	return c.judge(nil, c.fillPools(ctx))
}

// start starts the cluster with runtimes on its nodes.
func (c *chaos) start(ctx context.Context, d *sim.Definition, root string) (stop func(), err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit, fmt.Errorf("not ready after %s", startLimit))
	defer cancel()
	var undo []func()
	stop = func() {
		for _, f := range slices.Backward(undo) {
			f()
		}
	}
	defer func() {
		if err != nil {
			stop()
		}
	}()
	for i := range c.nodes {
		dir := filepath.Join(c.dir, sim.NodeName(i))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		r, end, err := sim.ServeRuntime(filepath.Join(dir, "cri.sock"))
		if err != nil {
			return nil, err
		}
		undo = append(undo, end)
		c.runtimes = append(c.runtimes, r)
		c.attached = append(c.attached, &attached{})
	}
	c.pools = pools(c.poolSize())
	c.cluster, err = sim.Start(ctx, sim.Options{
		Dir: c.dir, Assets: c.assets, Bin: c.bin, Root: root, Definition: d, Nodes: c.nodes, Pools: c.pools,
		GCSeconds: 5, MinLeaseAge: 5 * time.Second,
	})
	if err != nil {
		return nil, err
	}
	undo = append(undo, c.cluster.Stop)
	var release func() error
	if c.netns, release, err = sim.PodNetNS(); err != nil {
		return nil, err
	}
	undo = append(undo, func() { _ = release() })
	if c.objects, err = client.New(c.cluster.Config(), client.Options{Scheme: scheme.New()}); err != nil {
		return nil, err
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	if _, err = c.cluster.Kube.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	return stop, c.createNetwork(ctx)
}

// pools returns small pools that begin inside a block. All nodes write the same few
// blocks, and addresses are soon reused.
func pools(size int) []sim.Pool {
	return []sim.Pool{
		{Name: "shared-v4", Version: 4, Subnet: "10.200.0.0/24", First: "10.200.0.10", Last: fmt.Sprintf("10.200.0.%d", 10+size-1)},
		{Name: "shared-v6", Version: 6, Subnet: "fd00:200::/64", First: "fd00:200::a", Last: fmt.Sprintf("fd00:200::%x", 10+size-1)},
	}
}

// poolSize is the number of addresses in a pool: twice the number of concurrent pods,
// plus the fixed addresses of the StatefulSets.
func (c *chaos) poolSize() int { return min(2*c.nodes*c.workers+2*c.nodes, 254-10+1) }

// awaitReady waits until all processes are ready.
func (c *chaos) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit, fmt.Errorf("not ready %s after the last fault", startLimit))
	defer cancel()
	if err := sim.WaitFor(ctx, apiServer, c.cluster.Ready); err != nil {
		return err
	}
	for _, p := range c.cluster.AllProcesses() {
		if err := sim.WaitFor(ctx, p.Name, p.Ready); err != nil {
			return fmt.Errorf("%w; end of %s:\n%s", err, p.Log, p.LastOutput())
		}
	}
	return nil
}

// anchor creates a pod on every node that lives until the end. It proves that living
// pods keep their addresses. Agents also need one visible sandbox before they trust a
// runtime that reports others as gone.
func (c *chaos) anchor(ctx context.Context) ([]*sandbox, error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	var anchors []*sandbox
	for node := range c.nodes {
		s, err := c.begin(ctx, node, pod{name: fmt.Sprintf("anchor-%d", node), second: node == 0})
		if err != nil {
			return nil, err
		}
		anchors = append(anchors, s)
	}
	return anchors, nil
}

// awaitNoLeases waits until only the anchors have leases in use and endpoints. The error
// lists the remaining or missing ones.
func (c *chaos) awaitNoLeases(ctx context.Context, anchors []*sandbox) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.quietFor, fmt.Errorf("%s after the last pod", c.quietFor))
	defer cancel()
	living, leases := map[string]bool{}, 0
	for _, s := range anchors {
		living[s.Pod] = true
		leases += len(s.interfaces) * len(c.pools)
	}
	return sim.WaitFor(ctx, "the release of every lease", func(ctx context.Context) error {
		left, kept, err := c.leftovers(ctx, living)
		switch {
		case err != nil:
			return err
		case len(left) > 0:
			return fmt.Errorf("%d remain: %v", len(left), left)
		case kept != leases:
			return fmt.Errorf("the %d living pods have %d leases instead of %d", len(anchors), kept, leases)
		}
		return nil
	})
}

// leftovers returns the leases in use or retained and the endpoints, except those of
// living pods, and the number of the living pods' leases.
func (c *chaos) leftovers(ctx context.Context, living map[string]bool) (left []string, kept int, err error) {
	var blocks v2beta1.SpiderIPBlockList
	if err := c.objects.List(ctx, &blocks); err != nil {
		return nil, 0, err
	}
	for _, b := range blocks.Items {
		for _, l := range b.Spec.Leases {
			switch {
			case l.State != v2beta1.LeaseInUse && l.State != v2beta1.LeaseRetained:
			case living[strings.TrimPrefix(l.Pod, namespace+"/")]:
				kept++
			default:
				left = append(left, fmt.Sprintf("lease of %s: pod %s, sandbox %s on %s", l.IP, l.Pod, l.ContainerID, l.Node))
			}
		}
	}
	var endpoints v2beta1.SpiderEndpointList
	if err := c.objects.List(ctx, &endpoints); err != nil {
		return nil, 0, err
	}
	for _, e := range endpoints.Items {
		if !living[e.Name] {
			left = append(left, "endpoint "+e.Namespace+"/"+e.Name)
		}
	}
	return left, kept, nil
}

// show prints the counts every ten seconds until the end of ctx.
func (c *chaos) show(ctx context.Context) {
	ticker := time.NewTicker(10 * time.Second)
	defer ticker.Stop()
	began := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			fmt.Fprintf(os.Stderr, "%4.0fs  %s\n", time.Since(began).Seconds(), &c.count)
		}
	}
}

func (n *counts) String() string {
	return fmt.Sprintf("%d pods; ADD %d, %d failed; DEL %d, %d failed, %d without an API server; CHECK %d, %d failed; %d repeated ADDs, %d late DELs, %d lost sandboxes; %d pods with two interfaces, %d with their fixed addresses, %d GCs; %d kills, %d pauses, %d restarts after an unexpected exit",
		n.pods.Load(), n.adds.Load(), n.failedAdds.Load(), n.dels.Load(), n.failedDels.Load(), n.delsWithoutAPI.Load(),
		n.checks.Load(), n.failedChecks.Load(),
		n.repeated.Load(), n.lateDels.Load(), n.lost.Load(), n.second.Load(), n.fixed.Load(), n.gcs.Load(), n.kills.Load(), n.pauses.Load(), n.restarts.Load())
}

// random returns a random source for each actor, so that an actor's choices do not
// depend on the order of the others.
func (c *chaos) random(actor uint64) *rand.Rand { return rand.New(rand.NewPCG(c.seed, actor)) }
