package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/kube/restconfig"
	"spiderpool.dev/spiderpool/internal/kube/testbed"
	"spiderpool.dev/spiderpool/internal/pool"
	"spiderpool.dev/spiderpool/internal/process"
	"spiderpool.dev/spiderpool/internal/reach"
)

// connectivityOptions are the flags of connectivity test.
type connectivityOptions struct {
	kubeconfig, format, image, namespace, system string
	networks, nodes                              []string
	timeout                                      time.Duration
	port                                         uint16
	keep                                         bool
	now                                          func() time.Time
}

const (
	// requestTimeout bounds each request to the API server.
	requestTimeout = 30 * time.Second
	// probeTimeout bounds the questions of one pod.
	probeTimeout = 2 * time.Minute
	// removeTimeout bounds the deletion of the pods.
	removeTimeout = 2 * time.Minute
	// maxNodes is the number of nodes without --node.
	maxNodes = 8
)

// connectivityTest is one run.
type connectivityTest struct {
	*connectivityOptions
	reader
	bed    *testbed.Bed
	file   *config.File
	agents []corev1.Pod
	result connectivityResult
	progress
}

func (o *connectivityOptions) run(cmd *cobra.Command) error {
	if err := checkFormat(cmd); err != nil {
		return err
	}
	for _, network := range o.networks {
		if _, err := podName(network); err != nil {
			return fmt.Errorf("--attachment %q: write NAMESPACE/NAME, e.g. kube-system/macvlan-ens5", network)
		}
	}
	config, err := restconfig.Load(o.kubeconfig)
	if err != nil {
		return err
	}
	config.Timeout = requestTimeout
	client, err := agentclient.NewClient(config)
	if err != nil {
		return err
	}
	bed, err := testbed.New(config)
	if err != nil {
		return err
	}
	t := &connectivityTest{
		connectivityOptions: o, bed: bed, progress: newProgress(cmd.ErrOrStderr()),
		reader: reader{client, config.Host, agentclient.NewCluster(client, "", process.NewEnv(io.Discard, os.Getenv).Log)},
	}
	err = t.test(cmd.Context())
	t.clear()
	if err == nil {
		err = connectivityAnswer(&t.result).print(cmd.OutOrStdout(), o.format, o.now())
	}
	left := t.remove(cmd.Context())
	t.clear()
	switch {
	case cmd.Context().Err() != nil:
		return errors.Join(errors.New("the test was interrupted"), left)
	case apierrors.IsForbidden(err):
		return errors.Join(fmt.Errorf("%w: ask an administrator of the cluster for the rights that docs/guides/connectivity.md lists", err), left)
	case err != nil || left != nil:
		return withRemedy(errors.Join(err, left), config.Host)
	case len(t.result.Findings) > 0:
		return errFound
	}
	return nil
}

// remove deletes the pods, also after Ctrl-C.
func (t *connectivityTest) remove(ctx context.Context) error {
	if t.keep && t.bed.Namespace != "" {
		fmt.Fprintf(t.out, "The pods stay in namespace %[1]s. Test them again with --namespace %[1]s --keep; kubectl delete namespace %[1]s deletes them.\n", t.bed.Namespace)
		return nil
	}
	if t.bed.Empty() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	defer t.during("deleting the pods", removeTimeout)()
	err := t.bed.Remove(ctx)
	if ctx.Err() != nil {
		return fmt.Errorf("the pods in namespace %s still end; kubectl -n %[1]s get pods shows them: %w", t.bed.Namespace, err)
	}
	return err
}

func (t *connectivityTest) test(ctx context.Context) error {
	if err := t.prepare(ctx); err != nil {
		return err
	}
	pods, started, err := t.start(ctx)
	if err != nil {
		return err
	}
	unstarted, err := t.unstarted(ctx, pods, started)
	if err != nil {
		return err
	}
	t.result.Findings = unstarted
	world := &reach.World{Nodes: t.nodeStates(), DNSServers: t.dnsServers(ctx)}
	if world.Cluster, err = t.cluster(ctx, started); err != nil {
		return err
	}
	if world.Probes, err = t.probe(ctx, &world.Cluster, started); err != nil {
		return err
	}
	if slices.ContainsFunc(world.Probes, func(p reach.Probe) bool { return p.Answer.Fault != "" }) {
		t.investigate(ctx, world)
	}
	t.result.Findings = append(t.result.Findings, world.Diagnose()...)
	t.result.take(world)
	return nil
}

