package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"spiderpool.dev/spiderpool/internal/view"
)

func newNodeShow(now func() time.Time) *cobra.Command {
	o := viewOptions{now: now}
	var system string
	cmd := &cobra.Command{
		Use:   "show NODE",
		Short: "Show the pools, the addresses, the pods and the problems of a node",
		Long: `Show a node as the API server knows it: its agent, the pools bound to it and their networks, the
free addresses of all pools that its pods can use, its addresses by state, its pods, and its
problems. -o wide also shows the other usable pools and the addresses. The releases that wait on
the node's disk for the API server are in the metric spiderpool_ipam_releases_on_disk only. The
exit code is 1 if there is a problem.`,
		Example: `  spiderpoolctl node show worker-1

  # the pods on the node, for a script
  spiderpoolctl node show worker-1 -o name`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.run(cmd, func(ctx context.Context, r reader) (answer, error) { return o.showNode(ctx, r, args[0], system) })
		},
	}
	o.flags(cmd)
	cmd.Flags().StringVar(&system, "system-namespace", "kube-system", "namespace of Spiderpool, with the ConfigMap "+configMap)
	formatFlag(cmd, &o.format)
	return cmd
}

func (o *viewOptions) showNode(ctx context.Context, r reader, name, system string) (answer, error) {
	node, err := readKnownNode(ctx, r, name)
	if err != nil {
		return answer{}, err
	}
	file, _, err := installation(ctx, r, system)
	if err != nil {
		return answer{}, err
	}
	q := view.NodeQuestion{Node: node, Families: file.IPAM.Families()}
	var state *view.State
	var group errgroup.Group
	group.Go(func() (err error) {
		state, err = o.state(ctx, r, wants{pools: true, blocks: true})
		return err
	})
	group.Go(func() error {
		return r.EachPodOf(ctx, "", onNode(name), func(pod *corev1.Pod) { q.Pods = append(q.Pods, pod) })
	})
	group.Go(func() (err error) { q.Events, err = readEvents(ctx, r); return err })
	var agents *appsv1.DaemonSet
	group.Go(func() (err error) {
		agents, err = readOne[appsv1.DaemonSet](ctx, r, agentsPath(file, system))
		return err
	})
	if err := group.Wait(); err != nil {
		return answer{}, err
	}
	q.Agent = view.AgentOf(q.Pods, agents)
	details := state.Node(q)
	if len(details.Findings) > 0 {
		err = errFound
	}
	return nodeAnswer(details), err
}

func readKnownNode(ctx context.Context, r reader, name string) (*corev1.Node, error) {
	node, err := r.ReadNode(ctx, name)
	if apierrors.IsNotFound(err) {
		return nil, unknownNode(name)
	}
	return node, err
}

func onNode(name string) metav1.ListOptions {
	return metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.nodeName", name).String()}
}

func nodeAnswer(d view.NodeDetails) answer {
	a := answer{value: d}
	for _, pod := range d.Pods {
		a.names = append(a.names, "pod/"+pod.Pod)
	}
	a.draw = func(w drawing) {
		state, agent := "Ready", "none"
		if !d.Ready {
			state = "not Ready"
		}
		if d.Agent != "" {
			agent = d.Agent + ", ready"
			if !d.AgentReady {
				agent = d.Agent + ", not ready"
			}
		}
		fmt.Fprintf(w, "Node %s is %s.\n\n", d.Name, state)
		pairs := [][2]string{{"Addresses", strings.Join(d.IPs, ", ")}, {"Kernel", d.Kernel}, {"Runtime", d.Runtime}, {"Agent", agent}, {"Networks", strings.Join(d.Networks, ", ")}}
		for _, f := range d.Free {
			pairs = append(pairs, [2]string{"Free " + f.Family.String(), fmt.Sprintf("%d of %d, pools: %d", f.Free, f.Total, f.Pools)})
		}
		pairs = append(pairs, [2]string{"Leases", statesText(d.States)})
		w.fields(pairs...)
		fmt.Fprintln(w)
		w.nodePools(d.Pools)
		fmt.Fprintln(w)
		w.nodePods(d.Pods)
		if w.wide {
			fmt.Fprintln(w)
			w.addresses(d.Addresses, "The node has no leases.")
		}
		w.findings(d.Findings)
	}
	return a
}

// statesText returns e.g. "3 InUse, 1 Former".
func statesText(states map[string]int) string {
	var parts []string
	for _, state := range slices.Sorted(maps.Keys(states)) {
		parts = append(parts, fmt.Sprintf("%d %s", states[state], state))
	}
	return orNone(strings.Join(parts, ", "), "none")
}

// nodePools draws the pools bound to the node and, with --output wide, all others that it can use.
func (w drawing) nodePools(pools []view.NodePool) {
	others := 0
	shown := slices.DeleteFunc(slices.Clone(pools), func(p view.NodePool) bool {
		if !p.Bound && !w.wide {
			others++
		}
		return !p.Bound && !w.wide
	})
	text := func(head string, cell func(view.NodePool) string) column[view.NodePool] {
		return column[view.NodePool]{head, false, cell}
	}
	drawTable(w, "No pool is bound to the node.", shown,
		text("POOL", func(p view.NodePool) string { return p.Name }),
		text("BOUND", func(p view.NodePool) string { return yesNo(p.Bound) }),
		text("SUBNET", func(p view.NodePool) string { return p.Network() }),
		text("TOTAL", func(p view.NodePool) string { return strconv.FormatInt(p.Total, 10) }),
		text("FREE", func(p view.NodePool) string { return strconv.FormatInt(p.Free, 10) }),
		text("ONLY FOR", func(p view.NodePool) string { return strings.Join(p.For, "; ") }))
	if others > 0 {
		fmt.Fprintf(w, "Pools for every node: %d. -o wide shows them.\n", others)
	}
}

func (w drawing) nodePods(pods []view.NodePod) {
	text := func(head string, wide bool, cell func(view.NodePod) string) column[view.NodePod] {
		return column[view.NodePod]{head, wide, cell}
	}
	drawTable(w, "The node has no pods.", pods,
		text("POD", false, func(p view.NodePod) string { return p.Pod }),
		text("PHASE", false, func(p view.NodePod) string { return p.Phase }),
		text("LEASES", false, func(p view.NodePod) string { return strconv.Itoa(p.Leases) }),
		text("ADDRESSES", false, func(p view.NodePod) string { return strings.Join(p.IPs, ", ") }),
		text("HOST NETWORK", true, func(p view.NodePod) string { return yesNo(p.HostNetwork) }))
}
