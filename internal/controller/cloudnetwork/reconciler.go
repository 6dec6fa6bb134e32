// Package cloudnetwork keeps one SpiderIPPool for each node, network interface and IP
// version equal to what a cloud has assigned there.
//
// A reconcile reads the cluster, asks the cloud if that is due, and applies the plan of
// cloud.Discover. The answers of the cloud live in memory: a new leader asks about all
// nodes first, and again before it takes an address out of a pool. A cloud that does not answer
// changes no pool.
package cloudnetwork

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/kube/status"
	"spiderpool.dev/spiderpool/internal/observe"
	"spiderpool.dev/spiderpool/internal/pool"
)

const (
	// resyncMax is the longest time between two questions about all nodes. Each time is
	// shorter by a random part, at most resyncJitter.
	resyncMax    = 5 * time.Minute
	resyncJitter = time.Minute
	// subnetsMax is the longest time that a description of a subnet is used.
	subnetsMax = time.Hour
	// settleTime is the time for agents to read a pool or a SpiderReservedIP.
	settleTime = 30 * time.Second
	// behindTime is the time for the cache to show the latest change of an object. It doubles while it does not.
	behindTime = 100 * time.Millisecond
	// countTime is the time between two counts of free addresses.
	countTime = time.Minute
	// callTimeout limits one question to the cloud, for each callInstances instances or
	// callSubnets subnets of it. AWS takes a call for 180 instances, and one for each subnet.
	callTimeout   = 30 * time.Second
	callInstances = 180
	callSubnets   = 20
)

// Providers returns the client of a cloud, e.g. of provider aws in region eu-central-1.
// An empty region is that of the controller's own instance.
type Providers func(ctx context.Context, provider v2beta1.CloudProvider, region string) (cloud.Provider, error)

// Reconciler keeps the pools of SpiderCloudNetworks.
type Reconciler struct {
	client    client.Client
	cache     client.Reader // of the client
	status    status.Writer
	providers Providers
	clock     clock.PassiveClock
	log       *slog.Logger
	sessions  map[string]*session // by SpiderCloudNetwork; one reconcile runs at a time
	news      *news
	owners    owners
	fixed     fixedSets
	cluster   string // its UID, once it is known
	jitter    func(limit time.Duration) time.Duration
	Options
}

// Options are the inputs of New for the mode Manage.
type Options struct {
	Networks   pool.ClusterNetwork // of pods without annotations
	Withholder withholder
	// Cluster returns the UID of the cluster, which is a tag of the interfaces that the controller creates.
	Cluster func(ctx context.Context) (string, error)
	// Live reads SpiderIPBlocks and SpiderIPPools from the API server.
	Live client.Reader
}

// New returns a reconciler. The client of w must have a cache with the index of
// blockindex.IndexBlocksByPool.
func New(w status.Writer, providers Providers, o Options, log *slog.Logger) *Reconciler {
	return &Reconciler{
		client: w.Client, cache: w.Client, status: w, providers: providers, clock: clock.RealClock{}, log: log, sessions: map[string]*session{}, news: &news{}, fixed: fixedSets{},
		jitter: rand.N[time.Duration], Options: o,
	}
}

// Name is the name of the controller in logs and metrics.
func (*Reconciler) Name() string { return "cloudnetwork" }

// Register adds the reconciler to the manager.
func (r *Reconciler) Register(mgr ctrl.Manager) error {
	r.cache = mgr.GetCache()
	changed := predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, after := e.ObjectOld.(*corev1.Node), e.ObjectNew.(*corev1.Node)
		return before.Spec.ProviderID != after.Spec.ProviderID || !maps.Equal(before.Labels, after.Labels)
	}}
	spec := builder.WithPredicates(predicate.GenerationChangedPredicate{})
	// A pod waits for its fixed address only as long as the pool has its zone as a label, so a lost label comes back at once.
	pools := builder.WithPredicates(predicate.Or[client.Object](predicate.GenerationChangedPredicate{}, predicate.LabelChangedPredicate{}))
	agents, err := eventsOfAgents(mgr)
	if err != nil {
		return err
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named(r.Name()).
		For(&v2beta1.SpiderCloudNetwork{}, spec).
		Owns(&v2beta1.SpiderIPPool{}, pools).
		Owns(&v2beta1.SpiderReservedIP{}, spec).
		Owns(&v2beta1.SpiderMultusConfig{}, spec).
		WatchesRawSource(source.Kind(agents, &corev1.Event{}, handler.TypedEnqueueRequestsFromMapFunc(r.hear))).
		Watches(&corev1.Node{}, handler.EnqueueRequestsFromMapFunc(r.all), builder.WithPredicates(changed)).
		Watches(&corev1.Pod{}, r.demand(), builder.WithPredicates(podChanges)).
		Watches(&v2beta1.SpiderIPBlock{}, r.fixedLeases()).
		Complete(r)
}

// all returns requests for all SpiderCloudNetworks.
func (r *Reconciler) all(ctx context.Context, node client.Object) []reconcile.Request {
	var networks v2beta1.SpiderCloudNetworkList
	if err := r.client.List(ctx, &networks, client.UnsafeDisableDeepCopy); err != nil {
		r.log.ErrorContext(ctx, "cannot list the SpiderCloudNetworks of a node", "node", node.GetName(), "err", err)
		return nil
	}
	var requests []reconcile.Request
	for i := range networks.Items {
		requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&networks.Items[i])})
	}
	return requests
}

