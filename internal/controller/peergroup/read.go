package peergroup

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/cached"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/policy"
)

// page is the maximum number of objects in one response: 100 full ones have about 2 MB.
const page = 100

// adopt reads the objects of the former leader.
func (r *Reconciler) adopt(ctx context.Context) error {
	for next := ""; ; {
		var list v2beta1.SpiderPeerGroupList
		if err := r.live.List(ctx, &list, client.Limit(page), client.Continue(next)); err != nil {
			return err
		}
		for i := range list.Items {
			if stored, ok := compile.PeerGroup(&list.Items[i]); ok {
				r.index.adopt(stored, list.Items[i].ResourceVersion, intact(&list.Items[i], stored), r.clock.Now())
			}
		}
		if next = list.Continue; next == "" {
			return nil
		}
	}
}

// intact reports whether an object is as we write it.
func intact(object *v2beta1.SpiderPeerGroup, stored compile.PeerSlice) bool {
	want := compile.PeerGroupObject(stored)
	return equality.Semantic.DeepEqual(want.Spec, object.Spec) && equality.Semantic.DeepEqual(want.Labels, object.Labels)
}

func namespaceMetadata() *metav1.PartialObjectMetadata {
	object := &metav1.PartialObjectMetadata{}
	object.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	return object
}

func (r *Reconciler) loadNamespaces(ctx context.Context) error {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("NamespaceList"))
	if err := r.client.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
		return err
	}
	for i := range list.Items {
		r.index.setNamespace(list.Items[i].Name, list.Items[i].Labels)
	}
	return nil
}

func (r *Reconciler) readNamespace(ctx context.Context, key client.ObjectKey) error {
	object := namespaceMetadata()
	err := r.client.Get(ctx, key, object)
	switch {
	case apierrors.IsNotFound(err):
		r.index.deleteNamespace(key.Name)
	case err != nil:
		return err
	default:
		r.index.setNamespace(key.Name, object.Labels)
	}
	return nil
}

func (r *Reconciler) loadPods(ctx context.Context) error {
	byPod := map[client.ObjectKey]*v2beta1.SpiderEndpoint{}
	err := cached.Each(ctx, r.cache, &v2beta1.SpiderEndpointList{}, func(e *v2beta1.SpiderEndpoint) { byPod[client.ObjectKeyFromObject(e)] = e })
	if err != nil {
		return err
	}
	endpoint := func(key client.ObjectKey) (*v2beta1.SpiderEndpoint, error) { return byPod[key], nil }
	var errs []error
	err = cached.Each(ctx, r.cache, &corev1.PodList{}, func(pod *corev1.Pod) {
		if err := r.setPod(pod, endpoint); err != nil {
			errs = append(errs, err)
		}
	})
	return errors.Join(append(errs, err)...)
}

// readPod reads a pod after a change of it or of a SpiderEndpoint. The endpoint may be that of a virtual machine.
func (r *Reconciler) readPod(ctx context.Context, key client.ObjectKey) error {
	errs := []error{r.readOnePod(ctx, key)}
	for _, pod := range slices.Collect(maps.Keys(r.machines.pods[key])) {
		errs = append(errs, r.readOnePod(ctx, pod))
	}
	return errors.Join(errs...)
}

func (r *Reconciler) readOnePod(ctx context.Context, key client.ObjectKey) error {
	pod := &corev1.Pod{}
	err := r.client.Get(ctx, key, pod, client.UnsafeDisableDeepCopy)
	if apierrors.IsNotFound(err) {
		r.machines.set(key, client.ObjectKey{})
		r.index.setPod(policy.Name{Namespace: key.Namespace, Name: key.Name}, nil)
		return nil
	}
	if err != nil {
		return err
	}
	return r.setPod(pod, func(key client.ObjectKey) (*v2beta1.SpiderEndpoint, error) {
		endpoint := &v2beta1.SpiderEndpoint{}
		if err := r.client.Get(ctx, key, endpoint, client.UnsafeDisableDeepCopy); err != nil {
			return nil, client.IgnoreNotFound(err)
		}
		return endpoint, nil
	})
}

