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
	"strings"

	"spiderpool.dev/spiderpool/internal/atomicfile"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/pool"
)

// record is the content of a file in Records, in JSON, e.g.
//
//	{"container":"8f0b…","netns":"/run/netns/cni-1","pod":{…},"uid":"…","interfaces":[{"name":"net1","network":"shop/storage","addrs":["10.7.0.1"]}]}
//
// The name of the file is the container ID.
type record struct {
	identity
	Interfaces []attached `json:"interfaces"`
}

// identity never changes while a sandbox exists.
type identity struct {
	Container string `json:"container"`
	// Namespace is the path of the network namespace, e.g. "/run/netns/cni-8f0b".
	Namespace string       `json:"netns"`
	Pod       lease.PodKey `json:"pod"`
	UID       string       `json:"uid"`
}

// attached is an interface as of its ADD. A pod may change its addresses and annotations later, so they are not read again.
type attached struct {
	Name string `json:"name"`
	// Network is the NetworkAttachmentDefinition, e.g. "shop/storage", empty if there is none.
	Network string       `json:"network,omitempty"`
	Addrs   []netip.Addr `json:"addrs"`
}

func attachedOf(it policy.Interface) attached {
	a := attached{Name: it.Name, Addrs: it.Addrs}
	if it.Network != (policy.Name{}) {
		a.Network = it.Network.String()
	}
	return a
}

// policy is the inverse of attachedOf.
func (a *attached) policy() policy.Interface {
	it := policy.Interface{Name: a.Name, Default: a.Name == pool.FirstInterface, Addrs: a.Addrs}
	it.Network.Namespace, it.Network.Name, _ = strings.Cut(a.Network, "/")
	return it
}

// add adds an address of an interface.
func (r *record) add(name string, network policy.Name, addr netip.Addr) {
	at := slices.IndexFunc(r.Interfaces, func(a attached) bool { return a.Name == name })
	if at < 0 {
		at = len(r.Interfaces)
		r.Interfaces = append(r.Interfaces, attachedOf(policy.Interface{Name: name, Network: network}))
	}
	r.Interfaces[at].Addrs = append(r.Interfaces[at].Addrs, addr)
}

// write writes a record. Readers see the former one or this one.
func (e *Enforcer) write(r record) error {
	content, err := json.Marshal(r)
	if err != nil {
		return err
	}
	name := filepath.Join(e.Records, r.Container)
	err = atomicfile.Replace(name, content, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(e.Records, 0o700); err != nil {
			return err
		}
		return atomicfile.Replace(name, content, 0o600)
	}
	return err
}

// read returns a record. That of a known sandbox lacks the interfaces.
func (e *Enforcer) read(container string) (record, error) {
	if s := e.sandbox(container); s != nil {
		return record{identity: s.identity}, nil
	}
	return e.stored(container)
}

// stored returns a record from its file.
func (e *Enforcer) stored(container string) (r record, err error) {
	content, err := os.ReadFile(filepath.Join(e.Records, container))
	if err == nil {
		err = json.Unmarshal(content, &r)
	}
	switch {
	case err != nil:
	case r.Container != container:
		err = fmt.Errorf("it is about container %.40q", r.Container)
	case len(r.Interfaces) == 0:
		err = errors.New("it has no interface")
	}
	return r, err
}

// discard deletes a damaged record, and a file that the end of an agent left unfinished. A young one may still be in the
// making.
func (e *Enforcer) discard(entry fs.DirEntry, reason error) {
	info, err := entry.Info()
	if err != nil || e.Now().Sub(info.ModTime()) < lookInterval {
		return
	}
	e.Log.Warn("deleted the damaged record of a sandbox", "container", entry.Name(), "err", reason)
	_ = os.Remove(filepath.Join(e.Records, entry.Name()))
}
