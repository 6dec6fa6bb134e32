package agentclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/internal/cniconf"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
	"spiderpool.dev/spiderpool/internal/readcache"
	"spiderpool.dev/spiderpool/internal/reclaim"
)

// Cluster implements ipam.Cluster for one node. Run watches the pods of the node, the
// node itself and all namespaces, and stores their labels and the annotations that
// affect addresses and bandwidth. Other objects are read when they are needed.
type Cluster struct {
	client *Client
	node   string
	log    *slog.Logger

	pods       *podStore
	namespaces *namespaceStore
	nodes      *store[pool.NodeFacts]

	networks readcache.Cache[pool.NetworkAttachment, ipam.Network]
	// runtimes has one key: the container runtime that the kubelet of this node reports.
	runtimes readcache.Cache[struct{}, string]
	// tops holds top controllers. It has no TTL: the owner of an existing object does not
	// change.
	tops readcache.Cache[reference, ipam.Controller]
}

// reference is the controller in an owner reference. A pod may claim the UID of another
// namespace's controller, so the UID alone is no key.
type reference struct {
	namespace string
	ipam.Controller
}

const (
	networkTTL = 5 * time.Second
	runtimeTTL = 10 * time.Minute
	// maxTops bounds the remembered controllers; a node runs a few hundred.
	maxTops = 4096
)

// NewCluster returns a Cluster for the node. Call Run to start its watches.
func NewCluster(client *Client, node string, log *slog.Logger) *Cluster {
	return &Cluster{
		client: client, node: node, log: log,
		pods:       &podStore{store: newStore(podOf)},
		namespaces: &namespaceStore{store: newStore(namespaceOf)},
		nodes:      newStore(nodeOf),
		networks:   readcache.Cache[pool.NetworkAttachment, ipam.Network]{TTL: networkTTL, Now: time.Now},
		runtimes:   readcache.Cache[struct{}, string]{TTL: runtimeTTL, Now: time.Now},
		tops:       readcache.Cache[reference, ipam.Controller]{Max: maxTops, Now: time.Now},
	}
}

// OnPodEnd registers f. It is called, possibly more than once, with the UID of each pod
// on this node that finishes, starts terminating, or is deleted. Call OnPodEnd before
// Run.
func (c *Cluster) OnPodEnd(f func(uid string)) { c.pods.ends = f }

// OnPodAnnotation registers f, which is called after a change of any pod's annotations on
// this node. f must not block. Call OnPodAnnotation before Run.
func (c *Cluster) OnPodAnnotation(f func()) { c.pods.annotated = f }

// OnNamespaceLabels registers f, which is called with the name of each namespace whose labels the watch tells: at first, and
// after a change. f must not block. Call OnNamespaceLabels before Run.
func (c *Cluster) OnNamespaceLabels(f func(name string)) { c.namespaces.labeled = f }

// NamespaceLabels returns the labels of a namespace if the watch has seen it.
func (c *Cluster) NamespaceLabels(name string) (map[string]string, bool) {
	facts, ok, _ := c.namespaces.get(key{"", name})
	return facts.Labels, ok
}

// OnPodLabels registers f, which is called with each new pod of this node, and after a change of a pod's labels. f must not
// block. Call OnPodLabels before Run.
func (c *Cluster) OnPodLabels(f func(lease.PodKey)) { c.pods.labeled = f }

// SeenPod returns a pod of this node if the watch has seen it.
func (c *Cluster) SeenPod(name lease.PodKey) (ipam.Pod, bool) {
	pod, ok, _ := c.pods.get(key{name.Namespace, name.Name})
	return pod, ok
}

// Pods returns the pods of this node that the watch has seen.
func (c *Cluster) Pods() []ipam.Pod { return c.pods.pods() }

// Run watches the cluster until ctx ends.
func (c *Cluster) Run(ctx context.Context) {
	ofNode := fields.OneTermEqualSelector("spec.nodeName", c.node)
	finished := fields.AndSelectors(ofNode,
		fields.OneTermNotEqualSelector("status.phase", string(corev1.PodPending)),
		fields.OneTermNotEqualSelector("status.phase", string(corev1.PodRunning)))
	self := fields.OneTermEqualSelector("metadata.name", c.node).String()
	var wg sync.WaitGroup
	wg.Go(func() { c.client.watch(ctx, selection{resource: podResource, fields: ofNode.String()}, c.pods, c.log) })
	wg.Go(func() {
		c.client.watch(ctx, selection{resource: podResource, fields: finished.String()}, finishedPods{c.pods}, c.log)
	})
	wg.Go(func() { c.client.watch(ctx, selection{resource: namespaceResource}, c.namespaces, c.log) })
	wg.Go(func() { c.client.watch(ctx, selection{resource: nodeResource, fields: self}, c.nodes, c.log) })
	wg.Wait()
}

