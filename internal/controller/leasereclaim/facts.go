package leasereclaim

import (
	"context"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/blockindex"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/reclaim"
)

// labelVirtualMachine is the label of a virtual machine's pods
// (VirtualMachineNameLabel in kubevirt.io/api/core/v1).
const labelVirtualMachine = "vm.kubevirt.io/name"

// facts observes the facts for package reclaim. A failed read gives an unknown fact.
type facts struct {
	reader client.Reader
	// live is false for the cached facts. They report virtual machines and owners of
	// unknown kinds as gone, and the live facts then decide: a cache would watch
	// namespaces, and kinds that most clusters do not have.
	live bool
	// fixed returns the blocks with addresses fixed for the owner. The cached ones include the
	// other addresses of a pod.
	fixed func(ctx context.Context, owner lease.Owner) ([]v2beta1.SpiderIPBlock, error)
}

// cachedFacts reads the manager's cache.
func cachedFacts(c client.Client) facts {
	return facts{reader: c, fixed: func(ctx context.Context, owner lease.Owner) ([]v2beta1.SpiderIPBlock, error) {
		return blockindex.BlocksOfHolder(ctx, c, owner.Key())
	}}
}

// liveFacts reads from the API server.
func liveFacts(live client.Reader) facts {
	return facts{reader: live, live: true, fixed: func(ctx context.Context, owner lease.Owner) ([]v2beta1.SpiderIPBlock, error) {
		var list v2beta1.SpiderIPBlockList
		err := live.List(ctx, &list, client.HasLabels{compile.BlockFixedLabel(owner)})
		return list.Items, err
	}}
}

// of returns the facts about a lease. It does not read the pods of live nodes: their
// agents judge them.
func (f facts) of(ctx context.Context) func(lease.Lease) reclaim.Facts {
	return func(l lease.Lease) reclaim.Facts {
		out := reclaim.Facts{Owner: f.owner(ctx, l.FixedFor)}
		switch {
		case l.State == lease.Retained:
			out.Replaced = f.replaced(ctx, l)
			if out.Owner == reclaim.OwnerWanted && f.left(ctx, l) {
				out.Owner = reclaim.OwnerLeft
			}
			return out
		case l.State != lease.InUse:
			return out
		}
		out.Node = f.node(ctx, l.Node)
		if out.Node.Presence == reclaim.Gone || out.Node.OutOfService {
			out.Pod = f.pod(ctx, l.Pod)
		}
		return out
	}
}

// replaced reports whether the owner of a retained address uses another one instead.
func (f facts) replaced(ctx context.Context, l lease.Lease) bool {
	blocks, err := f.fixed(ctx, l.FixedFor)
	if err != nil {
		return false
	}
	for i := range blocks {
		block, err := compile.Block(&blocks[i])
		if err != nil {
			continue
		}
		if slices.ContainsFunc(block.Leases, func(o lease.Lease) bool { return reclaim.Replaces(o, l) }) {
			return true
		}
	}
	return false
}

// left reports whether the next pod of a StatefulSet runs without any lease, e.g. because its
// template no longer names our network. A running pod has all its interfaces, and an ADD
// stores the lease before it answers; so read the pod first.
func (f facts) left(ctx context.Context, l lease.Lease) bool {
	if l.FixedFor.Kind != lease.KindPod {
		return false
	}
	if !reclaim.Succeeds(f.pod(ctx, l.FixedFor.Key()), l) {
		return false
	}
	blocks, err := f.fixed(ctx, l.FixedFor)
	if err != nil {
		return false
	}
	for i := range blocks {
		block, err := compile.Block(&blocks[i])
		uses := func(o lease.Lease) bool { return reclaim.UsedAgain(o, l) }
		if err != nil || slices.ContainsFunc(block.Leases, uses) {
			return false
		}
	}
	return true
}

func (f facts) node(ctx context.Context, name string) reclaim.Node {
	var node corev1.Node
	err := f.reader.Get(ctx, client.ObjectKey{Name: name}, &node)
	switch {
	case name == "":
		return reclaim.Node{}
	case apierrors.IsNotFound(err):
		return reclaim.Node{Presence: reclaim.Gone}
	case err != nil:
		return reclaim.Node{}
	}
	return nodeOf(&node)
}