// Reconcile makes the pools of one SpiderCloudNetwork equal to the cloud.
func (r *Reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	network := &v2beta1.SpiderCloudNetwork{}
	if err := r.client.Get(ctx, request.NamespacedName, network); err != nil {
		if client.IgnoreNotFound(err) == nil {
			r.forget(request.Name)
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if network.DeletionTimestamp != nil {
		return r.end(ctx, network)
	}
	if _, err := selectorOf(network); err != nil {
		return ctrl.Result{}, r.report(ctx, network, nil, []cloud.Issue{{Reason: "Invalid", Text: "spec.nodeSelector: " + err.Error()}})
	}
	s, fault := r.session(ctx, network)
	if fault != nil {
		return ctrl.Result{RequeueAfter: countTime}, r.report(ctx, network, nil, []cloud.Issue{*fault})
	}
	// 1. Read the cluster.
	in, faults, err := r.read(ctx, network, s)
	if err != nil {
		return ctrl.Result{}, err
	}
	// 2. Ask the cloud about nodes that it was not asked about, or not for a while.
	now := r.clock.Now()
	s.heed(now, in.nodes, r.news.about)
	if issue := s.ask(ctx, now, in.nodes); issue != nil {
		faults = append([]cloud.Issue{*issue}, faults...)
	}
	// 3. In the mode Manage, assign what pods need, and give back what they do not.
	managed, issues, err := r.manage(ctx, network, s, in, now)
	if err != nil {
		return ctrl.Result{}, err
	}
	faults, in.room = append(faults, issues...), managed.Room
	// 4. Plan the pools, and apply the plan.
	fixes, fixErr := r.fix(ctx, network, s, in, now)
	discovery := in.discovery(network, s, now)
	plan := cloud.Discover(discovery)
	plan.Again = append(plan.Again, managed.Again...)
	s.plan(now, plan)
	s.askNow(now, managed.Ask)
	refused, err := r.apply(ctx, network, in, plan)
	if s.shrinks(discovery, plan) {
		s.shrunk = r.clock.Now() // agents read the last write, not the question before it
	}
	if err != nil && len(refused) == 0 {
		r.log.DebugContext(ctx, "the cache is behind; the next attempt is near", "err", err)
		return ctrl.Result{RequeueAfter: s.conflict(now, in.growing(plan))}, nil
	}
	if s.behind = 0; err == nil {
		err = r.restore(ctx, network, s, inet.Union(in.others, s.unassigned(now, in)), plan.Pools)
	}
	// 5. Report.
	faults = slices.Concat(faults, refused, plan.Issues, fixes)
	if err := errors.Join(err, fixErr, r.report(ctx, network, in, faults)); err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{RequeueAfter: s.next(now, plan)}, nil
}

// forget drops the memory about a SpiderCloudNetwork that is gone.
func (r *Reconciler) forget(name string) {
	delete(r.sessions, name)
	delete(r.fixed, name)
}

// session returns the memory about a SpiderCloudNetwork. A new region begins a new one.
func (r *Reconciler) session(ctx context.Context, network *v2beta1.SpiderCloudNetwork) (*session, *cloud.Issue) {
	key := string(network.Spec.Provider) + "/" + network.Spec.Region
	if s := r.sessions[network.Name]; s != nil && s.key == key {
		return s, nil
	}
	delete(r.sessions, network.Name)
	provider, err := r.providers(ctx, network.Spec.Provider, network.Spec.Region)
	if err != nil {
		return nil, &cloud.Issue{Reason: "ProviderUnavailable", Text: "cannot set up the provider " + string(network.Spec.Provider) + ": " + err.Error()}
	}
	s := newSession(key, provider, r.clock.Now(), r.jitter)
	r.sessions[network.Name] = s
	return s, nil
}

// maxSaid is the number of bytes of the cloud's own text in a condition. EC2 may add an
// encoded message of many kilobytes.
const maxSaid = 500

// faultOf explains an error of a provider, and quotes it.
func faultOf(err error) cloud.Issue {
	e, ok := errors.AsType[*cloud.Error](err)
	if !ok {
		e = &cloud.Error{Kind: cloud.Unknown, Action: "a question", Err: err}
	}
	reason, text := cloud.Reason("CloudUnavailable"), "the call "+e.Action+" failed; the controller tries again later"
	switch e.Kind {
	case cloud.Permission:
		reason, text = "PermissionMissing", "the cloud does not allow the action "+e.Action+"; add it to the policy of the controller's role"
	case cloud.Credentials:
		reason, text = "CredentialsInvalid", "the credentials of the controller are missing, or "+e.Action+" did not accept them; check its role or keys, and its clock"
	case cloud.Invalid:
		text = "the cloud refuses the call " + e.Action
	case cloud.Throttled:
		reason, text = "Throttled", "the cloud limits the calls of "+e.Action+"; the controller tries again later"
	}
	return cloud.Issue{Reason: reason, Text: text + "; the pools stay as they are" + said(e)}
}

// said quotes the cloud.
func said(err error) string {
	if e, ok := errors.AsType[*cloud.Error](err); ok {
		err = e.Err
	}
	return " (the cloud said: " + observe.Truncate(strings.TrimSuffix(fmt.Sprint(err), "."), maxSaid) + ")"
}
