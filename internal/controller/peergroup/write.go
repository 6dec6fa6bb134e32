package peergroup

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/compile"
)

const (
	// writers is the number of groups that are written at once.
	writers = 16
	// attempts is how often an object is written that another client changes at the same time.
	attempts = 3
)

// write brings the objects of the changed groups into agreement with the index.
func (r *Reconciler) write(ctx context.Context) error {
	r.withdrawOverdrawn(ctx)
	var all errgroup.Group
	all.SetLimit(writers)
	errs := make(chan error, len(r.index.dirty))
	for g := range r.index.dirty {
		all.Go(func() error {
			errs <- r.writeGroup(ctx, g)
			return nil
		})
	}
	_ = all.Wait() // the errors are in errs
	close(errs)
	for g := range r.index.dirty {
		if !g.stale() {
			delete(r.index.dirty, g)
			r.index.drop(g)
		}
	}
	var joined error
	for err := range errs {
		joined = errors.Join(joined, err)
	}
	return joined
}

// withdrawOverdrawn withdraws groups that have grown beyond the limit, and reports this.
func (r *Reconciler) withdrawOverdrawn(ctx context.Context) {
	for g := range r.index.dirty {
		of, payer := g.Group, g.payer
		users := r.index.overdrawn(g)
		for _, name := range users {
			r.retryAt = r.clock.Now().Add(refusedDelay)
			kind := networkPolicies
			if name.Multi {
				kind = multiPolicies
			}
			c := change{kind, client.ObjectKey{Namespace: name.Namespace, Name: name.Name}}
			object := policyKinds[kind].object()
			if err := r.client.Get(ctx, c.key, object); err != nil {
				r.log.Warn("withdraws a group of pods beyond the limit, and cannot tell its author", "policy", name, "group", of.String(), "err", err)
				continue
			}
			r.report(ctx, c, object, beyondLimits(payer, of.String(), 1))
		}
	}
}

// writeGroup brings the objects of a group into agreement.
func (r *Reconciler) writeGroup(ctx context.Context, g *group) error {
	for step := range g.steps {
		if step.put {
			if err := r.put(ctx, g, step.index); err != nil {
				return err
			}
			continue
		}
		object := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: compile.PeerGroupName(g.name, step.index)}}
		object.SetGroupVersionKind(v2beta1.GroupVersion.WithKind("SpiderPeerGroup"))
		if err := r.client.Delete(ctx, object); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("delete SpiderPeerGroup %s: %w", object.Name, err)
		}
		g.deleted(step.index)
	}
	return nil
}

// put creates or updates an object.
func (r *Reconciler) put(ctx context.Context, g *group, at int) (err error) {
	object := compile.PeerGroupObject(g.content(at))
	for range attempts {
		object.ResourceVersion = g.version(at)
		if object.ResourceVersion == "" {
			err = r.client.Create(ctx, object)
		} else {
			err = r.client.Update(ctx, object)
		}
		if err == nil {
			g.wrote(at, object.ResourceVersion)
			return nil
		}
		if !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) && !apierrors.IsNotFound(err) {
			break
		}
		stored := &v2beta1.SpiderPeerGroup{}
		if found := r.live.Get(ctx, client.ObjectKeyFromObject(object), stored); client.IgnoreNotFound(found) != nil {
			err = found
			break
		}
		g.setVersion(at, stored.ResourceVersion)
	}
	return fmt.Errorf("write SpiderPeerGroup %s: %w", object.Name, err)
}
