package cli

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	corev1 "k8s.io/api/core/v1"

	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/kube/agentclient"
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
also compares the pod's leases with its SpiderEndpoint, and says if a waiting pod has no ready
agent on its node. It reads the API server only: spiderpoolctl node, in the agent of the node,
checks the kernel. The exit code is 1 if there is a problem.`,
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
	var node *corev1.Node
	if pod.Spec.NodeName != "" {
		if node, err = r.ReadNode(ctx, pod.Spec.NodeName); err != nil {
			return view.PodQuestion{}, err
		}
	}
	return view.PodSources{
		Pod: pod, Namespace: namespace, Top: top, Node: node, Config: file, SystemNamespace: system,
		Network: func(name pool.NetworkAttachment) (ipam.Network, error) { return r.cluster.Network(ctx, name) },
		Agent:   func() (*corev1.Pod, error) { return r.agentOn(ctx, pod.Spec.NodeName, file, system) },
	}.Question(), nil
}

// agentOn returns the agent of a node, nil if there is none.
func (r reader) agentOn(ctx context.Context, node string, file *config.File, system string) (*corev1.Pod, error) {
	agents, err := readOne[appsv1.DaemonSet](ctx, r, agentsPath(file, system))
	if agents == nil {
		return nil, err
	}
	var pods []*corev1.Pod
	err = r.EachPodOf(ctx, system, onNode(node), func(pod *corev1.Pod) { pods = append(pods, pod) })
	return view.AgentOf(pods, agents), err
}

// agentsPath is the path of the DaemonSet of the agents.
func agentsPath(file *config.File, system string) string {
	return "/apis/apps/v1/namespaces/" + system + "/daemonsets/" + file.AgentProcess.TLS.ServiceName
}

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
		if rows := x.Rows(); len(rows) > 0 {
			fmt.Fprintln(w)
			text := func(head string, wide bool, cell func(view.VerdictRow) string) column[view.VerdictRow] {
				return column[view.VerdictRow]{head, wide, cell}
			}
			drawTable(w, "", rows,
				text("INTERFACE", false, func(r view.VerdictRow) string { return r.Interface }),
				text("NETWORK", true, func(r view.VerdictRow) string { return r.Network }),
				text("IP", false, func(r view.VerdictRow) string { return r.Family }),
				text("POOL", false, func(r view.VerdictRow) string { return r.Pool }),
				text("USED", false, func(r view.VerdictRow) string { return r.Used }),
				text("BECAUSE", false, func(r view.VerdictRow) string { return r.Because }))
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
