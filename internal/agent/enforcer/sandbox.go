package enforcer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/agent/owner"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/linux/packetfilter"
	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/pool"
	"spiderpool.dev/spiderpool/internal/wire"
)

// record is the content of a file in Records, in JSON. The name of the file is the container ID.
type record struct {
	Container string `json:"container"`
	// Namespace is the path of the network namespace, e.g. "/run/netns/cni-8f0b".
	Namespace string       `json:"netns"`
	Pod       lease.PodKey `json:"pod"`
	UID       string       `json:"uid"`
	// Addrs are the addresses of the default interface at the ADD. A pod may change them later, so they are not read again.
	Addrs []netip.Addr `json:"addrs"`
}

func (r *record) equal(other *record) bool {
	return r.Container == other.Container && r.Namespace == other.Namespace && r.Pod == other.Pod && r.UID == other.UID && slices.Equal(r.Addrs, other.Addrs)
}

// sandbox is a sandbox whose default interface is ours.
type sandbox struct {
	record
	// adopted means that another process served the ADD.
	adopted bool
	// pending is the arrival of the oldest event that the kernel does not follow yet; zero if there is none. Enforcer.mu
	// guards it.
	pending time.Time
	// again means that a former agent may have left a filter since the last look. Enforcer.mu guards it.
	again bool

	// mu is held while the filter changes.
	mu struct {
		sync.Mutex
		// filter is nil while no policy selects the pod.
		filter Filter
		// doubtful means that another process may have left a filter. decided is true after the first decision.
		doubtful, decided bool
		gone, takenOver   bool
		// failing is the time of the first failed attempt since the last success, and fault the reported reason.
		failing time.Time
		fault   string
	}
}

// measureFrom notes the oldest event that the kernel does not follow yet. Enforcer.mu is locked.
func (s *sandbox) measureFrom(arrived time.Time) {
	if s.pending.IsZero() || arrived.Before(s.pending) {
		s.pending = arrived
	}
}

// filtered reports whether a policy selects the pod.
func (s *sandbox) filtered() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.filter != nil
}

// pair is the node's end of the pod's veth pair. A pod without the coordinator has none.
func (s *sandbox) pair() string { return netplan.VethPairOf(s.Container).Host }

func (e *Enforcer) sandbox(container string) *sandbox {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.mu.sandboxes[container]
}

// path returns the path of a namespace as the agent sees it: runtimes write /var/run/netns, too.
func (e *Enforcer) path(namespace string) string {
	if dir := filepath.Dir(namespace); dir == "/var/run/netns" || dir == "/run/netns" {
		return filepath.Join(e.PodNamespaces, filepath.Base(namespace))
	}
	return namespace
}

// record returns the sandbox of an ADD, and writes its record.
func (e *Enforcer) record(at wire.Attachment, pod ipam.Pod) (*sandbox, error) {
	r := record{Container: at.ContainerID, Namespace: e.path(at.NetNS), Pod: pod.PodKey, UID: pod.UID}
	var err error
	if r.Addrs, err = e.Addrs(r.Container, r.Namespace); err != nil {
		return nil, fmt.Errorf("read the addresses of %s: %w", pool.FirstInterface, err)
	}
	if s := e.sandbox(r.Container); s != nil && s.equal(&r) {
		return s, nil
	}
	existed, err := e.write(r)
	if err != nil {
		return nil, err
	}
	s := &sandbox{record: r, adopted: existed}
	s.mu.doubtful = existed
	return e.add(s), nil
}

// write writes a record. existed means that another process did so before. If this process is killed meanwhile, its ADD
// fails, and nobody needs the torn record.
func (e *Enforcer) write(r record) (existed bool, err error) {
	content, err := json.Marshal(r)
	if err != nil {
		return false, err
	}
	name := filepath.Join(e.Records, r.Container)
	file, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	switch {
	case errors.Is(err, fs.ErrExist):
		return true, os.WriteFile(name, content, 0o600)
	case errors.Is(err, fs.ErrNotExist):
		if err := os.MkdirAll(e.Records, 0o700); err != nil {
			return false, err
		}
		return false, os.WriteFile(name, content, 0o600)
	case err != nil:
		return false, err
	}
	_, err = file.Write(content)
	return false, errors.Join(err, file.Close())
}

// add adds a sandbox, or returns the present one with the same record. One with another record is replaced.
func (e *Enforcer) add(s *sandbox) *sandbox {
	e.mu.Lock()
	former := e.mu.sandboxes[s.Container]
	if former != nil && former.equal(&s.record) {
		e.mu.Unlock()
		return former
	}
	e.mu.sandboxes[s.Container] = s
	if former != nil {
		delete(e.mu.ofPod[former.Pod], former)
		delete(e.mu.undecided, former)
	}
	if e.mu.ofPod[s.Pod] == nil {
		e.mu.ofPod[s.Pod] = map[*sandbox]bool{}
	}
	e.mu.ofPod[s.Pod][s] = true
	e.mu.Unlock()
	e.close(former)
	return s
}

