package cli

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/klog/v2"

	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/pool"
	"spiderpool.dev/spiderpool/internal/view"
)

// capacityOptions are the flags of capacity.
type capacityOptions struct {
	viewOptions
	pods                              int64
	selector, node, namespace, system string
}

func newCapacity(now func() time.Time) *cobra.Command {
	o := capacityOptions{viewOptions: viewOptions{now: now}}
	cmd := &cobra.Command{
		Use:   "capacity --pods N",
		Short: "Tell how many more pods get addresses, and what stops the next one",
		Long: `Tell how many more pods get addresses on each node and in all, and what stops the next one. The
pods are like the newest pod with the labels of --selector: the same annotations, labels, owner
and networks. Without --selector, they have no annotations and no labels. The command selects
pools with the agent's own code. A node counts alone, as if all pods came to it; nodes share
pools, so the total is less than the sum. The kubelet's limit of pods, the addresses that the
scheduler counts (Helm value addressResource.enabled), taints and cordons count; processors,
memory and affinities do not. The exit code is 1 if not all N pods fit.`,
		Example: `  # 50 more pods of a Deployment
  spiderpoolctl capacity --pods 50 -n shop -l app=web

  # on one node
  spiderpoolctl capacity --pods 1 -n shop --node worker-1`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.pods < 1 {
				return fmt.Errorf("--pods %d: write a number from 1", o.pods)
			}
			if _, err := labels.Parse(o.selector); err != nil {
				return fmt.Errorf("--selector %q: write labels, e.g. app=web: %w", o.selector, err)
			}
			return o.run(cmd, o.capacity)
		},
	}
	o.flags(cmd)
	cmd.Flags().Int64Var(&o.pods, "pods", 1, "number of further pods")
	cmd.Flags().StringVarP(&o.selector, "selector", "l", "", "labels of an existing pod that the further ones are like, e.g. app=web")
	cmd.Flags().StringVar(&o.node, "node", "", "only this node")
	cmd.Flags().StringVarP(&o.namespace, "namespace", "n", "default", "namespace of the pods")
	cmd.Flags().StringVar(&o.system, "system-namespace", "kube-system", "namespace of Spiderpool, with the ConfigMap "+configMap)
	formatFlag(cmd, &o.format)
	return cmd
}

func (o *capacityOptions) capacity(ctx context.Context, r reader) (answer, error) {
	file, note, err := installation(ctx, r, o.system)
	if err != nil {
		return answer{}, err
	}
	example, err := o.example(ctx, r)
	if err != nil {
		return answer{}, err
	}
	q := view.CapacityQuestion{Pods: o.pods}
	var state *view.State
	var group errgroup.Group
	group.Go(func() (err error) {
		state, err = o.state(ctx, r, wants{pools: true, blocks: true})
		return err
	})
	group.Go(func() (err error) {
		q.Like, err = o.like(ctx, r, example, file)
		return err
	})
	group.Go(func() (err error) {
		q.Nodes, err = o.nodes(ctx, r, example)
		return err
	})
	if err := group.Wait(); err != nil {
		return answer{}, err
	}
	c, err := state.Capacity(q)
	if err != nil {
		return answer{}, err
	}
	if note != "" {
		c.Notes = append(c.Notes, note)
	}
	if example.Name != "" {
		c.Notes = append(c.Notes, fmt.Sprintf("The pods are like %s/%s.", example.Namespace, example.Name))
	}
	if !c.Fits {
		err = errFound
	}
	return capacityAnswer(c), err
}

// example returns the newest pod of the selector. Without a selector, it has no name.
func (o *capacityOptions) example(ctx context.Context, r reader) (*corev1.Pod, error) {
	newest := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: o.namespace}}
	if o.selector == "" {
		return newest, nil
	}
	err := r.EachPodOf(ctx, o.namespace, metav1.ListOptions{LabelSelector: o.selector}, func(pod *corev1.Pod) {
		if !pod.Spec.HostNetwork && (newest.Name == "" || newest.CreationTimestamp.Before(&pod.CreationTimestamp)) {
			newest = pod
		}
	})
	if err == nil && newest.Name == "" {
		err = fmt.Errorf("--selector %q: no pod of namespace %s with a network of its own has these labels; kubectl get pods -n %s --show-labels prints all, or leave out --selector", o.selector, o.namespace, o.namespace)
	}
	return newest, err
}

// like returns the question about a pod like the example, on no node.
func (o *capacityOptions) like(ctx context.Context, r reader, example *corev1.Pod, file *config.File) (view.PodQuestion, error) {
	pod := example.DeepCopy()
	pod.Spec.NodeName = ""
	q, err := r.questionAbout(ctx, pod, file, o.system)
	if errors.Is(err, ipam.ErrNotFound) {
		return q, fmt.Errorf("--namespace: %w", unknownNamespace(o.namespace))
	}
	return q, err
}

