package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/scheme"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/test/history"
	"spiderpool.dev/spiderpool/test/sim"
	"spiderpool.dev/spiderpool/test/stats"
)

const (
	// namespace is the namespace of the pods.
	namespace = "bench"
	// startLimit bounds the start of a cluster, phaseLimit one phase of a run.
	startLimit = 2 * time.Minute
	phaseLimit = 3 * time.Minute
	// The cluster is quiet after quietFor without a request. quietLimit bounds the
	// wait.
	quietFor   = time.Second
	quietLimit = 20 * time.Second
)

// measure runs every scenario with every suitable plugin, prints the report and writes
// the results.
func measure(ctx context.Context, o *options, root string, definitions []*sim.Definition, picked []scenario) error {
	began := time.Now()
	var results []result
	for _, s := range picked {
		for _, d := range definitions {
			if !d.Runs(s.name) {
				continue
			}
			var runs []result
			for i := range o.repeat {
				name := fmt.Sprintf("%s %s %d/%d", s.name, d.Name, i+1, o.repeat)
				r, err := runOnce(ctx, o, root, d, s, fmt.Sprintf("%s%d%s", s.name, i, d.Name))
				if err != nil {
					return fmt.Errorf("scenario %s: %w", name, err)
				}
				runs = append(runs, r)
				progress("%-20s %s\n", name, r.summary())
			}
			results = append(results, median(runs))
		}
	}
	if len(results) == 0 {
		return errors.New("no selected plugin supports a selected scenario")
	}
	if err := stats.WriteJSON(o.json, results); err != nil {
		return err
	}
	return report(o, results, time.Since(began))
}

// runOnce measures on a new cluster with an empty etcd.
func runOnce(ctx context.Context, o *options, root string, d *sim.Definition, s scenario, dir string) (result, error) {
	n := o.pods
	if s.sequential {
		n = min(n, sequentialPods)
	}
	progress("%s %s: start the cluster", s.name, d.Name)
	startCtx, cancel := context.WithTimeoutCause(ctx, startLimit, fmt.Errorf("not ready after %s", startLimit))
	defer cancel()
	cluster, err := sim.Start(startCtx, sim.Options{
		Dir: filepath.Join(o.dir, dir), Assets: o.assets, Bin: o.bin, Root: root,
		Definition: d, Nodes: o.nodes, Pools: s.pools(o.nodes, n),
	})
	if err != nil {
		return result{}, err
	}
	defer cluster.Stop()
	netns, release, err := sim.PodNetNS()
	if err != nil {
		return result{}, err
	}
	defer func() { _ = release() }()
	r := &runner{cluster: cluster, scenario: s, workers: o.workers, netns: netns, log: &history.Log{}}
	watching, unwatch := context.WithCancel(ctx)
	defer unwatch()
	if err := r.prepare(startCtx, watching, d); err != nil {
		return result{}, err
	}
	return r.run(ctx, d.Name, n)
}

// runner runs the phases of one run.
type runner struct {
	cluster  *sim.Cluster
	scenario scenario
	workers  int
	netns    string
	views    []*sim.Watched
	log      *history.Log
}

// prepare fills the pool if the scenario needs it full, warms up every node with one
// pod, and waits until the cluster is quiet. The views are followed until watching ends.
func (r *runner) prepare(ctx, watching context.Context, d *sim.Definition) error {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	if _, err := r.cluster.Kube.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create namespace: %w", err)
	}
	if err := r.populate(ctx); err != nil {
		return err
	}
	for _, v := range d.Views {
		watched, err := r.cluster.Watch(watching, v)
		if err != nil {
			return err
		}
		r.views = append(r.views, watched)
	}
	warm, err := r.pods(ctx, "warm", len(r.cluster.Nodes), 0)
	if err != nil {
		return err
	}
	for _, command := range []string{"ADD", "DEL"} {
		if _, err := r.phase(ctx, command, warm); err != nil {
			return fmt.Errorf("warm up: %w", err)
		}
	}
	return r.quiet(ctx)
}

