package agentclient

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/workqueue"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/ipam"
)

// endpointWriters is how many endpoints are written at the same time.
const endpointWriters = 4

// Endpoints keeps SpiderEndpoints behind the answers to the plugins
// (ipam.Endpoints). For each endpoint the last intention counts; it is carried out
// until it succeeds or is replaced. Run must run.
type Endpoints struct {
	client *Client
	log    *slog.Logger
	queue  workqueue.TypedRateLimitingInterface[key]

	mu     sync.Mutex
	wanted map[key]*intention // replaced as a whole, never changed
	// written is what this process has written last, so that nothing is written
	// twice and the common case needs no read.
	written map[key]writtenEndpoint
}

// intention is what an endpoint should become. Pods of one name follow each other,
// so it may be about several of them.
type intention struct {
	// endpoint is what it is to show; nil where it is not to be written anew. It is
	// of the pod that lives, and what is wanted of former ones does not matter then.
	endpoint *ipam.Endpoint
	// gone are the UIDs of pods whose endpoint is to be removed.
	gone []string
	// without are the interfaces to take out.
	without []podInterface
}

type podInterface struct{ uid, name string }

type writtenEndpoint struct {
	version string
	content ipam.Endpoint
}

// NewEndpoints returns a writer of endpoints.
func NewEndpoints(client *Client, log *slog.Logger) *Endpoints {
	return &Endpoints{
		client: client, log: log,
		queue:   workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[key](50*time.Millisecond, 10*time.Second)),
		wanted:  map[key]*intention{},
		written: map[key]writtenEndpoint{},
	}
}

// Run writes until ctx ends; what is left undone is repaired from the leases by the
// next agent.
func (e *Endpoints) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for range endpointWriters {
		wg.Go(func() { e.work(ctx) })
	}
	<-ctx.Done()
	e.queue.ShutDown()
	wg.Wait()
}

// Pending returns how many endpoints are not what they should be yet.
func (e *Endpoints) Pending() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.wanted)
}

// Set implements ipam.Endpoints.
func (e *Endpoints) Set(endpoint ipam.Endpoint) {
	k := key{endpoint.Namespace, endpoint.Name}
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, pending := e.wanted[k]; !pending && equalEndpoints(e.written[k].content, endpoint) {
		return
	}
	e.wanted[k] = &intention{endpoint: &endpoint}
	e.queue.Add(k)
}

// Without implements ipam.Endpoints.
func (e *Endpoints) Without(namespace, name, podUID, ifname string, within time.Duration) {
	k := key{namespace, name}
	e.mu.Lock()
	defer e.mu.Unlock()
	var next intention
	if pending, ok := e.wanted[k]; ok {
		next = *pending
	}
	switch {
	case next.endpoint == nil && slices.Contains(next.gone, podUID):
		return
	case next.endpoint == nil:
		next.without = append(slices.Clone(next.without), podInterface{podUID, ifname})
		e.wanted[k] = &next
		e.queue.AddAfter(k, within)
	case next.endpoint.PodUID == podUID:
		next.endpoint = withoutInterface(*next.endpoint, ifname)
		e.wanted[k] = &next
	}
}

// Remove implements ipam.Endpoints. It does not concern an endpoint that is to be
// written for another pod of the name.
func (e *Endpoints) Remove(namespace, name, podUID string) {
	k := key{namespace, name}
	e.mu.Lock()
	defer e.mu.Unlock()
	var next intention
	if pending, ok := e.wanted[k]; ok {
		if pending.endpoint != nil && pending.endpoint.PodUID != podUID {
			return
		}
		next = intention{gone: slices.Clone(pending.gone), without: pending.without}
	}
	next.gone = append(next.gone, podUID)
	e.wanted[k] = &next
	e.queue.Add(k)
}

// Addresses implements ipam.Endpoints.
func (e *Endpoints) Addresses(ctx context.Context, namespace, name, podUID, node string) ([]netip.Addr, error) {
	object, err := e.read(ctx, key{namespace, name})
	if err != nil || object == nil || object.Status.Current.UID != podUID || object.Status.Current.Node != node {
		return nil, err
	}
	var addrs []netip.Addr
	for _, i := range object.Status.Current.IPs {
		for _, text := range []*string{i.IPv4, i.IPv6} {
			if text == nil {
				continue
			}
			if prefix, err := netip.ParsePrefix(*text); err == nil {
				addrs = append(addrs, prefix.Addr())
			}
		}
	}
	return addrs, nil
}

