package flows

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Directory is where an agent keeps the observation for the next one (Options.Pins).
const Directory = "/sys/fs/bpf/spiderpool-flows"

// Remove ends the observation that an earlier agent left in Directory.
func Remove() error { return os.RemoveAll(Directory) }

const (
	// maxKept is the number of interfaces of a node that outlive the process, and keptSize the size of one.
	maxKept  = 1 << 14
	keptSize = 1024
)

// pins keep the maps, the programs and the list of interfaces in a bpffs, so the programs go on without the process.
// A nil *pins keeps nothing.
type pins struct {
	dir string // of this version of the programs
	// nics has a kept for each number of an interface, as JSON, filled with zeros.
	nics *ebpf.Map
	// told has the number of lost events that Run has told.
	told *ebpf.Map
}

// kept is an interface for the next process.
type kept struct {
	Pod       Pod
	Path      string // of the network namespace
	Namespace uint64 // its cookie: another one may get the path
	Index     int
	Name      string
	// Sample and Services (bpf.Translations.ID) are those in the programs.
	Sample, Services uint32
}

// openPins returns the pins below a directory of a bpffs. It removes those of other versions of the programs: their maps
// may have another layout.
func openPins(dir string) (p *pins, err error) {
	version := fmt.Sprintf("%x", sha256.Sum256(_FlowsBytes))[:16]
	p = &pins{dir: filepath.Join(dir, version)}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	options := ebpf.MapOptions{PinPath: p.dir}
	if p.nics, err = ebpf.NewMapWithOptions(&ebpf.MapSpec{
		Name: "nics", Type: ebpf.Hash, KeySize: 4, ValueSize: keptSize, MaxEntries: maxKept, Flags: unix.BPF_F_NO_PREALLOC, Pinning: ebpf.PinByName,
	}, options); err != nil {
		return p, err
	}
	if p.told, err = ebpf.NewMapWithOptions(&ebpf.MapSpec{
		Name: "told", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1, Pinning: ebpf.PinByName,
	}, options); err != nil {
		return p, err
	}
	found, err := os.ReadDir(dir)
	for _, f := range found {
		if f.Name() != version {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, f.Name())))
		}
	}
	return p, err
}

// share has a collection use the pinned maps, or pin its own.
func (p *pins) share(spec *ebpf.CollectionSpec) (options ebpf.CollectionOptions) {
	if p == nil {
		return options
	}
	for _, name := range []string{flowsMapConnections, flowsMapEvents, flowsMapLost} {
		spec.Maps[name].Pinning = ebpf.PinByName
	}
	options.Maps.PinPath = p.dir
	return options
}

// ways are the names of the links of an interface, in the order of nic.links.
var ways = []string{"in", "out"}

func (p *pins) path(number uint32, way string) string {
	return filepath.Join(p.dir, strconv.FormatUint(uint64(number), 10)+"-"+way)
}

// keep has an interface outlive the process. The list is first: a link without an entry would never end.
func (p *pins) keep(number uint32, k kept, links []link.Link) error {
	if p == nil {
		return nil
	}
	if err := p.note(number, k); err != nil {
		return err
	}
	for i, l := range links {
		if err := l.Pin(p.path(number, ways[i])); err != nil {
			return err
		}
	}
	return nil
}

// note writes the entry of an interface.
func (p *pins) note(number uint32, k kept) error {
	if p == nil {
		return nil
	}
	text, err := json.Marshal(k)
	if err != nil {
		return err
	}
	if len(text) > keptSize {
		return fmt.Errorf("the names of %s and of its namespace %s have more than %d bytes", k.Pod.Name, k.Path, keptSize)
	}
	return p.nics.Put(number, append(text, make([]byte, keptSize-len(text))...))
}

// links opens the links of an interface. It returns nil if one is missing, or if the interface is gone.
func (p *pins) links(number uint32) (links []link.Link) {
	for _, way := range ways {
		l, err := link.LoadPinnedLink(p.path(number, way), nil)
		if err == nil {
			links = append(links, l)
		}
	}
	attached := len(links) == len(ways)
	for _, l := range links {
		info, err := l.Info()
		attached = attached && err == nil && info.TCX() != nil && info.TCX().Ifindex != 0
	}
	if !attached {
		detach(links)
		return nil
	}
	return links
}

// forget removes an interface whose links are detached.
func (p *pins) forget(number uint32) {
	if p != nil {
		_ = p.nics.Delete(number) // it may be missing
	}
}

// all returns the interfaces of the earlier process.
func (p *pins) all() (map[uint32]kept, error) {
	all := map[uint32]kept{}
	if p == nil {
		return all, nil
	}
	var number uint32
	var errs []error
	value := make([]byte, keptSize)
	entries := p.nics.Iterate()
	for entries.Next(&number, &value) {
		var k kept
		if err := json.Unmarshal(trimZeros(value), &k); err != nil {
			errs = append(errs, err, p.nics.Delete(number))
			continue
		}
		all[number] = k
	}
	return all, errors.Join(append(errs, entries.Err())...)
}

func trimZeros(b []byte) []byte {
	for len(b) > 0 && b[len(b)-1] == 0 {
		b = b[:len(b)-1]
	}
	return b
}

// lostBefore returns the number of lost events that have been told.
func (p *pins) lostBefore() (told uint64) {
	if p != nil {
		_ = p.told.Lookup(uint32(0), &told)
	}
	return told
}

// tell notes the number of lost events that have been told.
func (p *pins) tell(lost uint64) {
	if p != nil {
		_ = p.told.Put(uint32(0), lost) // otherwise, the next process tells them again
	}
}

// Close closes the maps. Pinned maps and links stay.
func (p *pins) Close() error {
	if p == nil {
		return nil
	}
	var errs []error
	for _, m := range []*ebpf.Map{p.nics, p.told} {
		if m != nil {
			errs = append(errs, m.Close())
		}
	}
	return errors.Join(errs...)
}

// kept returns what the next process has to know about an interface.
func (c *Collector) kept(n *nic) kept {
	return kept{n.pod, n.path, n.cookie, n.index, n.name, c.kernel.sample, c.kernel.services.ID()}
}

// update replaces the programs of an interface, for other services or another sample.
func (c *Collector) update(n *nic) error {
	if err := c.kernel.update(n.number, n.links); err != nil {
		return err
	}
	return c.kernel.pins.note(n.number, c.kept(n))
}

// restore takes over the interfaces of an earlier process. An interface that has disappeared stays until its events are read.
func (c *Collector) restore() error {
	found, err := c.kernel.pins.all()
	errs := []error{err}
	for number, k := range found {
		s := c.mu.spaces[k.Path]
		if s == nil || s.cookie != k.Namespace {
			s = &space{pod: k.Pod, path: k.Path, cookie: k.Namespace, nics: map[int]*nic{}}
		}
		n := &nic{space: s, number: number, index: k.Index, name: k.Name, links: c.kernel.pins.links(number)}
		c.mu.nics[number], c.mu.last = n, max(c.mu.last, number)
		if n.links != nil && c.kept(n) != k {
			if err := c.update(n); err != nil {
				errs = append(errs, fmt.Errorf("pod %s, interface %s: %w", k.Pod.Name, k.Name, err))
				n.leave()
			}
		}
		if n.links == nil {
			n.gone = true
			continue
		}
		s.nics[n.index], c.mu.spaces[s.path] = n, s
	}
	return errors.Join(errs...)
}
