package install

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/compile"
)

// maxListed bounds the names in one error.
const maxListed = 20

// stoppedMarker is the ConfigMap that Stop creates in the end. The pods of the cleaner mount it, so the kubelet starts none
// of them before. Helm creates the cleaner after Stop, but Argo CD creates all hooks at once.
const stoppedMarker = "spiderpool-init-stopped"

func marker(namespace string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: stoppedMarker}}
}

// unmark deletes the marker of an earlier removal.
func unmark(ctx context.Context, log *slog.Logger, c client.Client, namespace string) error {
	old := marker(namespace)
	return retry(ctx, log, "deletion of "+describe(old), func() error { return client.IgnoreNotFound(c.Delete(ctx, old)) })
}

// Removal is the part of an uninstallation before Helm deletes anything.
type Removal struct {
	// Namespace is the namespace of the release.
	Namespace string
	// Stopped are the DaemonSets that Stop deletes: agent and Multus. Both would undo
	// the removal.
	Stopped []string
	// WithRunningPods continues although pods have our addresses.
	WithRunningPods bool
	// Cleaner is the DaemonSet that Await waits for. Its pods are ready once their nodes
	// are clean.
	Cleaner string
}

// Stop refuses to continue while pods have our addresses, then deletes the DaemonSets of
// r.Stopped, waits for the end of their pods, and lets the cleaner start.
func (r Removal) Stop(ctx context.Context, log *slog.Logger, c client.Client) error {
	if err := unmark(ctx, log, c, r.Namespace); err != nil {
		return err
	}
	var pods []string
	if err := retry(ctx, log, "list of the pods with addresses", func() (err error) {
		pods, err = podsWithAddresses(ctx, c)
		return err
	}); err != nil {
		return err
	}
	if len(pods) > 0 && !r.WithRunningPods {
		return fmt.Errorf("%d pods have addresses of Spiderpool: %s. Delete them, e.g. by scaling their workloads to 0, then repeat helm uninstall. "+
			"To keep them running without Spiderpool, or to keep Spiderpool, see Uninstall in docs/guides/install.md", len(pods), enumerate(pods))
	}
	log.Info("pods with addresses", "pods", len(pods), "continue", true)
	for _, name := range r.Stopped {
		if err := r.stop(ctx, log, c, name); err != nil {
			return err
		}
	}
	done := marker(r.Namespace)
	return retry(ctx, log, "creation of "+describe(done), func() error { return ignoreExisting(c.Create(ctx, done)) })
}

// podsWithAddresses returns the existing pods with a lease, as sorted "namespace/name".
func podsWithAddresses(ctx context.Context, c client.Client) ([]string, error) {
	type holder struct{ name, uid string } // a former pod may have the name of a running one
	held := map[holder]bool{}
	blocks := &v2beta1.SpiderIPBlockList{}
	for more := true; more; more = blocks.Continue != "" {
		if err := c.List(ctx, blocks, client.Limit(cleanupPage), client.Continue(blocks.Continue)); meta.IsNoMatchError(err) {
			return nil, nil // without the kind, nothing has an address
		} else if err != nil {
			return nil, err
		}
		for _, block := range blocks.Items {
			for _, lease := range block.Spec.Leases {
				if lease.State == v2beta1.LeaseInUse {
					held[holder{lease.Pod, lease.PodUID}] = true
				}
			}
		}
	}
	var out []string
	pods := &metav1.PartialObjectMetadataList{}
	pods.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("PodList"))
	for more := true; more; more = pods.Continue != "" {
		if err := c.List(ctx, pods, client.Limit(cleanupPage), client.Continue(pods.Continue)); err != nil {
			return nil, err
		}
		for _, pod := range pods.Items {
			name := pod.Namespace + "/" + pod.Name
			if held[holder{name, compile.PodUID(pod.UID, pod.Annotations)}] || held[holder{name, ""}] {
				out = append(out, name)
			}
		}
	}
	slices.Sort(out)
	return out, nil
}

// enumerate returns the first names and the number of the others.
func enumerate(names []string) string {
	if len(names) <= maxListed {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:maxListed], ", "), len(names)-maxListed)
}

// stop deletes a DaemonSet and waits until its pods have ended. Foreground deletion
// keeps the DaemonSet until then.
func (r Removal) stop(ctx context.Context, log *slog.Logger, c client.Client, name string) error {
	set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: r.Namespace, Name: name}}
	return retry(ctx, log, "end of "+describe(set), func() error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(set), set); apierrors.IsNotFound(err) {
			log.Info("ended", "object", describe(set))
			return nil
		} else if err != nil {
			return err
		}
		if set.DeletionTimestamp == nil {
			if err := c.Delete(ctx, set, client.PropagationPolicy(metav1.DeletePropagationForeground)); err != nil {
				return err
			}
		}
		return unfinished(fmt.Sprintf("%d of its pods run", set.Status.CurrentNumberScheduled))
	})
}

// unfinished is the reason for another attempt.
type unfinished string

func (u unfinished) Error() string { return string(u) }

// Await waits until the pods of r.Cleaner have cleaned every node. When ctx ends, the
// error names the other nodes.
func (r Removal) Await(ctx context.Context, log *slog.Logger, c client.Client) error {
	set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: r.Namespace, Name: r.Cleaner}}
	err := retry(ctx, log, "clean nodes", func() error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(set), set); err != nil {
			return err
		}
		s := set.Status
		if s.ObservedGeneration < set.Generation || s.NumberReady < s.DesiredNumberScheduled {
			return unfinished(fmt.Sprintf("%d of %d nodes are clean", s.NumberReady, s.DesiredNumberScheduled))
		}
		return nil
	})
	if err == nil {
		log.Info("all nodes are clean", "nodes", set.Status.DesiredNumberScheduled)
		return nil
	}
	pods := &corev1.PodList{}
	// ctx has ended by now.
	if e := c.List(context.WithoutCancel(ctx), pods, client.InNamespace(r.Namespace), client.MatchingLabels(set.Spec.Template.Labels)); e != nil || len(pods.Items) == 0 {
		return err
	}
	var unclean []string
	for _, pod := range pods.Items {
		if !isReady(pod) {
			unclean = append(unclean, pod.Spec.NodeName+failure(pod))
		}
	}
	slices.Sort(unclean)
	return fmt.Errorf("%w; not clean: %s. Repair these nodes, or delete the Node objects of lost ones, then repeat helm uninstall", err, enumerate(unclean))
}

func isReady(pod corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// failure returns the last error of the container that cleans the node, in parentheses.
func failure(pod corev1.Pod) string {
	for _, s := range pod.Status.InitContainerStatuses {
		for _, state := range []corev1.ContainerState{s.State, s.LastTerminationState} {
			if state.Terminated != nil && state.Terminated.ExitCode != 0 {
				return " (" + strings.TrimSpace(state.Terminated.Message) + ")"
			}
		}
	}
	return ""
}
