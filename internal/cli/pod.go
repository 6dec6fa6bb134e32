package cli

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	corev1 "k8s.io/api/core/v1"

	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
	"spiderpool.dev/spiderpool/internal/view"
)

// configMap is the name of the ConfigMap of the chart, and configKey its key.
const (
	configMap = "spiderpool-conf"
	configKey = "config.yaml"
)

func newPod(now func() time.Time) *cobra.Command {
	o := viewOptions{now: now}
	cmd := &cobra.Command{
		Use:   "pod",
		Short: "Explain the addresses of a pod",
	}
	o.flags(cmd)
	cmd.AddCommand(newPodExplain(&o))
	return cmd
}

func newPodExplain(o *viewOptions) *cobra.Command {
	var system string
	cmd := &cobra.Command{
		Use:   "explain NAMESPACE/POD",
		Short: "Explain why a pod has its addresses, or none",
		Long: `Explain why a pod has its addresses, or none: its interfaces, the pools that the agent
considers for each, and why a pool is used or not, by the objects as they are now. The command
also compares the pod's leases with its SpiderEndpoint. It reads the API server only:
spiderpoolctl node, in the agent of the node, checks the kernel. The exit code is 1 if there is
a problem.`,
		Example: `  spiderpoolctl pod explain shop/web-0`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := podName(args[0])
			if err != nil {
				return err
			}
			return o.run(cmd, func(ctx context.Context, r reader) (answer, error) {
				return o.explainPod(ctx, r, lease.PodKey{Namespace: name.Namespace, Name: name.Name}, system)
			})
		},
	}
	cmd.Flags().StringVar(&system, "system-namespace", "kube-system", "namespace of Spiderpool, with the ConfigMap "+configMap)
	formatFlag(cmd, &o.format)
	return cmd
}

func (o *viewOptions) explainPod(ctx context.Context, r reader, name lease.PodKey, system string) (answer, error) {
	pod, err := r.ReadPod(ctx, name.Namespace, name.Name)
	if apierrors.IsNotFound(err) {
		return answer{}, fmt.Errorf("there is no pod %s: kubectl get pods -n %s prints all names", name, name.Namespace)
	}
	if err != nil {
		return answer{}, err
	}
	file, note, err := installation(ctx, r, system)
	if err != nil {
		return answer{}, err
	}
	question, err := r.questionAbout(ctx, pod, file, system)
	if err != nil {
		return answer{}, err
	}
	state, err := o.state(ctx, r, wants{pools: true, blocks: true})
	if err == nil {
		err = r.addEndpoints(ctx, state, view.Filter{Pod: name})
	}
	if err != nil {
		return answer{}, err
	}
	x, err := state.Explain(question)
	if err != nil {
		return answer{}, err
	}
	if note != "" {
		x.Notes = append(x.Notes, note)
	}
	if len(x.Findings) > 0 {
		err = errFound
	}
	return explanationAnswer(x), err
}

// installation reads the configuration of the cluster. If this program cannot parse it, note says
// so, and the result has the defaults.
func installation(ctx context.Context, r reader, system string) (file *config.File, note string, err error) {
	text, err := r.ReadConfigMap(ctx, system, configMap, configKey)
	if apierrors.IsNotFound(err) {
		return nil, "", fmt.Errorf("there is no ConfigMap %s/%s: Spiderpool is not installed in this namespace; name its namespace with --system-namespace", system, configMap)
	}
	if err != nil {
		return nil, "", err
	}
	if file, err = config.Parse([]byte(text)); err != nil {
		return config.Default(), fmt.Sprintf("The ConfigMap %s/%s is of another release, so this answer assumes the default configuration: %v.", system, configMap, err), nil
	}
	return file, "", nil
}

