package agentclient

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/workqueue"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/readcache"
)

// endpointWriters bounds the concurrent writes.
const endpointWriters = 4

// Pauses after a failed update of one endpoint: the first, doubled after each failure,
// up to the last.
const (
	firstEndpointRetry = 50 * time.Millisecond
	lastEndpointRetry  = 30 * time.Second
)

// endpointTrust is how long an endpoint that this process wrote or read is taken for the
// stored one. A write that starts from an outdated one fails and is repeated; a deletion
// by a user is found by the first repair after this time.
const endpointTrust = 5 * time.Minute

// Endpoints writes SpiderEndpoints in the background, so that no CNI request waits for
// one (ipam.Endpoints). Every update starts from the stored endpoint and names its
// version, so two updates of one endpoint cannot undo each other.
type Endpoints struct {
	client *Client
	log    *slog.Logger
	queue  workqueue.TypedRateLimitingInterface[ipam.EndpointKey]
	// stored has the endpoints of this node's pods; nil if there is none. They are immutable.
	stored readcache.Cache[lease.PodKey, *v2beta1.SpiderEndpoint]
}

// NewEndpoints returns a writer with an empty queue.
func NewEndpoints(client *Client, log *slog.Logger) *Endpoints {
	retries := workqueue.NewTypedItemExponentialFailureRateLimiter[ipam.EndpointKey](firstEndpointRetry, lastEndpointRetry)
	return &Endpoints{
		client: client, log: log, queue: workqueue.NewTypedRateLimitingQueue(retries),
		stored: readcache.Cache[lease.PodKey, *v2beta1.SpiderEndpoint]{TTL: endpointTrust, Now: time.Now},
	}
}

// Changed implements ipam.Endpoints.
func (e *Endpoints) Changed(key ipam.EndpointKey, delay time.Duration) { e.queue.AddAfter(key, delay) }

// wantedEndpoint is ipam.Service.Endpoint.
type wantedEndpoint func(ctx context.Context, key ipam.EndpointKey, stored *ipam.Endpoint) (*ipam.Endpoint, error)

// Run writes what want returns until ctx ends. Pending updates are lost then; the next
// agent updates all endpoints (ipam.Service.Repair).
func (e *Endpoints) Run(ctx context.Context, want wantedEndpoint) {
	var wg sync.WaitGroup
	for range endpointWriters {
		wg.Go(func() { e.work(ctx, want) })
	}
	<-ctx.Done()
	e.queue.ShutDown()
	wg.Wait()
}

func (e *Endpoints) work(ctx context.Context, want wantedEndpoint) {
	for {
		key, stop := e.queue.Get()
		if stop {
			return
		}
		if err := e.update(ctx, key, want); err == nil {
			e.queue.Forget(key)
		} else if ctx.Err() == nil {
			e.log.Warn("cannot update a SpiderEndpoint; will retry", "endpoint", key.PodKey, "err", err)
			e.queue.AddRateLimited(key)
		}
		e.queue.Done(key)
	}
}

// update writes one endpoint if it differs from the wanted one. Metadata of a stored
// endpoint, such as labels that a user added, is kept.
func (e *Endpoints) update(ctx context.Context, key ipam.EndpointKey, want wantedEndpoint) error {
	object, err := e.stored.Get(ctx, key.PodKey, func(ctx context.Context) (*v2beta1.SpiderEndpoint, error) {
		if created, err := e.create(ctx, key, want); created != nil || err != nil {
			return created, err
		}
		return e.read(ctx, key)
	})
	if err != nil {
		return err
	}
	stored := endpointIn(object)
	wanted, err := want(ctx, key, stored)
	if err != nil {
		return err
	}
	if wanted == nil || wanted == stored {
		e.stored.Forget(key.PodKey)
		if stored != nil && wanted == nil {
			err = e.remove(ctx, key, object)
		}
		return err
	}
	return e.put(ctx, key, object, EndpointObject(*wanted))
}

// create creates the endpoint of a new pod without a read before. It returns nil if the
// endpoint exists, or if the pod is not new.
func (e *Endpoints) create(ctx context.Context, key ipam.EndpointKey, want wantedEndpoint) (*v2beta1.SpiderEndpoint, error) {
	wanted, err := want(ctx, key, nil)
	if err != nil || wanted == nil || !wanted.New {
		return nil, err
	}
	object := EndpointObject(*wanted)
	err = e.put(ctx, key, nil, object)
	if apierrors.IsAlreadyExists(err) {
		return nil, nil
	}
	return object, err
}

// put makes the endpoint show the wanted status. object is the stored one, or nil.
func (e *Endpoints) put(ctx context.Context, key ipam.EndpointKey, object, wanted *v2beta1.SpiderEndpoint) error {
	request := e.request(e.client.spiderpool.Post, key)
	if object != nil {
		if equality.Semantic.DeepEqual(object.Status, wanted.Status) {
			return nil
		}
		wanted.ObjectMeta = object.ObjectMeta
		request = e.request(e.client.spiderpool.Put, key).Name(key.Name)
	}
	version, err := write(ctx, request.Body(wanted))
	if err != nil {
		e.stored.Forget(key.PodKey)
		return fmt.Errorf("write: %w", err)
	}
	wanted.ResourceVersion = version
	e.stored.Set(key.PodKey, wanted)
	return nil
}

// remove deletes the stored endpoint.
func (e *Endpoints) remove(ctx context.Context, key ipam.EndpointKey, object *v2beta1.SpiderEndpoint) error {
	preconditions := &metav1.Preconditions{ResourceVersion: &object.ResourceVersion}
	err := e.request(e.client.spiderpool.Delete, key).Name(key.Name).Body(&metav1.DeleteOptions{Preconditions: preconditions}).Do(ctx).Error()
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete: %w", err)
	}
	return nil
}

func (e *Endpoints) request(verb func() *rest.Request, key ipam.EndpointKey) *rest.Request {
	return verb().Resource("spiderendpoints").Namespace(key.Namespace)
}

// Stored reads an endpoint from the API server. It returns nil if there is none.
func (e *Endpoints) Stored(ctx context.Context, key ipam.EndpointKey) (*ipam.Endpoint, error) {
	object, err := e.read(ctx, key)
	return endpointIn(object), err
}

// read returns nil if there is no such endpoint.
func (e *Endpoints) read(ctx context.Context, key ipam.EndpointKey) (*v2beta1.SpiderEndpoint, error) {
	var object v2beta1.SpiderEndpoint
	err := e.request(e.client.spiderpool.Get, key).Name(key.Name).Do(ctx).Into(&object)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	return &object, nil
}
