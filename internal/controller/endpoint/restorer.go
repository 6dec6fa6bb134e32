package endpoint

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/blockindex"
	"spiderpool.dev/spiderpool/internal/lease"
)

// deletion is the last state of a deleted SpiderEndpoint.
type deletion = *v2beta1.SpiderEndpoint

// Restorer recreates SpiderEndpoints that a user deleted while their pods hold the
// addresses in them. The agent does not notice the deletion, because it does not
// watch SpiderEndpoints. If no replica leads at that moment, the agent recreates them
// within ten minutes.
type Restorer struct {
	client client.Client
	live   client.Reader
	log    *slog.Logger
}

// NewRestorer returns a reconciler. The client c must have a cache with the indexes
// of blockindex.IndexBlocksByHolder; live reads from the API server.
func NewRestorer(c client.Client, live client.Reader, log *slog.Logger) *Restorer {
	return &Restorer{client: c, live: live, log: log}
}

// Name is the name of the controller in logs and metrics.
func (*Restorer) Name() string { return "deleted-endpoint" }

// Register adds the reconciler to the manager.
func (r *Restorer) Register(mgr ctrl.Manager) error {
	deletions := handler.TypedFuncs[client.Object, deletion]{
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q workqueue.TypedRateLimitingInterface[deletion]) {
			q.Add(e.Object.(*v2beta1.SpiderEndpoint))
		},
	}
	return builder.TypedControllerManagedBy[deletion](mgr).
		Named(r.Name()).
		Watches(&v2beta1.SpiderEndpoint{}, deletions).
		// With warmup, a replica that does not lead would queue deletions without end.
		WithOptions(controller.TypedOptions[deletion]{EnableWarmup: new(false)}).
		Complete(r)
}

// Reconcile recreates the SpiderEndpoint if all its addresses are still held. An
// agent releases the leases before it deletes a SpiderEndpoint. The cache may not have
// that release yet, so the blocks are read from the API server, too.
func (r *Restorer) Reconcile(ctx context.Context, deleted deletion) (ctrl.Result, error) {
	key := client.ObjectKeyFromObject(deleted)
	blocks, err := blockindex.BlocksOfHolder(ctx, r.client, lease.PodKey(key))
	if err != nil || !allHeld(deleted, blocks) {
		return ctrl.Result{}, err
	}
	var current []v2beta1.SpiderIPBlock
	for i := range blocks {
		var block v2beta1.SpiderIPBlock
		err := r.live.Get(ctx, client.ObjectKeyFromObject(&blocks[i]), &block)
		if client.IgnoreNotFound(err) != nil {
			return ctrl.Result{}, fmt.Errorf("read SpiderIPBlock %s: %w", blocks[i].Name, err)
		}
		current = append(current, block)
	}
	if !allHeld(deleted, current) {
		return ctrl.Result{}, nil
	}
	err = r.client.Create(ctx, &v2beta1.SpiderEndpoint{
		ObjectMeta: metav1.ObjectMeta{Namespace: deleted.Namespace, Name: deleted.Name, Labels: deleted.Labels, Annotations: deleted.Annotations},
		Status:     deleted.Status,
	})
	switch {
	case apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return ctrl.Result{}, nil
	case err != nil:
		return ctrl.Result{}, fmt.Errorf("recreate SpiderEndpoint %s: %w", key, err)
	}
	r.log.InfoContext(ctx, "recreated a deleted SpiderEndpoint; its addresses are still held", "pod", key.String(), "uid", deleted.Status.Current.UID)
	return ctrl.Result{}, nil
}

// allHeld reports whether the endpoint has addresses and its pod uses, or its owner
// retains, all of them.
func allHeld(endpoint *v2beta1.SpiderEndpoint, blocks []v2beta1.SpiderIPBlock) bool {
	held := map[string]bool{}
	for i := range blocks {
		for _, l := range blocks[i].Spec.Leases {
			if l.PodUID == endpoint.Status.Current.UID && (l.State == v2beta1.LeaseInUse || l.State == v2beta1.LeaseRetained) {
				held[l.IP] = true
			}
		}
	}
	shown := 0
	for _, i := range endpoint.Status.Current.IPs {
		for _, text := range []*string{i.IPv4, i.IPv6} {
			if text == nil {
				continue
			}
			prefix, err := netip.ParsePrefix(*text)
			if err != nil || !held[prefix.Addr().String()] {
				return false
			}
			shown++
		}
	}
	return shown > 0
}
