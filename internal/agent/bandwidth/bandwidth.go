// Package bandwidth keeps the limits of running pods in agreement with the annotations
// for their bandwidth. The coordinator plugin sets the first limits in the ADD.
//
// A Follower looks at the pods' network namespaces at its start, and for a while after an
// annotation has changed; otherwise it does nothing. It recognizes a pod by its leased
// addresses. A process with CAP_NET_ADMIN in its pod can change these, and so mislead the
// Follower about the limits of its own pod, which it could remove as well.
//
// A pod with an invalid annotation keeps the limits that it has, and gets an event. Run
// returns when its context ends.
package bandwidth

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"time"

	"spiderpool.dev/spiderpool/internal/agent/owner"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/pool"
)

const (
	// interval is the time between two looks at the pods after a change.
	interval = time.Minute
	// followedFor is how long the pods are looked at again after a change. An ADD that
	// read the annotations before the change finishes meanwhile.
	followedFor = 2 * interval
	// pause is the least time between two looks, however often a user changes an annotation.
	pause = time.Second
)

// Follower applies changed annotations. Set the exported fields, then call Run.
type Follower struct {
	// Ready returns an error until Pods and Leases are complete.
	Ready func() error
	// Pods returns the pods of this node.
	Pods func() []ipam.Pod
	// Rates returns the rates in a pod's annotations by interface, or an error that names
	// the invalid annotation.
	Rates func(ipam.Pod) (map[string]netplan.Rates, error)
	// Leases returns the leases of this node.
	Leases func() []lease.Lease
	// Enabled reports whether the coordinator may change pods.
	Enabled func(context.Context) bool
	// Open opens the node's network namespace.
	Open func() (*linux.Namespace, error)
	// PodNamespaces is the directory in which the container runtime mounts the network
	// namespaces of pods, e.g. "/run/netns".
	PodNamespaces string
	// Changed has a value after a change of annotations.
	Changed <-chan struct{}
	// Warn writes an event about a pod.
	Warn func(pod ipam.Pod, reason string)
	Now  func() time.Time
	Log  *slog.Logger

	// seen are the annotations for the bandwidth at the last look, by UID. They are nil
	// before the first look.
	seen map[string]string
	// warned are the annotations with an event, by UID.
	warned map[string]string
	// until is when looking ends unless annotations change.
	until time.Time
}

// Run follows the annotations until ctx ends.
func (f *Follower) Run(ctx context.Context) {
	host, err := f.Open()
	if err != nil {
		f.Log.Error("cannot open the node's network namespace; the bandwidth of running pods does not change", "err", err)
		return
	}
	defer host.Close()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		ready := f.Ready() == nil
		if ready {
			f.follow(ctx, host)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		if !ready {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-f.Changed:
		}
	}
}

// follow looks at the namespaces of all pods if annotations have changed recently.
func (f *Follower) follow(ctx context.Context, host *linux.Namespace) {
	pods, annotations := map[string]ipam.Pod{}, map[string]string{}
	for _, pod := range f.Pods() {
		pods[pod.UID] = pod
		if text := textOf(pod); text != "" {
			annotations[pod.UID] = text
		}
	}
	maps.DeleteFunc(f.warned, func(uid, text string) bool { return annotations[uid] != text })
	if f.seen == nil || !maps.Equal(f.seen, annotations) {
		f.seen, f.until = annotations, f.Now().Add(followedFor)
	}
	if f.Now().After(f.until) || !f.Enabled(ctx) {
		return
	}
	holders := owner.Of(f.Leases())
	err := host.EachPod(f.PodNamespaces, func(_ string, ns *linux.Namespace, st netplan.State) error {
		for _, l := range holders.Leases(st) {
			if pod, ok := pods[l.PodUID]; ok {
				return f.followPod(pod, ns, st)
			}
		}
		return nil
	}, func(path string, err error) {
		f.Log.Warn("cannot change the bandwidth of a pod", "namespace", path, "err", err)
		f.until = f.Now().Add(followedFor)
	})
	if err != nil {
		f.Log.Warn("cannot list the network namespaces of the pods", "err", err)
	}
}

// textOf returns the annotations for the bandwidth as one text, to notice changes.
func textOf(pod ipam.Pod) string {
	var b strings.Builder
	for _, key := range compile.BandwidthAnnotations {
		if value, ok := pod.Annotations[key]; ok {
			fmt.Fprintf(&b, "%s=%q;", key, value)
		}
	}
	return b.String()
}

// followPod brings the limits of a pod into agreement with its annotations. st is the
// state of its namespace.
func (f *Follower) followPod(pod ipam.Pod, ns *linux.Namespace, st netplan.State) error {
	rates, err := f.Rates(pod)
	if err != nil {
		f.warn(pod, err)
		return nil
	}
	changes := netplan.FollowRates(st, pool.FirstInterface, rates)
	if len(changes) == 0 {
		return nil
	}
	if err := ns.Apply(changes, nil); err != nil {
		f.warn(pod, err)
		return fmt.Errorf("pod %s: %w", pod.PodKey, err)
	}
	f.Log.Info("changed the bandwidth of a pod", "pod", pod.PodKey.String(), "changes", changes.String())
	return nil
}

// warn writes one event per value of the annotations.
func (f *Follower) warn(pod ipam.Pod, err error) {
	if f.warned[pod.UID] == textOf(pod) {
		return
	}
	if f.warned == nil {
		f.warned = map[string]string{}
	}
	f.warned[pod.UID] = textOf(pod)
	f.Warn(pod, err.Error())
}
