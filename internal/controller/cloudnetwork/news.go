package cloudnetwork

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/observe"
)

// newsTime is how long news about a node counts: the EC2 API may show a change later than
// the metadata service. The questions come after 0, 5, 15, 35 and 75 s.
const newsTime = 2 * time.Minute

// news holds when an agent last told that the addresses of its node have changed. Anyone
// who may create events in the namespace "default" can tell so. It costs one question every cloud.Apart at most.
type news struct {
	mu struct {
		sync.Mutex
		byNode map[string]time.Time
	}
}

// tell records news about a node.
func (n *news) tell(node string, now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	maps.DeleteFunc(n.mu.byNode, func(_ string, at time.Time) bool { return now.Sub(at) >= newsTime })
	if n.mu.byNode == nil {
		n.mu.byNode = map[string]time.Time{}
	}
	n.mu.byNode[node] = now
}

// about returns the time of the news about a node, the zero time for none.
func (n *news) about(node string) time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mu.byNode[node]
}

// eventsOfAgents returns a cache of the events that hear understands, and of no others. Events about
// Nodes are in the namespace "default", where tenants have no rights.
func eventsOfAgents(mgr ctrl.Manager) (cache.Cache, error) {
	agents, err := cache.New(mgr.GetConfig(), cache.Options{
		HTTPClient: mgr.GetHTTPClient(), Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(), DefaultTransform: cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{&corev1.Event{}: {Namespaces: map[string]cache.Config{
			metav1.NamespaceDefault: {FieldSelector: fields.OneTermEqualSelector("reason", observe.CloudAddressesChangedReason)},
		}}},
	})
	if err != nil {
		return nil, fmt.Errorf("watch the events of agents: %w", err)
	}
	return agents, mgr.Add(everyReplica{agents})
}

// everyReplica runs a cache on replicas that do not lead, too: they wait for the caches of their controllers, and end after two minutes
// without one.
type everyReplica struct{ cache.Cache }

func (everyReplica) NeedLeaderElection() bool { return false }

// hear records the news in an event of an agent, and returns requests for all SpiderCloudNetworks.
// Old events come with the start of the controller, which asks about all nodes then.
func (r *Reconciler) hear(ctx context.Context, event *corev1.Event) []reconcile.Request {
	now := r.clock.Now()
	if event.Reason != observe.CloudAddressesChangedReason || event.InvolvedObject.Kind != "Node" || now.Sub(event.LastTimestamp.Time) >= newsTime {
		return nil
	}
	// Unknown names would fill the memory.
	if err := r.client.Get(ctx, client.ObjectKey{Name: event.InvolvedObject.Name}, &corev1.Node{}); err != nil {
		return nil
	}
	r.news.tell(event.InvolvedObject.Name, now)
	return r.all(ctx, event)
}

// ownNewsTime is how long after a call of ours the news about its node are about that call. An agent asks the metadata
// service every 5 s.
const ownNewsTime = 15 * time.Second

// ownNews reports whether the news are about a change that we made ourselves.
func (s *session) ownNews(node string, told time.Time) bool {
	after := told.Sub(s.changed[node])
	return after >= 0 && after < ownNewsTime
}

// heed has ask ask about the nodes with news. Each question is cloud.Apart after the one before it.
func (s *session) heed(now time.Time, nodes []member, about func(node string) time.Time) {
	before := s.heard
	s.heard = map[string]time.Time{}
	for _, m := range nodes {
		told := about(m.node)
		if told.IsZero() || now.Sub(told) >= newsTime {
			continue
		}
		s.heard[m.node] = told
		if told.Equal(before[m.node]) || s.ownNews(m.node, told) {
			continue
		}
		at := s.asked.Add(cloud.Apart)
		if at.Before(now) {
			at = now
		}
		if r := s.again[m.node]; r == nil || r.at.After(at) {
			s.again[m.node] = &repeat{at: at, pause: cloud.Apart / 2, news: r == nil || r.news}
		}
	}
}