// prepare reads the installation.
func (t *connectivityTest) prepare(ctx context.Context) (err error) {
	var note string
	if t.file, note, err = installation(ctx, t.reader, t.system); err != nil {
		return err
	}
	t.result.note(note)
	t.agents, err = t.bed.Agents(ctx, t.system)
	return err
}

// start creates the pods unless there are some, and waits until they run.
func (t *connectivityTest) start(ctx context.Context) (pods, started []corev1.Pod, err error) {
	if t.namespace != "" {
		if err := t.bed.Open(ctx, t.namespace); err != nil {
			return nil, nil, err
		}
		if pods, err = t.bed.Pods(ctx); err != nil {
			return nil, nil, err
		}
		if len(pods) > 0 {
			t.port = testbed.Port(&pods[0])
		}
		if len(pods) > 0 && len(t.nodes)+len(t.networks) > 0 {
			return nil, nil, fmt.Errorf("namespace %s has the pods of an earlier test: leave out --node and --attachment, or delete the pods", t.namespace)
		}
	}
	if len(pods) == 0 {
		if err := t.create(ctx); err != nil {
			return nil, nil, err
		}
	}
	t.result.Namespace = t.bed.Namespace
	return t.await(ctx)
}

func (t *connectivityTest) create(ctx context.Context) error {
	spec, err := t.spec(ctx)
	if err != nil {
		return err
	}
	defer t.during("creating the pods", t.timeout)()
	if t.namespace == "" {
		if err := t.bed.Open(ctx, ""); err != nil {
			return err
		}
	}
	return t.bed.Create(ctx, spec)
}

