package enforcer

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"spiderpool.dev/spiderpool/internal/agent/owner"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/netplan"
)

// look finds the sandboxes whose ADD another process served, and forgets those without a namespace.
func (e *Enforcer) look() {
	entries, err := os.ReadDir(e.Records)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		e.Log.Warn("cannot list the records of sandboxes", "err", err)
	}
	recorded := map[string]bool{}
	for _, entry := range entries {
		r, err := e.read(entry.Name())
		switch {
		case errors.Is(err, fs.ErrNotExist): // its DEL came in between
		case err != nil:
			e.discard(entry, err)
		case !linux.IsNamespace(r.Namespace):
			e.forget(r.Container)
		default:
			recorded[r.Namespace] = true
			e.adopt(r)
		}
	}
	e.lookAtLeases(recorded)
}

// adopt adds a sandbox unless it is known.
func (e *Enforcer) adopt(r record) {
	if e.sandbox(r.Container) != nil {
		return
	}
	s := newSandbox(r)
	s.adopted, s.mu.doubtful = true, true
	s = e.add(s)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.mu.undecided[s] = true
	e.enqueue(s, e.Now())
}

// lookAtLeases records the sandboxes of an earlier release, by the leases of their interfaces. It does so for a
// while only, because an ADD writes its record. At the end of it, a former agent that ran beside this one has ended, and the
// filters that it had go, too.
func (e *Enforcer) lookAtLeases(recorded map[string]bool) {
	if e.searchEnded || e.Ready() != nil {
		return
	}
	if e.until.IsZero() {
		e.until = e.Now().Add(searchTime)
	}
	if e.Now().After(e.until) {
		e.searchEnded = true
		e.doubtAdopted()
	}
	host, err := linux.Current()
	if err != nil {
		e.Log.Warn("cannot open the node's network namespace", "err", err)
		return
	}
	defer host.Close()
	entries, err := os.ReadDir(e.PodNamespaces)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		e.Log.Warn("cannot list the network namespaces of the pods", "err", err)
	}
	holders := owner.Of(e.Leases())
	for _, entry := range entries {
		path := filepath.Join(e.PodNamespaces, entry.Name())
		if recorded[path] {
			continue
		}
		if err := host.InPod(path, func(_ string, _ *linux.Namespace, st netplan.State) error {
			return e.adoptHolder(path, holders.Leases(st))
		}); err != nil {
			e.Log.Warn("cannot find the pod of a network namespace", "namespace", path, "err", err)
		}
	}
	e.mu.Lock()
	e.mu.searched = true
	e.mu.Unlock()
	e.adopted()
}

// doubtAdopted has the filters of adopted sandboxes applied again.
func (e *Enforcer) doubtAdopted() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.mu.sandboxes {
		if s.adopted {
			s.again = true
			e.enqueue(s, e.Now())
		}
	}
}

// adoptHolder records the sandbox that holds the leases.
func (e *Enforcer) adoptHolder(path string, leases []lease.Lease) error {
	if len(leases) == 0 {
		return nil
	}
	holder := leases[0].Holder
	networks, err := e.Networks(holder)
	if err != nil {
		return err
	}
	r := record{identity: identity{Container: holder.ContainerID, Namespace: path, Pod: holder.Pod, UID: holder.PodUID}}
	for _, l := range leases {
		if l.ContainerID == holder.ContainerID {
			r.add(l.Interface, networks[l.Interface], l.Addr)
		}
	}
	if err := e.write(r); err != nil {
		return err
	}
	e.adopt(r)
	return nil
}
