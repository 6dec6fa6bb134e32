package lb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"

	"spiderpool.dev/spiderpool/test/lab/internal/topology"
)

// everything is the only key in the queue: each turn handles the whole cluster, which is small in a lab.
const everything = "everything"

// plane applies load balancers to the network and replaces earlier ones.
type plane interface {
	apply(ctx context.Context, all []placed) error
}

// controller keeps the network and the objects' status up to date with the cluster.
type controller struct {
	client    kubernetes.Interface
	factory   informers.SharedInformerFactory
	queue     workqueue.TypedRateLimitingInterface[string]
	frontends []topology.Frontend
	plane     plane
	events    record.EventRecorder
	log       *slog.Logger
	reported  map[string]bool
}

func newController(client kubernetes.Interface, frontends []topology.Frontend, plane plane, log *slog.Logger,
	events record.EventRecorder) *controller {
	return &controller{
		client: client, factory: informers.NewSharedInformerFactory(client, 0),
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[string](50*time.Millisecond, 5*time.Second)),
		frontends: frontends, plane: plane, events: events, log: log, reported: map[string]bool{},
	}
}

// run works until the end of ctx.
func (c *controller) run(ctx context.Context) error {
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { c.queue.Add(everything) },
		UpdateFunc: func(_, _ any) { c.queue.Add(everything) },
		DeleteFunc: func(any) { c.queue.Add(everything) },
	}
	for _, informer := range []cache.SharedIndexInformer{
		c.factory.Core().V1().Services().Informer(),
		c.factory.Networking().V1().Ingresses().Informer(),
		c.factory.Discovery().V1().EndpointSlices().Informer(),
	} {
		if _, err := informer.AddEventHandler(handler); err != nil {
			return fmt.Errorf("load balancer: %w", err)
		}
	}
	stop := context.AfterFunc(ctx, c.queue.ShutDown)
	defer stop()
	c.factory.Start(ctx.Done())
	defer c.factory.Shutdown()
	for kind, synced := range c.factory.WaitForCacheSync(ctx.Done()) {
		if !synced {
			return nil // ctx ended
		}
		c.log.Debug("watching", "kind", kind)
	}
	c.queue.Add(everything)
	for c.turn(ctx) {
	}
	return nil
}

// turn waits for a change and handles it. It returns false once the queue has shut down.
func (c *controller) turn(ctx context.Context) bool {
	key, shutdown := c.queue.Get()
	if shutdown {
		return false
	}
	defer c.queue.Done(key)
	switch err := c.sync(ctx); {
	case err == nil:
		c.queue.Forget(key)
	case ctx.Err() == nil:
		if !apierrors.IsConflict(err) {
			c.log.Error("load balancers not in step with the cluster, will retry", "error", err)
		}
		c.queue.AddRateLimited(key)
	}
	return true
}

// sync applies the cluster state to the network and then to the status of objects.
func (c *controller) sync(ctx context.Context) error {
	s, err := c.snapshot()
	if err != nil {
		return err
	}
	balancers, problems := s.compile()
	all, unplaced := place(balancers, c.frontends)
	c.report(append(problems, unplaced...))
	if err := c.plane.apply(ctx, all); err != nil {
		return err
	}
	return c.writeStatus(ctx, s, all)
}

func (c *controller) snapshot() (snapshot, error) {
	var s snapshot
	var errs [3]error
	s.services, errs[0] = c.factory.Core().V1().Services().Lister().List(labels.Everything())
	s.ingresses, errs[1] = c.factory.Networking().V1().Ingresses().Lister().List(labels.Everything())
	s.slices, errs[2] = c.factory.Discovery().V1().EndpointSlices().Lister().List(labels.Everything())
	return s, errors.Join(errs[:]...)
}

// report sends an event for each new problem since the last turn.
func (c *controller) report(problems []problem) {
	current := map[string]bool{}
	for _, p := range problems {
		key := fmt.Sprintf("%T %s/%s %s", p.object, p.object.GetNamespace(), p.object.GetName(), p.message)
		current[key] = true
		if !c.reported[key] {
			c.events.Event(p.object.(runtime.Object), corev1.EventTypeWarning, "LoadBalancerNotReady", p.message)
		}
	}
	c.reported = current
}

// writeStatus writes each load balancer's addresses to the status of its objects, and removes them from objects without
// a load balancer.
func (c *controller) writeStatus(ctx context.Context, s snapshot, all []placed) error {
	serving := map[string]placed{}
	for _, p := range all {
		if p.service != nil {
			serving["service/"+p.service.Namespace+"/"+p.service.Name] = p
		}
		for _, ingress := range p.ingresses {
			serving["ingress/"+ingress.Namespace+"/"+ingress.Name] = p
		}
	}
	var errs []error
	for _, service := range s.services {
		p, served := serving["service/"+service.Namespace+"/"+service.Name]
		if served || c.owns(service.Status.LoadBalancer.Ingress) {
			errs = append(errs, c.setServiceStatus(ctx, service, p))
		}
	}
	for _, ingress := range s.ingresses {
		p, served := serving["ingress/"+ingress.Namespace+"/"+ingress.Name]
		if served || wantsApplicationLoadBalancer(ingress) {
			errs = append(errs, c.setIngressStatus(ctx, ingress, p))
		}
	}
	return errors.Join(errs...)
}

// owns reports whether a status has an address of the lab's frontends.
func (c *controller) owns(status []corev1.LoadBalancerIngress) bool {
	return slices.ContainsFunc(status, func(i corev1.LoadBalancerIngress) bool {
		return slices.ContainsFunc(c.frontends, func(f topology.Frontend) bool {
			return i.IP != "" && (f.IPv4.String() == i.IP || f.PublicIPv4.String() == i.IP)
		})
	})
}

func (c *controller) setServiceStatus(ctx context.Context, service *corev1.Service, p placed) error {
	// With mode Proxy, kube-proxy does not intercept the address. Traffic from inside the cluster goes to the load
	// balancer too. On AWS the same happens because the status has a host name.
	mode := corev1.LoadBalancerIPModeProxy
	var want []corev1.LoadBalancerIngress
	if p.balancer != nil {
		for _, addr := range p.published() {
			want = append(want, corev1.LoadBalancerIngress{IP: addr.String(), IPMode: &mode})
		}
	}
	if slices.EqualFunc(service.Status.LoadBalancer.Ingress, want, func(a, b corev1.LoadBalancerIngress) bool { return a.IP == b.IP }) {
		return nil
	}
	service = service.DeepCopy()
	service.Status.LoadBalancer.Ingress = want
	_, err := c.client.CoreV1().Services(service.Namespace).UpdateStatus(ctx, service, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("status of service %s/%s: %w", service.Namespace, service.Name, err)
	}
	return nil
}

func (c *controller) setIngressStatus(ctx context.Context, ingress *networkingv1.Ingress, p placed) error {
	var want []networkingv1.IngressLoadBalancerIngress
	if p.balancer != nil {
		for _, addr := range p.published() {
			want = append(want, networkingv1.IngressLoadBalancerIngress{IP: addr.String()})
		}
	}
	if slices.EqualFunc(ingress.Status.LoadBalancer.Ingress, want, func(a, b networkingv1.IngressLoadBalancerIngress) bool { return a.IP == b.IP }) {
		return nil
	}
	ingress = ingress.DeepCopy()
	ingress.Status.LoadBalancer.Ingress = want
	_, err := c.client.NetworkingV1().Ingresses(ingress.Namespace).UpdateStatus(ctx, ingress, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("status of ingress %s/%s: %w", ingress.Namespace, ingress.Name, err)
	}
	return nil
}