// Ready returns ipam.ErrNotReady, with the list of missing objects, until all watches
// have started.
func (c *Cluster) Ready() error {
	var errs []error
	if _, _, synced := c.pods.get(key{}); !synced {
		errs = append(errs, errors.New("pods of this node"))
	}
	if _, _, synced := c.namespaces.get(key{}); !synced {
		errs = append(errs, errors.New("namespaces"))
	}
	if _, ok, synced := c.nodes.get(key{"", c.node}); !synced || !ok {
		errs = append(errs, fmt.Errorf("node %s", c.node))
	}
	if len(errs) > 0 {
		return fmt.Errorf("%w: not read yet: %w", ipam.ErrNotReady, errors.Join(errs...))
	}
	return nil
}

func podOf(object *metav1.PartialObjectMetadata) ipam.Pod {
	pod := ipam.Pod{
		PodKey: lease.PodKey{Namespace: object.Namespace, Name: object.Name}, UID: uidOf(object),
		Labels: object.Labels, Annotations: relevant(object.Annotations),
	}
	pod.Owner = controllerOf(object)
	return pod
}

func uidOf(pod metav1.Object) string { return compile.PodUID(pod.GetUID(), pod.GetAnnotations()) }

// foreignAnnotations are the relevant annotations of others.
var foreignAnnotations = []string{
	names.AnnotationMultusNetworks, names.AnnotationMultusDefaultNetwork,
	names.AnnotationPodIngressBandwidth, names.AnnotationPodEgressBandwidth,
}

// relevant returns only the annotations that affect address allocation or bandwidth.
func relevant(annotations map[string]string) map[string]string {
	var kept map[string]string
	for name, value := range annotations {
		if strings.HasPrefix(name, "ipam.spidernet.io/") || slices.Contains(foreignAnnotations, name) {
			if kept == nil {
				kept = map[string]string{}
			}
			kept[name] = value
		}
	}
	return kept
}

// maxReferenceText bounds each text of an owner reference. The API server accepts any
// length, but a name has at most 253 letters, and a group with a version 317.
const maxReferenceText = 317

func controllerOf(object *metav1.PartialObjectMetadata) ipam.Controller {
	owner := metav1.GetControllerOf(object)
	if owner != nil && max(len(owner.APIVersion), len(owner.Kind), len(owner.Name), len(owner.UID)) <= maxReferenceText {
		return ipam.Controller{APIVersion: owner.APIVersion, Kind: owner.Kind, Name: owner.Name, UID: string(owner.UID)}
	}
	return ipam.Controller{}
}

func namespaceOf(object *metav1.PartialObjectMetadata) pool.NamespaceFacts {
	return pool.NamespaceFacts{Name: object.Name, Labels: object.Labels, Annotations: relevant(object.Annotations)}
}

func nodeOf(object *metav1.PartialObjectMetadata) pool.NodeFacts {
	return pool.NodeFacts{Name: object.Name, Labels: object.Labels}
}

// Pod implements ipam.Cluster.
func (c *Cluster) Pod(ctx context.Context, name lease.PodKey, uid string) (ipam.Pod, error) {
	pod, ok, synced := c.pods.get(key{name.Namespace, name.Name})
	if ok && synced && uid != "" && pod.UID == uid {
		return pod, nil
	}
	// Without a UID we cannot tell whether the stored pod is an earlier one of this name.
	return c.livePod(ctx, name, uid)
}

func (c *Cluster) livePod(ctx context.Context, name lease.PodKey, uid string) (ipam.Pod, error) {
	// spec.nodeName is not in the metadata, so the server has to compare it.
	list, err := c.client.metadata.Resource(podResource).Namespace(name.Namespace).List(ctx, metav1.ListOptions{
		FieldSelector: fields.AndSelectors(
			fields.OneTermEqualSelector("metadata.name", name.Name),
			fields.OneTermEqualSelector("spec.nodeName", c.node)).String(),
	})
	if err != nil {
		return ipam.Pod{}, fmt.Errorf("read pod %s: %w", name, err)
	}
	if len(list.Items) == 1 {
		pod := podOf(&list.Items[0])
		if uid != "" && pod.UID != uid {
			return ipam.Pod{}, fmt.Errorf("pod %s now has UID %s: %w", name, pod.UID, ipam.ErrNotFound)
		}
		return pod, nil
	}
	object, err := c.client.metadata.Resource(podResource).Namespace(name.Namespace).Get(ctx, name.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return ipam.Pod{}, fmt.Errorf("pod %s: %w", name, ipam.ErrNotFound)
	case err != nil:
		return ipam.Pod{}, fmt.Errorf("read pod %s: %w", name, err)
	case uid != "" && uidOf(object) != uid:
		return ipam.Pod{}, fmt.Errorf("pod %s now has UID %s: %w", name, uidOf(object), ipam.ErrNotFound)
	}
	return ipam.Pod{}, fmt.Errorf("pod %s: %w", name, ipam.ErrElsewhere)
}

