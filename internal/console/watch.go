package console

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"sync/atomic"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/kube/scheme"
)

// networksEvery is the time between two questions whether the API server serves NetworkAttachmentDefinitions.
const networksEvery = time.Minute

// watches hold the objects in memory, by one watch for each kind.
type watches struct {
	all      cache.Cache
	events   []cache.Cache
	networks atomic.Bool
	top      *agentclient.Cluster
	log      *slog.Logger
}

// watched are the kinds of all except events and network attachments.
var watched = []client.Object{
	&v2beta1.SpiderIPPool{}, &v2beta1.SpiderReservedIP{}, &v2beta1.SpiderIPBlock{}, &v2beta1.SpiderEndpoint{},
	&corev1.Pod{}, &corev1.Node{}, &corev1.Namespace{}, &appsv1.DaemonSet{},
}

// components are the reporters of our events.
var components = []string{"spiderpool-agent", "spiderpool-controller"}

func newWatches(config *rest.Config, names ipamNames, log *slog.Logger) (*watches, error) {
	registered := scheme.New()
	all, err := cache.New(config, cache.Options{
		Scheme: registered, DefaultTransform: cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Pod{}:  {Transform: slimPod(names.namespace)},
			&corev1.Node{}: {Transform: slimNode},
			&appsv1.DaemonSet{}: {Namespaces: map[string]cache.Config{
				names.namespace: {FieldSelector: fields.OneTermEqualSelector("metadata.name", names.agents)},
			}},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("set up the watches: %w", err)
	}
	w := &watches{all: all, log: log}
	for _, component := range components {
		events, err := cache.New(config, cache.Options{
			Scheme: registered, DefaultTransform: cache.TransformStripManagedFields(),
			ByObject: map[client.Object]cache.ByObject{&corev1.Event{}: {Field: fields.OneTermEqualSelector("source", component)}},
		})
		if err != nil {
			return nil, fmt.Errorf("set up the watch of events: %w", err)
		}
		w.events = append(w.events, events)
	}
	agentClient, err := agentclient.NewClient(config)
	if err != nil {
		return nil, err
	}
	w.top = agentclient.NewCluster(agentClient, "", log)
	return w, nil
}

// objects returns the reader of the watched objects.
func (w *watches) objects() objects {
	o := objects{Reader: w.all, networks: w.networks.Load, top: w.top.TopController}
	for _, events := range w.events {
		o.events = append(o.events, events)
	}
	return o
}

// run watches until ctx ends, and calls changed after each change.
func (w *watches) run(ctx context.Context, changed func()) error {
	group, ctx := errgroup.WithContext(ctx)
	handler := onChange(changed)
	group.Go(func() error { return w.all.Start(ctx) })
	for _, kind := range watched {
		if err := follow(ctx, w.all, kind, handler); err != nil {
			return err
		}
	}
	for _, events := range w.events {
		group.Go(func() error { return events.Start(ctx) })
		if err := follow(ctx, events, &corev1.Event{}, handler); err != nil {
			return err
		}
	}
	group.Go(func() error {
		w.followNetworks(ctx, handler)
		return nil
	})
	return group.Wait()
}

// followNetworks waits until the API server serves the kind: Multus may be installed later, or not at all.
func (w *watches) followNetworks(ctx context.Context, handler toolscache.ResourceEventHandler) {
	for {
		err := follow(ctx, w.all, &nadv1.NetworkAttachmentDefinition{}, handler)
		if err == nil {
			w.networks.Store(true)
			return
		}
		w.log.Debug("no NetworkAttachmentDefinitions", "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(networksEvery):
		}
	}
}

// follow starts the watch of a kind. It does not wait for the objects.
func follow(ctx context.Context, in cache.Cache, kind client.Object, handler toolscache.ResourceEventHandler) error {
	informer, err := in.GetInformer(ctx, kind, cache.BlockUntilSynced(false))
	if err == nil {
		_, err = informer.AddEventHandler(handler)
	}
	if err != nil {
		return fmt.Errorf("watch %T: %w", kind, err)
	}
	return nil
}

// wait waits until all watches have read their objects, and returns false if ctx ends before.
func (w *watches) wait(ctx context.Context) bool {
	for _, c := range append([]cache.Cache{w.all}, w.events...) {
		if !c.WaitForCacheSync(ctx) {
			return false
		}
	}
	return true
}

// onChange calls changed for new, changed and deleted objects. A node that only reports its health again is not changed.
func onChange(changed func()) toolscache.ResourceEventHandler {
	return toolscache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { changed() },
		UpdateFunc: func(old, now any) {
			a, isNode := old.(*corev1.Node)
			b, still := now.(*corev1.Node)
			if isNode && still && reflect.DeepEqual(a.Labels, b.Labels) && reflect.DeepEqual(a.Spec, b.Spec) && reflect.DeepEqual(a.Status, b.Status) {
				return
			}
			changed()
		},
		DeleteFunc: func(any) { changed() },
	}
}

// slimPod keeps the part of a pod that the pages show. In the namespace of the installation, it also keeps
// the state of the containers, which tells why an agent is not ready.
func slimPod(installation string) toolscache.TransformFunc {
	return func(o any) (any, error) {
		pod, ok := o.(*corev1.Pod)
		if !ok {
			return o, nil
		}
		slim := &corev1.Pod{ObjectMeta: pod.ObjectMeta}
		slim.ManagedFields = nil
		delete(slim.Annotations, corev1.LastAppliedConfigAnnotation)
		slim.Spec = corev1.PodSpec{NodeName: pod.Spec.NodeName, HostNetwork: pod.Spec.HostNetwork}
		slim.Status = corev1.PodStatus{Phase: pod.Status.Phase, PodIPs: pod.Status.PodIPs}
		if pod.Namespace == installation {
			slim.Status.Conditions = pod.Status.Conditions
			slim.Status.InitContainerStatuses, slim.Status.ContainerStatuses = pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses
		}
		return slim, nil
	}
}

// slimNode keeps the part of a node that the pages show, without the time of its last report.
func slimNode(o any) (any, error) {
	node, ok := o.(*corev1.Node)
	if !ok {
		return o, nil
	}
	slim := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node.Name, UID: node.UID, ResourceVersion: node.ResourceVersion, Labels: node.Labels}}
	slim.Spec.Taints = node.Spec.Taints
	slim.Status.Addresses, slim.Status.NodeInfo = node.Status.Addresses, node.Status.NodeInfo
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			slim.Status.Conditions = []corev1.NodeCondition{{Type: c.Type, Status: c.Status}}
		}
	}
	return slim, nil
}
