// Package flowpods finds the network namespaces of the node's pods for the collector of their connections.
//
// A pod of ours is one with a leased address. Its namespace is recognized by the addresses in it, once: before the first
// process of the pod runs, or when an agent starts. A process with CAP_NET_ADMIN that takes an address of another pod
// before an agent starts can so have its connections shown under that pod's name.
package flowpods

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"spiderpool.dev/spiderpool/internal/agent/owner"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/linux/flows"
	"spiderpool.dev/spiderpool/internal/netplan"
)

// interval is the time between two looks at all namespaces.
const interval = 30 * time.Second

// after are the times of the looks after an ADD, each after the one before. The interfaces appear meanwhile.
var after = []time.Duration{0, 100 * time.Millisecond, 300 * time.Millisecond, time.Second, 3 * time.Second, 10 * time.Second}

// Collector is a *flows.Collector.
type Collector interface {
	AttachNode(*linux.Namespace) error
	Attach(ns *linux.Namespace, path string, pod flows.Pod) error
	Detach(path string)
	Attached() []string
}

// Follower attaches a Collector to the pods of this node. Make it with New.
type Follower struct {
	collector Collector
	// ready returns an error until leases is complete.
	ready  func() error
	leases func() []lease.Lease
	// dir is where the container runtime mounts the network namespaces of pods.
	dir     string
	log     *slog.Logger
	changed chan struct{}
	// started are the times of the first sight of a namespace, by path. Only Run uses it.
	started map[string]time.Time
}

// New returns a Follower of the namespaces in a directory, e.g. "/run/netns".
func New(c Collector, ready func() error, leases func() []lease.Lease, dir string, log *slog.Logger) *Follower {
	return &Follower{collector: c, ready: ready, leases: leases, dir: dir, log: log, changed: make(chan struct{}, 1), started: map[string]time.Time{}}
}

// Added says that a pod gets an interface. It does not block. f may be nil.
func (f *Follower) Added() {
	if f == nil {
		return
	}
	select {
	case f.changed <- struct{}{}:
	default: // Run has not looked since the last change
	}
}

// Removed says that a pod ends. path is that of its network namespace, as the container runtime names it. f may be nil.
func (f *Follower) Removed(path string) {
	if f != nil && path != "" {
		f.collector.Detach(filepath.Join(f.dir, filepath.Base(path)))
	}
}

// Run follows the pods until ctx ends. f may be nil.
func (f *Follower) Run(ctx context.Context) {
	if f == nil {
		return
	}
	host, err := linux.Current()
	if err != nil {
		f.log.Error("cannot open the node's network namespace; no connections are observed", "err", err)
		return
	}
	defer host.Close()
	step := 0
	for full := true; ctx.Err() == nil; {
		f.look(host, full)
		wait := interval
		if step < len(after) {
			wait = after[step]
			step++
		}
		select {
		case <-ctx.Done():
		case <-f.changed:
			step, full = 1, false
		case <-time.After(wait):
			full = wait == interval
		}
	}
}

// look attaches to the namespaces with leased addresses. Unless full, it leaves out those that it has known for a while.
func (f *Follower) look(host *linux.Namespace, full bool) {
	if f.ready() != nil {
		return
	}
	entries, err := os.ReadDir(f.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.log.Warn("cannot list the network namespaces of the pods", "err", err)
		return
	}
	if err := f.collector.AttachNode(host); err != nil && full {
		f.log.Warn("packets that the node drops are not observed", "err", err)
	}
	attached := map[string]bool{}
	for _, path := range f.collector.Attached() {
		attached[path] = true
	}
	holders := owner.Of(f.leases())
	present := map[string]bool{}
	for _, entry := range entries {
		path := filepath.Join(f.dir, entry.Name())
		present[path] = true
		if f.started[path].IsZero() {
			f.started[path] = time.Now()
		}
		if attached[path] && !full && time.Since(f.started[path]) > interval {
			delete(attached, path)
			continue
		}
		if err := f.attach(host, path, holders, attached); err != nil {
			f.log.Warn("cannot observe the connections of a pod", "namespace", path, "err", err)
		}
	}
	for path := range f.started {
		if !present[path] {
			delete(f.started, path)
			f.collector.Detach(path)
		}
	}
	for path := range attached { // its mount is gone, its file is not yet
		f.collector.Detach(path)
	}
}

// attach attaches to a namespace, and deletes it from attached, unless it is gone.
func (f *Follower) attach(host *linux.Namespace, path string, holders owner.Holders, attached map[string]bool) error {
	return host.InPod(path, func(_ string, ns *linux.Namespace, st netplan.State) error {
		known := attached[path]
		delete(attached, path)
		leases := holders.Leases(st)
		if !known && len(leases) == 0 {
			return nil
		}
		var pod flows.Pod
		if len(leases) > 0 {
			pod = flows.Pod{Name: leases[0].Pod, UID: leases[0].PodUID, Pair: netplan.VethPairOf(leases[0].ContainerID).Host}
		}
		if err := f.collector.Attach(ns, path, pod); err != nil {
			return fmt.Errorf("pod %s: %w", pod.Name, err)
		}
		return nil
	})
}