func (e *Endpoints) work(ctx context.Context) {
	for {
		k, stop := e.queue.Get()
		if stop {
			return
		}
		e.mu.Lock()
		want, pending := e.wanted[k]
		e.mu.Unlock()
		if pending {
			if err := e.perform(ctx, k, want); err != nil {
				e.log.Warn("cannot write an endpoint; will try again", "namespace", k.namespace, "endpoint", k.name, "err", err)
				e.queue.AddRateLimited(k)
			} else {
				e.queue.Forget(k)
				e.settle(k, want)
			}
		}
		e.queue.Done(k)
	}
}

// settle forgets an intention that was carried out, unless it was replaced meanwhile.
func (e *Endpoints) settle(k key, done *intention) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.wanted[k] == done {
		delete(e.wanted, k)
	} else {
		e.queue.Add(k)
	}
}

func (e *Endpoints) perform(ctx context.Context, k key, want *intention) error {
	if want.endpoint != nil {
		return e.put(ctx, k, *want.endpoint)
	}
	for _, uid := range want.gone {
		if err := e.remove(ctx, k, uid); err != nil {
			return err
		}
	}
	for _, uid := range podsOf(want.without) {
		if err := e.takeOut(ctx, k, uid, want.without); err != nil {
			return err
		}
	}
	return nil
}

// podsOf returns the UIDs of the pods, each once.
func podsOf(interfaces []podInterface) []string {
	var uids []string
	for _, i := range interfaces {
		if !slices.Contains(uids, i.uid) {
			uids = append(uids, i.uid)
		}
	}
	return uids
}

func (e *Endpoints) request(verb func() *rest.Request, k key) *rest.Request {
	return verb().Resource("spiderendpoints").Namespace(k.namespace)
}

func (e *Endpoints) read(ctx context.Context, k key) (*v2beta1.SpiderEndpoint, error) {
	var object v2beta1.SpiderEndpoint
	err := e.request(e.client.spiderpool.Get, k).Name(k.name).Do(ctx).Into(&object)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read SpiderEndpoint %s/%s: %w", k.namespace, k.name, err)
	}
	return &object, nil
}

// put creates the endpoint, or replaces what it shows.
func (e *Endpoints) put(ctx context.Context, k key, content ipam.Endpoint) error {
	e.mu.Lock()
	last, known := e.written[k]
	e.mu.Unlock()
	object := EndpointObject(content)
	if !known {
		version, err := write(ctx, e.request(e.client.spiderpool.Post, k).Body(object))
		if !apierrors.IsAlreadyExists(err) {
			return e.wrote(k, content, version, err)
		}
	}
	object.ResourceVersion = last.version
	if !known {
		stored, err := e.read(ctx, k)
		if err != nil {
			return err
		}
		if stored == nil {
			return fmt.Errorf("SpiderEndpoint %s/%s exists and does not", k.namespace, k.name)
		}
		if late, err := e.late(ctx, stored, content); err != nil || late {
			return err
		}
		stored.Status = object.Status
		object = stored
	}
	version, err := write(ctx, e.request(e.client.spiderpool.Put, k).Name(k.name).Body(object))
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		e.forget(k)
	}
	return e.wrote(k, content, version, err)
}

// late reports whether the content is of a pod that is gone, while the endpoint
// shows another one: its agent was faster.
func (e *Endpoints) late(ctx context.Context, stored *v2beta1.SpiderEndpoint, content ipam.Endpoint) (bool, error) {
	if uid := stored.Status.Current.UID; uid == "" || uid == content.PodUID {
		return false, nil
	}
	pod, err := e.client.metadata.Resource(podResource).Namespace(content.Namespace).Get(ctx, content.Pod, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("read pod %s/%s: %w", content.Namespace, content.Pod, err)
	}
	return uidOf(pod) != content.PodUID, nil
}

func (e *Endpoints) wrote(k key, content ipam.Endpoint, version string, err error) error {
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.written[k] = writtenEndpoint{version: version, content: content}
	return nil
}

func (e *Endpoints) forget(k key) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.written, k)
}

