package cli

import (
	"context"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/reclaim"
	"spiderpool.dev/spiderpool/internal/view"
)

// surrounded reads all pods and nodes, and the objects of the state, at the same time.
func (o *viewOptions) surrounded(ctx context.Context, r reader, w wants) (state *view.State, around view.Surroundings, err error) {
	var group errgroup.Group
	group.Go(func() (err error) {
		around, err = r.surroundings(ctx, o.now())
		return err
	})
	group.Go(func() (err error) {
		state, err = o.state(ctx, r, w)
		return err
	})
	return state, around, group.Wait()
}

// surroundings reads all pods and nodes.
func (r reader) surroundings(ctx context.Context, now time.Time) (view.Surroundings, error) {
	s := view.Surroundings{Pods: map[lease.PodKey]view.ReportingPod{}, Nodes: map[string]reclaim.Node{}}
	var group errgroup.Group
	group.Go(func() error {
		return r.EachPod(ctx, func(pod *corev1.Pod) {
			s.Pods[lease.PodKey{Namespace: pod.Namespace, Name: pod.Name}] = view.ReportOf(pod, now)
		})
	})
	group.Go(func() error {
		return r.EachNode(ctx, func(node *corev1.Node) { s.Nodes[node.Name] = view.NodeOf(node) })
	})
	return s, group.Wait()
}

// near reads the pods and the node that decide about a lease.
func (r reader) near(ctx context.Context, l lease.Lease, now time.Time) (view.Surroundings, error) {
	s := view.Surroundings{Pods: map[lease.PodKey]view.ReportingPod{}, Nodes: map[string]reclaim.Node{}}
	for _, key := range []lease.PodKey{l.Pod, l.FixedFor.Key()} {
		if key == (lease.PodKey{}) {
			continue
		}
		pod, err := r.ReadPod(ctx, key.Namespace, key.Name)
		if err == nil {
			s.Pods[key] = view.ReportOf(pod, now)
		} else if !apierrors.IsNotFound(err) {
			return s, err
		}
	}
	if l.Node == "" {
		return s, nil
	}
	node, err := r.ReadNode(ctx, l.Node)
	if err == nil {
		s.Nodes[l.Node] = view.NodeOf(node)
	} else if !apierrors.IsNotFound(err) {
		return s, err
	}
	return s, nil
}

// leaseOf reads the lease of an address. It returns the zero value if there is none.
func (r reader) leaseOf(ctx context.Context, addr netip.Addr) (l lease.Lease, err error) {
	object, err := r.ReadBlock(ctx, inet.BlockOf(addr))
	if err != nil || object == nil {
		return l, err
	}
	if block, ok := compile.StoredBlock(object); ok {
		l, _ = block.Lease(addr)
	}
	return l, nil
}

// owners reads the StatefulSets, and returns the state of owners. It reads virtual machines when asked
// for one; the first error ends up in err.
func (r reader) owners(ctx context.Context) (of func(lease.Owner) reclaim.Owner, err error) {
	type ordinals struct{ first, end int }
	sets := map[lease.PodKey]ordinals{}
	err = r.EachStatefulSet(ctx, func(namespace, name string, first, end int) {
		sets[lease.PodKey{Namespace: namespace, Name: name}] = ordinals{first, end}
	})
	known := map[lease.Owner]reclaim.Owner{}
	return func(owner lease.Owner) reclaim.Owner {
		switch owner.Kind {
		case lease.KindVirtualMachine:
			state, ok := known[owner]
			if !ok {
				state = r.virtualMachine(ctx, owner)
				known[owner] = state
			}
			return state
		case lease.KindPod:
			return reclaim.StatefulSetPod(owner, func(name string) (first, end int, exists bool) {
				set, exists := sets[lease.PodKey{Namespace: owner.Namespace, Name: name}]
				return set.first, set.end, exists
			})
		}
		return reclaim.OwnerUnknown
	}, err
}

// virtualMachine returns OwnerWanted for an existing machine or instance, else OwnerUnknown: only the
// controller looks for its pods, too.
func (r reader) virtualMachine(ctx context.Context, owner lease.Owner) reclaim.Owner {
	for _, resource := range []string{"virtualmachines", "virtualmachineinstances"} {
		var object struct{}
		found, err := r.Lookup(ctx, &object, "/apis/kubevirt.io/v1/namespaces/"+owner.Namespace+"/"+resource+"/"+owner.Name)
		if err == nil && found {
			return reclaim.OwnerWanted
		}
	}
	return reclaim.OwnerUnknown
}
