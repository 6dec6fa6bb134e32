package agentclient

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/watch"

	"spiderpool.dev/spiderpool/api/v2beta1"
)

// Placements implements ipam.Placements: it reads status.placements of a SpiderIPPool, and watches that one pool while an ADD waits.
type Placements struct {
	Client *Client
	Log    *slog.Logger
}

// rewatch is the time before a watch that has ended begins again.
const rewatch = time.Second

// Await implements ipam.Placements. It begins with a read from the API server, not from a cache: the controller erases a placement before
// it takes the address away.
func (p Placements) Await(ctx context.Context, pool string, addr netip.Addr, podUID string) error {
	state := errors.New("the API server has not answered")
	for {
		object, err := p.Client.pool(ctx, pool)
		if err == nil {
			if state = p.follow(ctx, object, addr, podUID); state == nil {
				return nil
			}
		} else if ctx.Err() == nil {
			state = err
		}
		select {
		case <-ctx.Done():
			return state
		case <-time.After(rewatch):
		}
	}
}

// follow watches a pool from the version of the object on, until the address is placed or the watch ends. It returns the last state.
func (p Placements) follow(ctx context.Context, object *v2beta1.SpiderIPPool, addr netip.Addr, podUID string) error {
	state := placed(object, addr, podUID)
	if state == nil {
		return nil
	}
	events, err := p.Client.spiderpool.Get().Resource(poolResource.Resource).
		Param("watch", "true").Param("fieldSelector", "metadata.name="+object.Name).Param("resourceVersion", object.ResourceVersion).Watch(ctx)
	if err != nil {
		p.Log.Warn("cannot watch the placements of a SpiderIPPool; will read it again", "pool", object.Name, "err", err)
		return state
	}
	defer events.Stop()
	for event := range events.ResultChan() {
		switch changed, ok := event.Object.(*v2beta1.SpiderIPPool); {
		case event.Type == watch.Deleted:
			return fmt.Errorf("SpiderIPPool %s is gone", object.Name)
		case !ok:
			return state // an error of the watch
		default:
			if state = placed(changed, addr, podUID); state == nil {
				return nil
			}
		}
	}
	return state
}

// placed returns nil if the address is placed for the pod, and otherwise what the pool says about it.
func placed(pool *v2beta1.SpiderIPPool, addr netip.Addr, podUID string) error {
	i := slices.IndexFunc(pool.Status.Placements, func(p v2beta1.CloudPlacement) bool { return p.IP == addr.String() })
	if i < 0 {
		return fmt.Errorf("status.placements of SpiderIPPool %s has no entry for it, so spiderpool-controller has not seen the lease yet, or cannot ask the cloud; see the condition of the SpiderCloudNetwork", pool.Name)
	}
	switch p := pool.Status.Placements[i]; {
	case p.PodUID == podUID:
		return nil
	case p.Message != "":
		return errors.New(p.Message)
	case p.Interface != "":
		return fmt.Errorf("it was on interface %s, and spiderpool-controller has not moved it yet", p.Interface)
	}
	return errors.New("spiderpool-controller has not moved it yet")
}