// run measures ADD and DEL of all pods. If the scenario says so, it instead fills the
// pool first and measures DEL of all pods and ADD of as many on other nodes.
func (r *runner) run(ctx context.Context, plugin string, n int) (result, error) {
	first, err := r.pods(ctx, "a", n, 0)
	if err != nil {
		return result{}, err
	}
	second := first
	if r.scenario.again {
		if second, err = r.pods(ctx, "b", n, 1); err != nil {
			return result{}, err
		}
	}
	add, err := r.quietPhase(ctx, "ADD", first)
	if err != nil {
		return result{}, err
	}
	memory, err := r.agentMemory()
	if err != nil {
		return result{}, err
	}
	del, err := r.quietPhase(ctx, "DEL", first)
	if err != nil {
		return result{}, err
	}
	if r.scenario.again {
		if add, err = r.quietPhase(ctx, "ADD", second); err != nil {
			return result{}, err
		}
	}
	out := newResult(r, plugin, n, add, del)
	out.AgentRSSMiB = float64(memory) / (1 << 20)
	violations := history.Check(r.log.Events())
	out.Duplicates = len(violations)
	for _, v := range violations {
		progress("%s\n", v)
	}
	return out, nil
}

// pods creates n pods and spreads them over the nodes, starting at node number shift.
func (r *runner) pods(ctx context.Context, prefix string, n, shift int) ([]*pod, error) {
	objects := make([]*corev1.Pod, n)
	nodes := r.cluster.Nodes
	for i := range objects {
		objects[i] = sim.NewPod(namespace, fmt.Sprintf("%s-%d", prefix, i), nodes[(i+shift)%len(nodes)].Name)
	}
	created, err := r.cluster.CreatePods(ctx, objects)
	if err != nil {
		return nil, fmt.Errorf("create pods: %w", err)
	}
	pods := make([]*pod, n)
	for i, p := range created {
		pods[i] = &pod{
			node: nodes[(i+shift)%len(nodes)],
			attachment: sim.Attachment{
				NetNS: r.netns, Interface: "eth0", Namespace: p.Namespace, Pod: p.Name, UID: string(p.UID),
			},
		}
	}
	return pods, nil
}

// agentMemory returns the largest resident size of any agent.
func (r *runner) agentMemory() (int64, error) {
	var most int64
	for _, node := range r.cluster.Nodes {
		for _, p := range node.Processes {
			usage, err := p.Usage()
			if err != nil {
				return 0, err
			}
			most = max(most, usage.RSS)
		}
	}
	return most, nil
}

// quiet waits until only the API server itself makes requests. After the limit it
// accepts periodic requests; they are counted.
func (r *runner) quiet(ctx context.Context) error {
	requests := func() (float64, error) {
		counters, err := r.cluster.Counters(ctx)
		return counters.Sum(func(q sim.Request) bool { return q.Write() || q.Read() && !strings.HasPrefix(q.Verb, "WATCH") }), err
	}
	last, err := requests()
	if err != nil {
		return err
	}
	since := time.Now()
	for deadline := since.Add(quietLimit); time.Now().Before(deadline) && time.Since(since) < quietFor; {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(quietFor / 4):
		}
		now, err := requests()
		if err != nil {
			return err
		}
		if now != last {
			last, since = now, time.Now()
		}
	}
	return nil
}

// farNodes is the number of other nodes with leases from populate.
const farNodes = 100

// populate stores the scenario's leases. Their pods run on nodes outside the benchmark.
func (r *runner) populate(ctx context.Context) error {
	if r.scenario.leases == 0 {
		return nil
	}
	blocks, err := client.New(r.cluster.Config(), client.Options{Scheme: scheme.New()})
	if err != nil {
		return err
	}
	var objects []client.Object
	for i := range farNodes {
		objects = append(objects, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("far-%d", i)}})
	}
	p := r.scenario.pools(1, 1)[0]
	now := time.Now()
	for i := 0; i < r.scenario.leases; i += inet.BlockSize {
		base := nth(netip.MustParseAddr(p.First), i)
		node := fmt.Sprintf("far-%d", i/inet.BlockSize%farNodes)
		b := lease.Block{Base: base, Node: node}
		for j := range inet.BlockSize {
			b.Leases = append(b.Leases, lease.Lease{
				Addr: nth(base, j), State: lease.InUse, Pool: p.Name, Since: now.UTC().Truncate(time.Second),
				Holder: lease.Holder{
					Attachment: lease.Attachment{ContainerID: fmt.Sprintf("far-sandbox-%d", i+j), Interface: "eth0"},
					Pod:        lease.PodKey{Namespace: "far", Name: fmt.Sprint("pod-", i+j)}, PodUID: fmt.Sprintf("uid-%d", i+j), Node: node,
				},
			})
		}
		objects = append(objects, compile.BlockObject(b))
	}
	progress("%s: store %d leases", r.scenario.name, r.scenario.leases)
	return parallel(ctx, 16, objects, func(ctx context.Context, o client.Object) error { return blocks.Create(ctx, o) })
}