// questionAbout reads the facts about a pod like its agent.
func (r reader) questionAbout(ctx context.Context, pod *corev1.Pod, file *config.File, system string) (view.PodQuestion, error) {
	facts := agentclient.PodFacts(pod)
	namespace, err := r.cluster.Namespace(ctx, pod.Namespace)
	if err != nil {
		return view.PodQuestion{}, fmt.Errorf("read namespace %s: %w", pod.Namespace, err)
	}
	top, err := r.cluster.TopController(ctx, facts)
	if err != nil {
		return view.PodQuestion{}, err
	}
	node := pool.NodeFacts{}
	if pod.Spec.NodeName != "" {
		object, err := r.ReadNode(ctx, pod.Spec.NodeName)
		if err != nil {
			return view.PodQuestion{}, err
		}
		node = pool.NodeFacts{Name: object.Name, Labels: object.Labels}
	}
	q := view.PodQuestion{
		Name: facts.PodKey, UID: compile.PodUID(pod.UID, pod.Annotations), Phase: string(pod.Status.Phase), HostNetwork: pod.Spec.HostNetwork,
		Facts: pool.Request{
			Pod:       pool.PodFacts{Namespace: pod.Namespace, Name: pod.Name, Labels: pod.Labels, Annotations: facts.Annotations, App: ipam.AppOf(pod.Namespace, top)},
			Namespace: namespace, Node: node,
		},
		Cluster:  file.Multus.ClusterNetwork(system),
		Network:  func(name pool.NetworkAttachment) (ipam.Network, error) { return r.cluster.Network(ctx, name) },
		Families: familiesOf(file),
	}
	return q, nil
}

// verdictRow is a row of the table of pools.
type verdictRow struct{ ifname, network, family, pool, used, because string }

func explanationAnswer(x view.Explanation) answer {
	return answer{value: x, names: []string{"pod/" + x.Pod}, draw: func(w drawing) {
		where := ""
		if x.Node != "" {
			where = " on node " + x.Node
		}
		fmt.Fprintf(w, "Pod %s is %s%s.\n", x.Pod, cmp.Or(x.Phase, "unknown"), where)
		if x.HostNetwork {
			fmt.Fprintln(w, "It uses the network of its node, so Spiderpool gives it no address.")
		}
		if rows := verdictRows(x); len(rows) > 0 {
			fmt.Fprintln(w)
			text := func(head string, wide bool, cell func(verdictRow) string) column[verdictRow] {
				return column[verdictRow]{head, wide, cell}
			}
			drawTable(w, "", rows,
				text("INTERFACE", false, func(r verdictRow) string { return r.ifname }),
				text("NETWORK", true, func(r verdictRow) string { return r.network }),
				text("IP", false, func(r verdictRow) string { return r.family }),
				text("POOL", false, func(r verdictRow) string { return r.pool }),
				text("USED", false, func(r verdictRow) string { return r.used }),
				text("BECAUSE", false, func(r verdictRow) string { return r.because }))
		}
		if !x.HostNetwork {
			fmt.Fprintln(w)
			w.addresses(x.Holds, "The pod holds no address.")
		}
		w.findings(x.Findings)
		for _, note := range x.Notes {
			fmt.Fprintf(w, "\n%s\n", note)
		}
	}}
}

func verdictRows(x view.Explanation) []verdictRow {
	var rows []verdictRow
	for _, i := range x.Interfaces {
		if i.Other != "" {
			rows = append(rows, verdictRow{ifname: i.Name, network: i.Network, used: "no", because: i.Other})
		}
		for _, f := range i.Families {
			if f.Source == "" {
				rows = append(rows, verdictRow{ifname: i.Name, network: i.Network, family: f.Family.String(), used: "no", because: "nothing asks for an address of this version"})
			}
			rows = append(rows, poolRows(x, i, f)...)
		}
	}
	return rows
}

func poolRows(x view.Explanation, i view.InterfaceExplanation, f view.FamilyExplanation) []verdictRow {
	held := map[string][]string{} // by pool
	for _, a := range x.Holds {
		if a.PodUID == x.UID && a.Interface == i.Name && inet.FamilyOf(a.Addr) == f.Family && a.State == string(lease.InUse) {
			held[a.Pool] = append(held[a.Pool], a.Addr.String())
		}
	}
	var rows []verdictRow
	for rank, v := range f.Pools {
		row := verdictRow{i.Name, i.Network, f.Family.String(), v.Pool, "no", v.Reason}
		switch {
		case len(held[v.Pool]) > 0:
			row.used, row.because = "yes", strings.Join(held[v.Pool], ", ")+"; named by: "+f.Source
			if !v.Candidate {
				row.because += "; a new pod would not get it: " + v.Reason
			}
		case v.Candidate:
			row.used, row.because = fmt.Sprintf("choice %d", rank+1), v.Reason+"; named by: "+f.Source
		}
		rows = append(rows, row)
	}
	return rows
}
