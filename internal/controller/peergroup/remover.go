package peergroup

import (
	"context"
	"log/slog"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"spiderpool.dev/spiderpool/api/v2beta1"
)

// removerPage is the number of groups in one request.
const removerPage = 500

// Remover deletes all groups in the place of the Reconciler. Without a Reconciler they grow old, and agents would trust them
// when policies are enforced again.
type Remover struct {
	client client.Client
	live   client.Reader
	log    *slog.Logger
}

// NewRemover returns a Remover.
func NewRemover(c client.Client, live client.Reader, log *slog.Logger) *Remover {
	return &Remover{client: c, live: live, log: log}
}

// Name is the name of the controller in logs.
func (r *Remover) Name() string { return "peergroup-remover" }

// Register has the leader delete the groups once.
func (r *Remover) Register(mgr ctrl.Manager) error { return mgr.Add(manager.RunnableFunc(r.run)) }

// run tries until all groups are gone, or ctx ends.
func (r *Remover) run(ctx context.Context) error {
	_ = wait.PollUntilContextCancel(ctx, 5*time.Second, true, func(ctx context.Context) (bool, error) {
		err := r.remove(ctx)
		if err != nil && ctx.Err() == nil {
			r.log.Warn("cannot delete the SpiderPeerGroups of a controller with policy.enabled", "err", err)
		}
		return err == nil, nil
	})
	return nil
}

func (r *Remover) remove(ctx context.Context) error {
	groups := &metav1.PartialObjectMetadataList{}
	groups.SetGroupVersionKind(v2beta1.GroupVersion.WithKind("SpiderPeerGroupList"))
	for more := true; more; more = groups.Continue != "" {
		if err := r.live.List(ctx, groups, client.Limit(removerPage), client.Continue(groups.Continue)); meta.IsNoMatchError(err) {
			return nil
		} else if err != nil {
			return err
		}
		for i := range groups.Items {
			if err := r.client.Delete(ctx, &groups.Items[i]); client.IgnoreNotFound(err) != nil {
				return err
			}
		}
	}
	return nil
}
