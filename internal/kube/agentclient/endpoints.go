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

// endpointWriters bounds the concurrent writes.
const endpointWriters = 4

// Endpoints writes SpiderEndpoints in the background, so that no CNI request waits
// for one (ipam.Endpoints). It retries each change until it succeeds or a later one
// replaces it. Nothing is written until Run is called.
type Endpoints struct {
	client *Client
	log    *slog.Logger
	queue  workqueue.TypedRateLimitingInterface[key]

	mu struct {
		sync.Mutex
		// desired has the pending changes. A value is replaced as a whole, never
		// modified: work compares pointers to see whether it is still current.
		desired map[key]*desiredEndpoint
		// written has the last write of this process, so that equal content is not
		// written again and most updates need no GET.
		written map[key]writtenEndpoint
	}
}

// desiredEndpoint is the pending change of one endpoint. A StatefulSet pod is
// recreated with the same name, so a change can concern several pods of one name.
type desiredEndpoint struct {
	// content replaces the endpoint. If it is set, it belongs to the current pod, and
	// the removals below, which belong to earlier pods, are empty.
	content *ipam.Endpoint
	// removedPods has the UIDs of the pods without addresses. The endpoint is deleted
	// if it shows one of them.
	removedPods []string
	// removedInterfaces are taken out of the endpoint if it shows their pod.
	removedInterfaces []interfaceOfPod
}

type interfaceOfPod struct{ uid, name string }

type writtenEndpoint struct {
	version string
	content ipam.Endpoint
}

// NewEndpoints returns a writer without pending changes.
func NewEndpoints(client *Client, log *slog.Logger) *Endpoints {
	e := &Endpoints{
		client: client, log: log,
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[key](50*time.Millisecond, 10*time.Second)),
	}
	e.mu.desired, e.mu.written = map[key]*desiredEndpoint{}, map[key]writtenEndpoint{}
	return e
}

// Run writes until ctx ends. Pending changes are lost then; the next agent restores
// the endpoints from the leases (ipam.Service.Repair).
func (e *Endpoints) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for range endpointWriters {
		wg.Go(func() { e.work(ctx) })
	}
	<-ctx.Done()
	e.queue.ShutDown()
	wg.Wait()
}

// Set implements ipam.Endpoints.
func (e *Endpoints) Set(endpoint ipam.Endpoint) {
	k := key{endpoint.Namespace, endpoint.Name}
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, pending := e.mu.desired[k]; !pending && equalEndpoints(e.mu.written[k].content, endpoint) {
		return
	}
	e.mu.desired[k] = &desiredEndpoint{content: &endpoint}
	e.queue.Add(k)
}

// Without implements ipam.Endpoints.
func (e *Endpoints) Without(namespace, name, podUID, ifname string, within time.Duration) {
	k := key{namespace, name}
	e.mu.Lock()
	defer e.mu.Unlock()
	var next desiredEndpoint
	if pending, ok := e.mu.desired[k]; ok {
		next = *pending
	}
	switch {
	case next.content == nil && slices.Contains(next.removedPods, podUID):
		return
	case next.content == nil:
		next.removedInterfaces = append(slices.Clone(next.removedInterfaces), interfaceOfPod{podUID, ifname})
		e.mu.desired[k] = &next
		e.queue.AddAfter(k, within)
	case next.content.PodUID == podUID:
		next.content = withoutInterface(*next.content, ifname)
		e.mu.desired[k] = &next
	}
}

// Remove implements ipam.Endpoints. It has no effect if a write for another pod of
// the same name is pending.
func (e *Endpoints) Remove(namespace, name, podUID string) {
	k := key{namespace, name}
	e.mu.Lock()
	defer e.mu.Unlock()
	var next desiredEndpoint
	if pending, ok := e.mu.desired[k]; ok {
		if pending.content != nil && pending.content.PodUID != podUID {
			return
		}
		next = desiredEndpoint{removedPods: slices.Clone(pending.removedPods), removedInterfaces: pending.removedInterfaces}
	}
	next.removedPods = append(next.removedPods, podUID)
	e.mu.desired[k] = &next
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
		desired, pending := e.mu.desired[k]
		e.mu.Unlock()
		if pending {
			if err := e.perform(ctx, k, desired); err != nil {
				e.log.Warn("cannot write a SpiderEndpoint; will retry", "endpoint", k.namespace+"/"+k.name, "err", err)
				e.queue.AddRateLimited(k)
			} else {
				e.queue.Forget(k)
				e.clearIfUnchanged(k, desired)
			}
		}
		e.queue.Done(k)
	}
}