// remove deletes the endpoint if it still shows the pod; a pod of the same name
// may have taken it over on another node.
func (e *Endpoints) remove(ctx context.Context, k key, uid string) error {
	e.mu.Lock()
	last, known := e.written[k]
	e.mu.Unlock()
	version := last.version
	if !known || last.content.PodUID != uid {
		stored, err := e.read(ctx, k)
		if err != nil {
			return err
		}
		if stored == nil || stored.Status.Current.UID != uid {
			return nil
		}
		version = stored.ResourceVersion
	}
	err := e.request(e.client.spiderpool.Delete, k).Name(k.name).
		Body(&metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &version}}).
		Do(ctx).Error()
	if err == nil || apierrors.IsNotFound(err) {
		e.forget(k)
		return nil
	}
	if apierrors.IsConflict(err) {
		e.forget(k) // what it shows now is looked up in the next attempt
	}
	return fmt.Errorf("delete SpiderEndpoint %s/%s: %w", k.namespace, k.name, err)
}

// takeOut takes interfaces out of the endpoint if it still shows the pod.
func (e *Endpoints) takeOut(ctx context.Context, k key, uid string, interfaces []podInterface) error {
	e.mu.Lock()
	last, known := e.written[k]
	e.mu.Unlock()
	if known && last.content.PodUID == uid {
		content := &last.content
		for _, i := range interfaces {
			if i.uid == uid {
				content = withoutInterface(*content, i.name)
			}
		}
		return e.put(ctx, k, *content)
	}
	stored, err := e.read(ctx, k)
	if err != nil || stored == nil || stored.Status.Current.UID != uid {
		return err
	}
	stored.Status.Current.IPs = slices.DeleteFunc(stored.Status.Current.IPs,
		func(i v2beta1.EndpointIP) bool { return slices.Contains(interfaces, podInterface{uid, i.Interface}) })
	_, err = write(ctx, e.request(e.client.spiderpool.Put, k).Name(k.name).Body(stored))
	return err
}

func withoutInterface(content ipam.Endpoint, name string) *ipam.Endpoint {
	content.Interfaces = slices.DeleteFunc(slices.Clone(content.Interfaces),
		func(i ipam.EndpointInterface) bool { return i.Interface == name })
	return &content
}

func equalEndpoints(a, b ipam.Endpoint) bool {
	return a.PodUID == b.PodUID && a.Node == b.Node && a.Owner == b.Owner &&
		slices.EqualFunc(a.Interfaces, b.Interfaces, func(x, y ipam.EndpointInterface) bool {
			return x.Interface == y.Interface && x.CleanGateway == y.CleanGateway &&
				slices.Equal(x.Addresses, y.Addresses) && slices.Equal(x.Routes, y.Routes)
		})
}

// EndpointObject returns the resource that shows the content.
func EndpointObject(content ipam.Endpoint) *v2beta1.SpiderEndpoint {
	object := &v2beta1.SpiderEndpoint{
		TypeMeta:   metav1.TypeMeta{APIVersion: v2beta1.GroupVersion.String(), Kind: "SpiderEndpoint"},
		ObjectMeta: metav1.ObjectMeta{Namespace: content.Namespace, Name: content.Name},
		Status: v2beta1.SpiderEndpointStatus{
			Current:             v2beta1.EndpointAllocation{UID: content.PodUID, Node: content.Node, IPs: []v2beta1.EndpointIP{}},
			OwnerControllerType: content.Owner.Kind,
			OwnerControllerName: content.Owner.Name,
		},
	}
	for _, i := range content.Interfaces {
		out := v2beta1.EndpointIP{Interface: i.Interface, Vlan: new(int64(0)), CleanGateway: new(i.CleanGateway)}
		for _, a := range i.Addresses {
			address, name := new(a.Prefix.String()), new(a.Pool)
			var gateway *string
			if a.Gateway.IsValid() {
				gateway = new(a.Gateway.String())
			}
			if a.Prefix.Addr().Is4() {
				out.IPv4, out.IPv4Pool, out.IPv4Gateway = address, name, gateway
			} else {
				out.IPv6, out.IPv6Pool, out.IPv6Gateway = address, name, gateway
			}
		}
		for _, r := range i.Routes {
			out.Routes = append(out.Routes, v2beta1.Route{Dst: r.Dst.String(), Gw: r.Via.String()})
		}
		object.Status.Current.IPs = append(object.Status.Current.IPs, out)
	}
	return object
}