func nodeOf(node *corev1.Node) reclaim.Node {
	out := reclaim.Node{Presence: reclaim.Exists}
	for _, taint := range node.Spec.Taints {
		if taint.Key == corev1.TaintNodeOutOfService {
			out.OutOfService = true
		}
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			out.Ready = condition.Status == corev1.ConditionTrue
		}
	}
	return out
}

func (f facts) pod(ctx context.Context, key lease.PodKey) reclaim.Pod {
	var pod corev1.Pod
	err := f.reader.Get(ctx, client.ObjectKey(key), &pod)
	if apierrors.IsNotFound(err) {
		return reclaim.Pod{Presence: reclaim.Gone}
	}
	if err != nil {
		return reclaim.Pod{}
	}
	grace := time.Duration(ptr.Deref(pod.DeletionGracePeriodSeconds, 0)) * time.Second
	return reclaim.Pod{
		Presence: reclaim.Exists, UID: compile.PodUID(pod.UID, pod.Annotations), Phase: string(pod.Status.Phase),
		Terminating: pod.DeletionTimestamp != nil, Grace: grace, HasAddress: len(pod.Status.PodIPs) > 0,
	}
}

func (f facts) owner(ctx context.Context, owner lease.Owner) reclaim.Owner {
	switch {
	case owner.IsZero():
		return reclaim.OwnerUnknown
	case owner.Kind == lease.KindPod:
		return f.statefulSetPod(ctx, owner)
	case !f.live:
		return reclaim.OwnerGone
	case owner.Kind == lease.KindVirtualMachine:
		return f.virtualMachine(ctx, owner)
	}
	// A later release knows the kind. Whatever it is, the owner is gone with its namespace.
	if apierrors.IsNotFound(f.reader.Get(ctx, client.ObjectKey{Name: owner.Namespace}, &corev1.Namespace{})) {
		return reclaim.OwnerGone
	}
	return reclaim.OwnerUnknown
}

// statefulSetPod reports whether a StatefulSet has a replica with the name of the pod.
func (f facts) statefulSetPod(ctx context.Context, pod lease.Owner) reclaim.Owner {
	var fault error
	owner := reclaim.StatefulSetPod(pod, func(name string) (first, end int, exists bool) {
		var set appsv1.StatefulSet
		err := f.reader.Get(ctx, client.ObjectKey{Namespace: pod.Namespace, Name: name}, &set)
		fault = client.IgnoreNotFound(err)
		first, end = ordinals(&set)
		return first, end, err == nil
	})
	if fault != nil {
		return reclaim.OwnerUnknown
	}
	return owner
}

// virtualMachine reports whether the machine, its instance or any of its pods exists.
func (f facts) virtualMachine(ctx context.Context, machine lease.Owner) reclaim.Owner {
	for _, kind := range []string{"VirtualMachine", "VirtualMachineInstance"} {
		object := &metav1.PartialObjectMetadata{}
		object.SetGroupVersionKind(schema.GroupVersionKind{Group: "kubevirt.io", Version: "v1", Kind: kind})
		err := f.reader.Get(ctx, client.ObjectKey(machine.Key()), object)
		if err == nil {
			return reclaim.OwnerWanted
		}
		if !apierrors.IsNotFound(err) && !meta.IsNoMatchError(err) {
			return reclaim.OwnerUnknown
		}
	}
	var pods metav1.PartialObjectMetadataList
	pods.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("PodList"))
	if err := f.reader.List(ctx, &pods, client.InNamespace(machine.Namespace)); err != nil {
		return reclaim.OwnerUnknown
	}
	for i := range pods.Items {
		// An unproven pod counts, too: an earlier release gave it the machine's address.
		ref := metav1.GetControllerOf(&pods.Items[i])
		if pods.Items[i].Labels[labelVirtualMachine] == machine.Name || ref != nil && ref.Kind == "VirtualMachineInstance" && ref.Name == machine.Name {
			return reclaim.OwnerWanted
		}
	}
	return reclaim.OwnerGone
}