// PodState implements ipam.Cluster.
func (c *Cluster) PodState(ctx context.Context, name lease.PodKey) (reclaim.Pod, error) {
	raw, err := answer(c.client.spiderpool.Get().AbsPath("/api/v1/namespaces", name.Namespace, "pods", name.Name).Do(ctx))
	if apierrors.IsNotFound(err) {
		return reclaim.Pod{Presence: reclaim.Gone}, nil
	}
	if err != nil {
		return reclaim.Pod{}, fmt.Errorf("read pod %s: %w", name, err)
	}
	var object struct {
		Metadata struct {
			UID               types.UID         `json:"uid"`
			Annotations       map[string]string `json:"annotations"`
			DeletionTimestamp *time.Time        `json:"deletionTimestamp"`
			GracePeriod       int64             `json:"deletionGracePeriodSeconds"`
		} `json:"metadata"`
		Status struct {
			Phase  string            `json:"phase"`
			PodIPs []json.RawMessage `json:"podIPs"`
		} `json:"status"`
	}
	if err := json.Unmarshal(raw, &object); err != nil {
		return reclaim.Pod{}, fmt.Errorf("read pod %s: %w", name, err)
	}
	state := reclaim.Pod{
		Presence: reclaim.Exists, UID: compile.PodUID(object.Metadata.UID, object.Metadata.Annotations),
		Phase: object.Status.Phase, HasAddress: len(object.Status.PodIPs) > 0,
	}
	if object.Metadata.DeletionTimestamp != nil {
		state.Terminating, state.Grace = true, time.Duration(object.Metadata.GracePeriod)*time.Second
	}
	return state, nil
}

// NodeState implements ipam.Cluster.
func (c *Cluster) NodeState(ctx context.Context) (reclaim.Node, error) {
	var object struct {
		Status struct {
			Conditions []struct {
				Type   string `json:"type"`
				Status string `json:"status"`
			} `json:"conditions"`
		} `json:"status"`
	}
	err := c.readNode(ctx, &object)
	if apierrors.IsNotFound(err) {
		return reclaim.Node{Presence: reclaim.Gone}, nil
	}
	if err != nil {
		return reclaim.Node{}, err
	}
	state := reclaim.Node{Presence: reclaim.Exists}
	for _, condition := range object.Status.Conditions {
		if condition.Type == "Ready" {
			state.Ready = condition.Status == "True"
		}
	}
	return state, nil
}

// Runtime returns the container runtime that the node's kubelet reports
// (status.nodeInfo.containerRuntimeVersion, e.g. "containerd://2.1.4"). It is read
// live and remembered for runtimeTTL.
func (c *Cluster) Runtime(ctx context.Context) (string, error) {
	return c.runtimes.Get(ctx, struct{}{}, func(ctx context.Context) (string, error) {
		var object struct {
			Status struct {
				NodeInfo struct {
					ContainerRuntimeVersion string `json:"containerRuntimeVersion"`
				} `json:"nodeInfo"`
			} `json:"status"`
		}
		err := c.readNode(ctx, &object)
		return object.Status.NodeInfo.ContainerRuntimeVersion, err
	})
}

// readNode decodes the node into a struct with the fields that the caller needs.
func (c *Cluster) readNode(ctx context.Context, into any) error {
	raw, err := answer(c.client.spiderpool.Get().AbsPath("/api/v1/nodes", c.node).Do(ctx))
	if err == nil {
		err = json.Unmarshal(raw, into)
	}
	if err != nil {
		return fmt.Errorf("read node %s: %w", c.node, err)
	}
	return nil
}

// Namespace implements ipam.Cluster.
func (c *Cluster) Namespace(ctx context.Context, name string) (pool.NamespaceFacts, error) {
	if facts, ok, _ := c.namespaces.get(key{"", name}); ok {
		return facts, nil
	}
	object, err := c.client.metadata.Resource(namespaceResource).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return pool.NamespaceFacts{}, fmt.Errorf("namespace %s: %w", name, ipam.ErrNotFound)
	}
	if err != nil {
		return pool.NamespaceFacts{}, err
	}
	return namespaceOf(object), nil
}

// Node implements ipam.Cluster.
func (c *Cluster) Node(context.Context) (pool.NodeFacts, error) {
	facts, ok, _ := c.nodes.get(key{"", c.node})
	if !ok {
		return pool.NodeFacts{}, fmt.Errorf("node %s: %w", c.node, ipam.ErrNotReady)
	}
	return facts, nil
}