// await waits until the pods run, at most until the timeout.
func (t *connectivityTest) await(ctx context.Context) (pods, started []corev1.Pod, err error) {
	defer t.during("waiting for the pods", t.timeout)()
	end := time.NewTimer(t.timeout)
	defer end.Stop()
	for {
		if pods, err = t.bed.Pods(ctx); err != nil {
			return nil, nil, err
		}
		started = slices.DeleteFunc(slices.Clone(pods), func(p corev1.Pod) bool { return !testbed.Running(&p) })
		t.detail(fmt.Sprintf("%d of %d run", len(started), len(pods)))
		if len(started) == len(pods) {
			return pods, started, nil
		}
		select {
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		case <-end.C:
			return pods, started, nil
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func (t *connectivityTest) spec(ctx context.Context) (testbed.Spec, error) {
	spec := testbed.Spec{Networks: t.networks, Image: t.image, Port: t.port, Command: []string{"/usr/bin/spiderpoolctl", "connectivity", "serve"}}
	if len(spec.Networks) == 0 {
		network := t.file.Multus.ClusterNetwork(t.system)
		if network.Default == (pool.NetworkAttachment{}) {
			return spec, errors.New("the cluster has no default network (multus.defaultNetwork of the configuration): name the network of the pods with --attachment, e.g. --attachment kube-system/macvlan-ens5; kubectl get spidermultusconfigs -A prints them")
		}
		for _, each := range append([]pool.NetworkAttachment{network.Default}, network.Additional...) {
			spec.Networks = append(spec.Networks, each.String())
		}
	}
	if spec.Image == "" {
		if len(t.agents) == 0 {
			return spec, fmt.Errorf("namespace %s has no agent, so the image is unknown: name the namespace of Spiderpool with --system-namespace, or an image with --image", t.system)
		}
		spec.Image = t.agents[0].Spec.Containers[0].Image
	}
	nodes, err := t.bed.Nodes(ctx)
	if err != nil {
		return spec, err
	}
	spec.Nodes, err = t.choose(nodes)
	return spec, err
}

// choose returns the nodes to test.
func (t *connectivityTest) choose(nodes []corev1.Node) (chosen []string, err error) {
	for _, n := range nodes {
		ready := slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		})
		if ready && !n.Spec.Unschedulable && cmp.Or(n.Labels[corev1.LabelOSStable], "linux") == "linux" {
			chosen = append(chosen, n.Name)
		}
	}
	slices.Sort(chosen)
	for _, name := range t.nodes {
		if !slices.ContainsFunc(nodes, func(n corev1.Node) bool { return n.Name == name }) {
			return nil, fmt.Errorf("--node %s: there is no such node; kubectl get nodes prints the names", name)
		}
	}
	switch {
	case len(t.nodes) > 0:
		return slices.Compact(slices.Sorted(slices.Values(t.nodes))), nil
	case len(chosen) == 0:
		return nil, errors.New("no node is ready: kubectl get nodes tells why")
	case len(chosen) > maxNodes:
		t.result.note(fmt.Sprintf("The test uses %d of %d nodes. Name others with --node.", maxNodes, len(chosen)))
		chosen = chosen[:maxNodes]
	}
	return chosen, nil
}

// ask runs the probe program in a pod.
func (t *connectivityTest) ask(ctx context.Context, p *corev1.Pod, request reach.Request) (reply reach.Reply, err error) {
	stdin, err := json.Marshal(request)
	if err != nil {
		return reply, err
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	out, err := t.bed.Exec(ctx, p, []string{"/usr/bin/spiderpoolctl", "connectivity", "probe"}, stdin)
	if err != nil {
		return reply, err
	}
	if err := json.NewDecoder(bytes.NewReader(out)).Decode(&reply); err != nil || len(reply.Answers) != len(request.Questions) {
		return reply, fmt.Errorf("pod %s answers %q: its image is of another release; name one with --image", p.Name, out[:min(len(out), 80)])
	}
	return reply, nil
}

// execsAtOnce is the number of pods that probe at the same time.
const execsAtOnce = 8

// each calls f for all pods, several at a time.
func each(pods []corev1.Pod, f func(i int, p *corev1.Pod) error) error {
	var group errgroup.Group
	group.SetLimit(execsAtOnce)
	for i := range pods {
		group.Go(func() error { return f(i, &pods[i]) })
	}
	return group.Wait()
}

// settleTime is the longest time until the nodes know a new Service and its endpoints. Until then, they refuse its connections,
// or do not translate its addresses.
const settleTime = 15 * time.Second

// probe asks all questions and returns the judged probes.
func (t *connectivityTest) probe(ctx context.Context, cluster *reach.Cluster, pods []corev1.Pod) ([]reach.Probe, error) {
	probes := reach.Plan(cluster)
	defer t.during(fmt.Sprintf("asking %d questions", len(probes)), probeTimeout)()
	if err := t.askAll(ctx, cluster, pods, probes, nil); err != nil {
		return probes, err
	}
	return probes, settle(ctx, cluster, probes, func(wanted func(*reach.Probe) bool) error { return t.askAll(ctx, cluster, pods, probes, wanted) })
}

// settle asks the questions again that a Service did not answer, until it has answered all, at most for settleTime.
func settle(ctx context.Context, cluster *reach.Cluster, probes []reach.Probe, ask func(wanted func(*reach.Probe) bool) error) error {
	open := func(p *reach.Probe) bool { return p.Answer.Fault != "" && cluster.IsService(p.To) }
	for end := time.Now().Add(settleTime); time.Now().Before(end); {
		if !slices.ContainsFunc(probes, func(p reach.Probe) bool { return open(&p) }) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
		if err := ask(open); err != nil {
			return err
		}
	}
	return nil
}

// askAll asks the wanted questions, or all if wanted is nil, and judges the answers.
func (t *connectivityTest) askAll(ctx context.Context, cluster *reach.Cluster, pods []corev1.Pod, probes []reach.Probe, wanted func(*reach.Probe) bool) error {
	peers := cluster.Peers(probes)
	return each(pods, func(i int, p *corev1.Pod) error {
		request := reach.Request{Peers: peers}
		var indexes []int
		for n := range probes {
			if probes[n].From == p.Name && (wanted == nil || wanted(&probes[n])) {
				request.Questions, indexes = append(request.Questions, probes[n].Question), append(indexes, n)
			}
		}
		if wanted != nil && len(indexes) == 0 {
			return nil
		}
		reply, err := t.ask(ctx, p, request)
		for n, answer := range reply.Answers {
			probes[indexes[n]].Judge(answer)
		}
		if wanted == nil { // later facts would be of other packets
			cluster.Parties[i].Facts = reply.Facts
		}
		return err
	})
}

// nodeAddrs returns the internal addresses of a node.
func nodeAddrs(n *corev1.Node) (addrs []netip.Addr) {
	for _, a := range n.Status.Addresses {
		if addr, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}