// close closes the filter of a sandbox, which stays in the kernel as long as its namespace. s may be nil.
func (e *Enforcer) close(s *sandbox) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.gone = true
	if s.mu.filter == nil {
		return
	}
	if err := s.mu.filter.Close(); err != nil {
		e.Log.Warn("cannot close the packet filter of a pod", "pod", s.Pod.String(), "err", err)
	}
	s.mu.filter = nil
}

// Forget ends the work for a sandbox after the DEL of its default interface. A namespace that lives on keeps its filter.
func (e *Enforcer) Forget(at wire.Attachment) {
	if at.Interface != pool.FirstInterface || at.Validate() != nil {
		return
	}
	e.init()
	e.forget(at.ContainerID)
}

func (e *Enforcer) forget(container string) {
	e.mu.Lock()
	s := e.mu.sandboxes[container]
	last := false
	if s != nil {
		delete(e.mu.sandboxes, container)
		delete(e.mu.undecided, s)
		delete(e.mu.ofPod[s.Pod], s)
		if last = len(e.mu.ofPod[s.Pod]) == 0; last {
			delete(e.mu.ofPod, s.Pod)
		}
	}
	e.mu.Unlock()
	if s != nil {
		e.close(s)
		if err := e.node.set(s.pair(), packetfilter.Wanted{}); err != nil {
			e.Log.Warn("cannot remove a pod's packet filter on the node", "pod", s.Pod.String(), "err", err)
		}
	}
	if last {
		e.View.Forget(s.Pod)
	}
	if err := os.Remove(filepath.Join(e.Records, container)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		e.Log.Warn("cannot delete the record of a sandbox", "container", container, "err", err)
	}
}

// closeAll leaves the filters to the next agent.
func (e *Enforcer) closeAll() {
	e.mu.Lock()
	all := e.mu.sandboxes
	e.mu.sandboxes, e.mu.ofPod = map[string]*sandbox{}, map[lease.PodKey]map[*sandbox]bool{}
	e.mu.Unlock()
	for _, s := range all {
		e.close(s)
	}
	if err := e.node.close(); err != nil {
		e.Log.Warn("cannot close the packet filter of the node", "err", err)
	}
}

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
		case !isNamespace(r.Namespace):
			e.forget(r.Container)
		default:
			recorded[r.Namespace] = true
			e.adopt(r)
		}
	}
	e.lookAtLeases(recorded)
}

// discard deletes a record that was torn by the end of an agent. A young one may still be in the making.
func (e *Enforcer) discard(entry fs.DirEntry, reason error) {
	info, err := entry.Info()
	if err != nil || e.Now().Sub(info.ModTime()) < lookInterval {
		return
	}
	e.Log.Warn("deleted the damaged record of a sandbox", "container", entry.Name(), "err", reason)
	_ = os.Remove(filepath.Join(e.Records, entry.Name()))
}

// read returns a record.
func (e *Enforcer) read(container string) (r record, err error) {
	if s := e.sandbox(container); s != nil {
		return s.record, nil
	}
	content, err := os.ReadFile(filepath.Join(e.Records, container))
	if err == nil {
		err = json.Unmarshal(content, &r)
	}
	if err == nil && r.Container != container {
		err = fmt.Errorf("it is about container %.40q", r.Container)
	}
	return r, err
}

// adopt adds a sandbox unless it is known.
func (e *Enforcer) adopt(r record) {
	if e.sandbox(r.Container) != nil {
		return
	}
	s := &sandbox{record: r, adopted: true}
	s.mu.doubtful = true
	s = e.add(s)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.mu.undecided[s] = true
	e.enqueue(s, e.Now())
}

// isNamespace reports whether the path is a mounted namespace.
func isNamespace(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && (fs.Type == unix.NSFS_MAGIC || fs.Type == unix.PROC_SUPER_MAGIC)
}

// lookAtLeases records the sandboxes of an earlier release, by the leases of their default interfaces. It does so for a
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

// adoptHolder records the sandbox that holds the leases, if one is of the default interface.
func (e *Enforcer) adoptHolder(path string, leases []lease.Lease) error {
	var r record
	for _, l := range leases {
		if l.Interface == pool.FirstInterface {
			r = record{Container: l.ContainerID, Namespace: path, Pod: l.Pod, UID: l.PodUID, Addrs: append(r.Addrs, l.Addr)}
		}
	}
	if r.Container == "" {
		return nil
	}
	if _, err := e.write(r); err != nil {
		return err
	}
	e.adopt(r)
	return nil
}