// clearIfUnchanged removes a change after its success, unless it was replaced
// meanwhile. Then the replacement is queued.
func (e *Endpoints) clearIfUnchanged(k key, done *desiredEndpoint) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.mu.desired[k] == done {
		delete(e.mu.desired, k)
	} else {
		e.queue.Add(k)
	}
}

func (e *Endpoints) perform(ctx context.Context, k key, desired *desiredEndpoint) error {
	if desired.content != nil {
		return e.put(ctx, k, *desired.content)
	}
	for _, uid := range desired.removedPods {
		if err := e.remove(ctx, k, uid); err != nil {
			return err
		}
	}
	for _, uid := range uidsOf(desired.removedInterfaces) {
		if err := e.removeInterfaces(ctx, k, uid, desired.removedInterfaces); err != nil {
			return err
		}
	}
	return nil
}

// uidsOf returns the UIDs without duplicates.
func uidsOf(interfaces []interfaceOfPod) []string {
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

// put creates the endpoint or replaces its status. Metadata of a stored endpoint,
// such as labels that a user added, is kept.
func (e *Endpoints) put(ctx context.Context, k key, content ipam.Endpoint) error {
	object := EndpointObject(content)
	if last, known := e.lastWrite(k); known {
		object.ResourceVersion = last.version // fails with a conflict if the metadata was changed since
		return e.replace(ctx, k, content, object)
	}
	version, err := write(ctx, e.request(e.client.spiderpool.Post, k).Body(object))
	if !apierrors.IsAlreadyExists(err) {
		return e.recordWrite(k, content, version, err)
	}
	stored, err := e.read(ctx, k)
	if err != nil {
		return err
	}
	if stored == nil {
		return fmt.Errorf("SpiderEndpoint %s/%s: create returned AlreadyExists but get returned NotFound", k.namespace, k.name)
	}
	if stale, err := e.isStale(ctx, stored, content); err != nil || stale {
		return err
	}
	stored.Status = object.Status
	return e.replace(ctx, k, content, stored)
}

func (e *Endpoints) replace(ctx context.Context, k key, content ipam.Endpoint, object *v2beta1.SpiderEndpoint) error {
	version, err := write(ctx, e.request(e.client.spiderpool.Put, k).Name(k.name).Body(object))
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		e.forget(k) // the next attempt reads what is stored
	}
	return e.recordWrite(k, content, version, err)
}

// isStale reports whether the stored endpoint shows another pod and the pod of the
// content no longer exists. The agent of the next pod was faster then, and its
// endpoint must stay.
func (e *Endpoints) isStale(ctx context.Context, stored *v2beta1.SpiderEndpoint, content ipam.Endpoint) (bool, error) {
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

func (e *Endpoints) lastWrite(k key) (last writtenEndpoint, known bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	last, known = e.mu.written[k]
	return last, known
}

func (e *Endpoints) recordWrite(k key, content ipam.Endpoint, version string, err error) error {
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.mu.written[k] = writtenEndpoint{version: version, content: content}
	return nil
}

func (e *Endpoints) forget(k key) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.mu.written, k)
}

// remove deletes the endpoint if it shows the pod. It may show a pod of the same name
// on another node.
func (e *Endpoints) remove(ctx context.Context, k key, uid string) error {
	last, known := e.lastWrite(k)
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
		e.forget(k) // the next attempt reads what is stored
	}
	return fmt.Errorf("delete SpiderEndpoint %s/%s: %w", k.namespace, k.name, err)
}

// removeInterfaces takes interfaces out of the endpoint if it shows the pod.
func (e *Endpoints) removeInterfaces(ctx context.Context, k key, uid string, interfaces []interfaceOfPod) error {
	last, known := e.lastWrite(k)
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
		func(i v2beta1.EndpointIP) bool { return slices.Contains(interfaces, interfaceOfPod{uid, i.Interface}) })
	_, err = write(ctx, e.request(e.client.spiderpool.Put, k).Name(k.name).Body(stored))
	return err
}
