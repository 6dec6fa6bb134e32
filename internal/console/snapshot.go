package console

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
	"spiderpool.dev/spiderpool/internal/reclaim"
	"spiderpool.dev/spiderpool/internal/view"
)

// objects reads the objects of the cluster. All reads come from memory.
type objects struct {
	client.Reader
	// events read the events of the agents and of the controller.
	events []client.Reader
	// networks is whether the API server serves NetworkAttachmentDefinitions.
	networks func() bool
	// top returns the top controller of a pod. It may ask the API server, once for each controller.
	top func(context.Context, ipam.Pod) (ipam.Controller, error)
}

// snapshot is the cluster at one time. Pages only read it.
type snapshot struct {
	generation uint64
	at         time.Time
	state      *view.State
	pods       map[lease.PodKey]*corev1.Pod
	onNode     map[string][]*corev1.Pod
	nodes      map[string]*corev1.Node
	namespaces map[string]*corev1.Namespace
	networks   map[pool.NetworkAttachment]string // their configurations
	agents     *appsv1.DaemonSet                 // nil if there is none
	// events are those of Spiderpool, the newest first.
	events []corev1.Event
	// aboutNode are those about a node, by its name.
	aboutNode map[string][]corev1.Event
}

// maxEvents limits the events of a snapshot. The API server keeps them for an hour.
const maxEvents = 2000

// take reads a snapshot.
func (o objects) take(ctx context.Context, installation ipamNames, now time.Time) (*snapshot, error) {
	s := &snapshot{
		at: now, pods: map[lease.PodKey]*corev1.Pod{}, onNode: map[string][]*corev1.Pod{}, nodes: map[string]*corev1.Node{},
		namespaces: map[string]*corev1.Namespace{}, networks: map[pool.NetworkAttachment]string{}, aboutNode: map[string][]corev1.Event{},
	}
	if err := o.own(ctx, s); err != nil {
		return nil, err
	}
	if err := o.foreign(ctx, s); err != nil {
		return nil, err
	}
	agents := &appsv1.DaemonSet{}
	err := o.Get(ctx, client.ObjectKey{Namespace: installation.namespace, Name: installation.agents}, agents)
	if client.IgnoreNotFound(err) != nil {
		return nil, fmt.Errorf("read the DaemonSet of the agents: %w", err)
	}
	if err == nil {
		s.agents = agents
	}
	for _, reader := range o.events {
		var list corev1.EventList
		if err := reader.List(ctx, &list); err != nil {
			return nil, fmt.Errorf("read events: %w", err)
		}
		s.events = append(s.events, list.Items...)
	}
	slices.SortFunc(s.events, func(a, b corev1.Event) int {
		return cmp.Or(view.TimeOf(b).Compare(view.TimeOf(a)), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	s.events = s.events[:min(len(s.events), maxEvents)]
	for _, e := range s.events {
		if about := e.InvolvedObject; about.Kind == "Node" {
			s.aboutNode[about.Name] = append(s.aboutNode[about.Name], e)
		}
	}
	return s, nil
}

// ipamNames are the names of objects of the installation.
type ipamNames struct{ namespace, agents string }

// own reads our custom resources.
func (o objects) own(ctx context.Context, s *snapshot) error {
	var pools v2beta1.SpiderIPPoolList
	var reserved v2beta1.SpiderReservedIPList
	var blocks v2beta1.SpiderIPBlockList
	var endpoints v2beta1.SpiderEndpointList
	for _, list := range []client.ObjectList{&pools, &reserved, &blocks, &endpoints} {
		if err := o.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			return fmt.Errorf("read %T: %w", list, err)
		}
	}
	s.state = view.NewState(view.Objects{
		Pools: view.Pointers(pools.Items), Reserved: view.Pointers(reserved.Items), Blocks: view.Pointers(blocks.Items), Endpoints: view.Pointers(endpoints.Items),
	}, s.at)
	return nil
}

// foreign reads the pods, the nodes, the namespaces and the network attachments.
func (o objects) foreign(ctx context.Context, s *snapshot) error {
	var pods corev1.PodList
	var nodes corev1.NodeList
	var namespaces corev1.NamespaceList
	for _, list := range []client.ObjectList{&pods, &nodes, &namespaces} {
		if err := o.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			return fmt.Errorf("read %T: %w", list, err)
		}
	}
	for _, p := range view.Pointers(pods.Items) {
		s.pods[lease.PodKey{Namespace: p.Namespace, Name: p.Name}] = p
		s.onNode[p.Spec.NodeName] = append(s.onNode[p.Spec.NodeName], p)
	}
	for _, n := range view.Pointers(nodes.Items) {
		s.nodes[n.Name] = n
	}
	for _, n := range view.Pointers(namespaces.Items) {
		s.namespaces[n.Name] = n
	}
	if !o.networks() {
		return nil
	}
	var networks nadv1.NetworkAttachmentDefinitionList
	if err := o.List(ctx, &networks, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("read NetworkAttachmentDefinitions: %w", err)
	}
	for i := range networks.Items {
		n := &networks.Items[i]
		s.networks[pool.NetworkAttachment{Namespace: n.Namespace, Name: n.Name}] = n.Spec.Config
	}
	return nil
}

// network returns the configuration of an attachment, or ipam.ErrNotFound or agentclient.ErrBadNetwork.
func (s *snapshot) network(name pool.NetworkAttachment) (ipam.Network, error) {
	text, ok := s.networks[name]
	if !ok {
		return ipam.Network{}, fmt.Errorf("NetworkAttachmentDefinition %s: %w", name, ipam.ErrNotFound)
	}
	network, err := agentclient.ParseNetwork(text)
	if err != nil {
		return ipam.Network{}, fmt.Errorf("NetworkAttachmentDefinition %s: %w", name, err)
	}
	return network, nil
}

// podState returns the facts about a pod.
func (s *snapshot) podState(key lease.PodKey) reclaim.Pod {
	if key == (lease.PodKey{}) {
		return reclaim.Pod{}
	}
	pod, ok := s.pods[key]
	if !ok {
		return reclaim.Pod{Presence: reclaim.Gone}
	}
	return view.ReportOf(pod, s.at).Pod
}