// intermediate has the kinds of controllers that usually have a controller themselves.
var intermediate = map[string]schema.GroupVersionResource{
	"ReplicaSet": {Group: "apps", Version: "v1", Resource: "replicasets"},
	"Job":        {Group: "batch", Version: "v1", Resource: "jobs"},
}

// TopController implements ipam.Cluster.
func (c *Cluster) TopController(ctx context.Context, pod ipam.Pod) (ipam.Controller, error) {
	if pod.Owner.Kind == "" {
		return ipam.Controller{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}, nil
	}
	resource, ok := intermediate[pod.Owner.Kind]
	if !ok {
		return pod.Owner, nil
	}
	top, err := c.tops.Get(ctx, reference{pod.Namespace, pod.Owner}, func(ctx context.Context) (ipam.Controller, error) {
		object, err := c.client.metadata.Resource(resource).Namespace(pod.Namespace).Get(ctx, pod.Owner.Name, metav1.GetOptions{})
		if err != nil {
			return ipam.Controller{}, fmt.Errorf("read %s %s/%s: %w", pod.Owner.Kind, pod.Namespace, pod.Owner.Name, err)
		}
		if top := controllerOf(object); top.Kind != "" && string(object.UID) == pod.Owner.UID {
			return top, nil
		}
		return pod.Owner, nil
	})
	if apierrors.IsNotFound(err) {
		return pod.Owner, nil
	}
	return top, err
}

// Network implements ipam.Cluster.
func (c *Cluster) Network(ctx context.Context, name pool.NetworkAttachment) (ipam.Network, error) {
	return c.networks.Get(ctx, name, func(ctx context.Context) (ipam.Network, error) {
		raw, err := answer(c.client.spiderpool.Get().AbsPath("/apis/k8s.cni.cncf.io/v1/namespaces", name.Namespace,
			"network-attachment-definitions", name.Name).Do(ctx))
		if apierrors.IsNotFound(err) {
			return ipam.Network{}, fmt.Errorf("NetworkAttachmentDefinition %s: %w", name, ipam.ErrNotFound)
		}
		if err != nil {
			return ipam.Network{}, err
		}
		network, err := networkOf(raw)
		if err != nil {
			return ipam.Network{}, fmt.Errorf("NetworkAttachmentDefinition %s: %w", name, err)
		}
		return network, nil
	})
}

// networkOf decodes the part of a NetworkAttachmentDefinition that concerns addresses.
func networkOf(raw []byte) (ipam.Network, error) {
	var definition struct {
		Spec struct {
			Config string `json:"config"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(raw, &definition); err != nil {
		return ipam.Network{}, err
	}
	return ParseNetwork(definition.Spec.Config)
}

// ErrBadNetwork matches the errors of ParseNetwork.
var ErrBadNetwork = errors.New("unreadable CNI configuration")

// badNetwork is an error about a CNI configuration, with its text.
type badNetwork struct{ error }

func (badNetwork) Is(target error) bool { return target == ErrBadNetwork }

func (e badNetwork) Unwrap() error { return e.error }

// ParseNetwork reads the part of a CNI configuration that concerns addresses. Of a
// list, it is the first plugin with our "ipam". An empty configuration refers to a
// file on the node and is not ours.
func ParseNetwork(config string) (ipam.Network, error) {
	network, err := parseNetwork(config)
	if err != nil {
		return ipam.Network{}, badNetwork{err}
	}
	return network, nil
}

func parseNetwork(config string) (ipam.Network, error) {
	if config == "" {
		return ipam.Network{}, nil
	}
	list, err := cniconf.Parse([]byte(config))
	if err != nil {
		return ipam.Network{}, fmt.Errorf("spec.config: %w", err)
	}
	var made []string // the interfaces of ifacer
	for _, raw := range list.Plugins {
		var main cniconf.Main
		if err := json.Unmarshal(raw, &main); err != nil {
			return ipam.Network{}, fmt.Errorf("spec.config: %w", err)
		}
		if main.Type == cniconf.TypeIfacer {
			var ifacer cniconf.Ifacer
			if err := json.Unmarshal(raw, &ifacer); err != nil {
				return ipam.Network{}, fmt.Errorf("spec.config: %w", err)
			}
			made = ifacer.Interfaces
		}
		if main.IPAM == nil || main.IPAM.Type != cniconf.TypeIPAM {
			continue
		}
		parents := made
		if len(parents) == 0 && main.Master != "" {
			parents = []string{main.Master}
		}
		return ipam.Network{
			IPAM: true, Name: list.Name, Master: main.Master, Parents: parents, MTU: int(main.MTU),
			Pools:        pool.Names{IPv4: main.IPAM.DefaultIPv4Pools, IPv6: main.IPAM.DefaultIPv6Pools},
			CleanGateway: main.IPAM.CleanGateway, MatchMasterSubnet: main.IPAM.MatchMasterSubnet,
		}, nil
	}
	return ipam.Network{}, nil
}