// setPod sets a pod with its SpiderEndpoint, which has the addresses before the kubelet reports them. endpoint returns nil if
// there is none of a name.
func (r *Reconciler) setPod(object *corev1.Pod, endpoint func(client.ObjectKey) (*v2beta1.SpiderEndpoint, error)) error {
	key, machine := client.ObjectKeyFromObject(object), machineOf(object)
	r.machines.set(key, machine)
	pod := compile.PolicyPod(object)
	if pod != nil {
		pod.Node, pod.NodeAddrs = "", nil
		own, err := endpoint(key)
		if !isOf(own, object) && err == nil && machine.Name != "" {
			own, err = endpoint(machine)
		}
		if err != nil {
			return err
		}
		if isOf(own, object) {
			compile.AddPolicyInterfaces(pod, own)
		}
	}
	r.index.setPod(policy.Name{Namespace: object.Namespace, Name: object.Name}, pod)
	return nil
}

// isOf reports whether an endpoint shows the pod. Two pods of a machine, in a live migration, share one endpoint.
func isOf(endpoint *v2beta1.SpiderEndpoint, pod *corev1.Pod) bool {
	return endpoint != nil && endpoint.Status.Current.UID == compile.PodUID(pod.UID, pod.Annotations)
}

// machineOf returns the name of the SpiderEndpoint of a pod's virtual machine with fixed addresses, which is that of its
// instance; empty for other pods. The UID in the endpoint proves it.
func machineOf(pod *corev1.Pod) (key client.ObjectKey) {
	owner := metav1.GetControllerOf(pod)
	if owner == nil || owner.Kind != "VirtualMachineInstance" || !strings.HasPrefix(owner.APIVersion, "kubevirt.io/") {
		return key
	}
	return client.ObjectKey{Namespace: pod.Namespace, Name: owner.Name}
}

// machines relates the pods of virtual machines to the names of their endpoints.
type machines struct {
	pods map[client.ObjectKey]map[client.ObjectKey]bool // by machine
	of   map[client.ObjectKey]client.ObjectKey          // by pod
}

// set sets the machine of a pod, none if it is empty.
func (m *machines) set(pod, machine client.ObjectKey) {
	former := m.of[pod]
	if former == machine {
		return
	}
	delete(m.of, pod)
	if delete(m.pods[former], pod); len(m.pods[former]) == 0 {
		delete(m.pods, former)
	}
	if machine == (client.ObjectKey{}) {
		return
	}
	if m.of == nil {
		m.of, m.pods = map[client.ObjectKey]client.ObjectKey{}, map[client.ObjectKey]map[client.ObjectKey]bool{}
	}
	m.of[pod] = machine
	if m.pods[machine] == nil {
		m.pods[machine] = map[client.ObjectKey]bool{}
	}
	m.pods[machine][pod] = true
}

// checkObject compares an object with the version that we wrote, because users may change or delete it.
func (r *Reconciler) checkObject(ctx context.Context, name string) error {
	groupName, at, ok := compile.ParsePeerGroupName(name)
	if !ok {
		return nil
	}
	g := r.index.groups[groupName]
	seen := &metav1.PartialObjectMetadata{}
	seen.SetGroupVersionKind(v2beta1.GroupVersion.WithKind("SpiderPeerGroup"))
	err := r.client.Get(ctx, client.ObjectKey{Name: name}, seen)
	if client.IgnoreNotFound(err) != nil {
		return err
	}
	if g == nil && err != nil || g != nil && err == nil && !compile.OlderVersion(g.version(at), seen.ResourceVersion) && g.version(at) != "" {
		return nil
	}
	// The cache may be behind.
	err = r.live.Get(ctx, client.ObjectKey{Name: name}, seen)
	switch {
	case client.IgnoreNotFound(err) != nil:
		return fmt.Errorf("read SpiderPeerGroup %s: %w", name, err)
	case err != nil && g != nil && g.version(at) != "":
		g.setVersion(at, "")
	case err == nil && g == nil:
		r.index.adopt(compile.PeerSlice{Group: groupName, Index: at}, seen.ResourceVersion, false, r.clock.Now())
		return nil
	case err == nil && g.version(at) != seen.ResourceVersion:
		g.setVersion(at, seen.ResourceVersion)
	default:
		return nil
	}
	if at < len(g.slices) {
		g.slices[at].stale = true
	}
	r.index.mark(g)
	r.index.drop(g)
	return nil
}