// nodes returns the nodes with their room for pods.
func (o *capacityOptions) nodes(ctx context.Context, r reader, example *corev1.Pod) ([]view.CandidateNode, error) {
	var nodes []*corev1.Node
	unfinished := fields.AndSelectors(fields.OneTermNotEqualSelector("status.phase", string(corev1.PodSucceeded)), fields.OneTermNotEqualSelector("status.phase", string(corev1.PodFailed)))
	var err error
	if o.node != "" {
		nodes = make([]*corev1.Node, 1)
		nodes[0], err = readKnownNode(ctx, r, o.node)
		unfinished = fields.AndSelectors(unfinished, fields.OneTermEqualSelector("spec.nodeName", o.node))
	} else {
		err = r.EachNode(ctx, func(node *corev1.Node) { nodes = append(nodes, node) })
	}
	if err != nil {
		return nil, err
	}
	pods, requested := map[string]int64{}, map[string]corev1.ResourceList{} // by node
	err = r.EachPodOf(ctx, "", metav1.ListOptions{FieldSelector: unfinished.String()}, func(pod *corev1.Pod) {
		pods[pod.Spec.NodeName]++
		for name, count := range compile.AddressRequests(&pod.Spec) {
			if requested[pod.Spec.NodeName] == nil {
				requested[pod.Spec.NodeName] = corev1.ResourceList{}
			}
			count.Add(requested[pod.Spec.NodeName][name])
			requested[pod.Spec.NodeName][name] = count
		}
	})
	further := compile.AddressRequests(&example.Spec)
	var candidates []view.CandidateNode
	for _, node := range nodes {
		limit := node.Status.Allocatable.Pods().Value()
		candidates = append(candidates, view.CandidateNode{
			NodeFacts: pool.NodeFacts{Name: node.Name, Labels: node.Labels}, Closed: closedTo(node, &example.Spec), Limit: limit, Room: max(0, limit-pods[node.Name]),
			Offers: view.OffersLeft(node, requested[node.Name], further),
		})
	}
	return candidates, err
}

// closedTo returns why the scheduler places no such pod on the node, "" if it may.
func closedTo(node *corev1.Node, pod *corev1.PodSpec) string {
	if node.Spec.Unschedulable {
		return "it is cordoned"
	}
	for i := range node.Spec.Taints {
		taint := &node.Spec.Taints[i]
		tolerated := slices.ContainsFunc(pod.Tolerations, func(t corev1.Toleration) bool { return t.ToleratesTaint(klog.Background(), taint, true) })
		if taint.Effect != corev1.TaintEffectPreferNoSchedule && !tolerated {
			return "the pods do not tolerate the taint " + taint.ToString()
		}
	}
	if !labels.SelectorFromSet(pod.NodeSelector).Matches(labels.Set(node.Labels)) {
		return "the pods' nodeSelector excludes it"
	}
	return ""
}

// shownStop is the maximum length of a reason in a row, in bytes.
const shownStop = 160

func capacityAnswer(c view.Capacity) answer {
	a := answer{value: c}
	for _, node := range c.Nodes {
		if node.Pods > 0 {
			a.names = append(a.names, "node/"+node.Node)
		}
	}
	a.draw = func(w drawing) {
		verdict := fmt.Sprintf("%sYes%s: %d more pods fit.", w.green, w.plain, c.Pods)
		if !c.Fits {
			verdict = fmt.Sprintf("%sNo%s: %d of %d more pods fit.", w.red, w.plain, c.Total, c.Pods)
		}
		fmt.Fprintln(w, verdict)
		if c.Total < math.MaxInt64 && c.Fits {
			fmt.Fprintf(w, "At most %d fit, then: %s.\n", c.Total, orNone(c.Stop, "nothing stops the next one"))
		}
		fmt.Fprintln(w)
		text := func(head string, wide bool, cell func(view.NodeCapacity) string) column[view.NodeCapacity] {
			return column[view.NodeCapacity]{head, wide, cell}
		}
		drawTable(w, "There is no node.", c.Nodes,
			text("NODE", false, func(n view.NodeCapacity) string { return n.Node }),
			text("PODS", false, func(n view.NodeCapacity) string { return strconv.FormatInt(n.Pods, 10) }),
			text("BY ADDRESSES", true, func(n view.NodeCapacity) string { return boundless(n.Addresses) }),
			text("THE NEXT ONE STOPS AT", false, func(n view.NodeCapacity) string {
				if w.wide || len(n.Stop) <= shownStop {
					return n.Stop
				}
				return strings.ToValidUTF8(n.Stop[:shownStop], "") + "..."
			}))
		w.findings(c.Findings)
		for _, note := range c.Notes {
			fmt.Fprintf(w, "\n%s\n", note)
		}
	}
	return a
}

func boundless(n int64) string {
	if n == math.MaxInt64 {
		return "no limit"
	}
	return strconv.FormatInt(n, 10)
}
