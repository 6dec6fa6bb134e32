package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"spiderpool.dev/spiderpool/internal/service"
)

// Directory is where the agent pins maps and links.
const Directory = "/sys/fs/bpf/spiderpool"

// mapLayout names the directory of the maps. Change it with the layout or the limit of a
// map: Load takes over maps of the same layout only.
const mapLayout = "maps-1"

// Remove detaches the programs and frees everything that an agent pinned in Directory.
func Remove() error { return os.RemoveAll(Directory) }

// Attached reports whether all programs are attached.
func Attached() bool {
	for _, h := range hooks {
		if _, err := os.Lstat(filepath.Join(Directory, h.attach.String())); err != nil {
			return false
		}
	}
	return true
}

// Programs are the loaded programs with their maps.
type Programs struct {
	dir, group string
	objects    serviceObjects
	tables     tables
}

// Load checks the node as Check does and loads the programs with the maps that are
// pinned below dir, or with new ones. It changes nothing in the way connections are
// translated.
func Load(dir, group string) (*Programs, error) {
	if err := Check(dir, group); err != nil {
		return nil, err
	}
	cookie, err := hostCookie()
	if err != nil {
		return nil, err
	}
	pins := filepath.Join(dir, mapLayout)
	if err := os.MkdirAll(pins, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of the eBPF maps: %w", err)
	}
	p := &Programs{dir: dir, group: group}
	// Before Linux 5.18, the kernel does not know bpf_set_retval, and kube-proxy refuses
	// connections to services without backends. cilium/ebpf's probe for the helper fails
	// on some kernels that have it.
	if p.load(pins, cookie, 1) != nil {
		if err := p.load(pins, cookie, 0); err != nil {
			return nil, fmt.Errorf("load the eBPF programs: %w", err)
		}
	}
	p.tables = tables{
		frontends: kernelTable[frontendKey, frontend]{p.objects.Frontends},
		backends:  kernelTable[slot, endpoint]{p.objects.Backends},
		members:   kernelTable[member, uint32]{p.objects.Members},
	}
	return p, nil
}

// load sets the constants of the programs, pins their maps and loads both.
func (p *Programs) load(pins string, hostCookie uint64, hasSetRetval uint32) error {
	spec, err := loadService()
	if err != nil {
		return err
	}
	if err := errors.Join(spec.Variables[serviceVarHostNetns].Set(hostCookie), spec.Variables[serviceVarHasSetRetval].Set(hasSetRetval)); err != nil {
		return err
	}
	for name, m := range spec.Maps {
		if m.Type != ebpf.Array { // the constants
			m.Pinning, m.Name = ebpf.PinByName, name
		}
	}
	return spec.LoadAndAssign(&p.objects, &ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: pins}})
}

// Known returns the sets of the frontends in the maps, for service.NewTable.
func (p *Programs) Known() (map[service.FrontendKey]service.ID, error) { return p.tables.known() }

// Replace makes the entries of the maps those of the diff, which must have all of them.
// Entries of an earlier agent stay or go accordingly. After a *FullError, the maps are
// in use nevertheless, and Change is possible.
func (p *Programs) Replace(all service.Diff) error { return p.tables.replace(all) }

// Change applies the changes since the last call of Replace or Change. After an error
// other than *FullError, the next call must be Replace.
func (p *Programs) Change(d service.Diff) error { return p.tables.change(d) }

// Entries returns the number of entries in each map.
func (p *Programs) Entries() Entries { return p.tables.size }

// Limits returns the maximum number of entries in each map.
func (p *Programs) Limits() Entries {
	return Entries{p.tables.frontends.Limit(), p.tables.backends.Limit(), p.tables.members.Limit()}
}

// Attach makes the programs translate the connections of the control group. A program
// of an earlier agent is replaced without a moment between the two.
func (p *Programs) Attach() error {
	for _, h := range hooks {
		if err := p.attach(h.attach, h.program(&p.objects)); err != nil {
			return fmt.Errorf("attach the eBPF program %s to %s: %w", h.attach, p.group, err)
		}
	}
	return nil
}

func (p *Programs) attach(to ebpf.AttachType, program *ebpf.Program) error {
	pin := filepath.Join(p.dir, to.String())
	kept, err := p.kept(pin)
	if err != nil {
		return err
	}
	if kept != nil {
		defer kept.Close()
		return kept.Update(program)
	}
	l, err := link.AttachCgroup(link.CgroupOptions{Path: p.group, Attach: to, Program: program})
	if err != nil {
		return err
	}
	defer l.Close()
	return l.Pin(pin)
}

// kept returns the pinned link if it leads to our control group. It removes another
// one, e.g. of a group that has been removed since, with everything in it.
func (p *Programs) kept(pin string) (link.Link, error) {
	l, err := link.LoadPinnedLink(pin, nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the pinned link: %w", err)
	}
	info, err := l.Info()
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("read the pinned link: %w", err)
	}
	id, err := groupID(p.group)
	if err != nil {
		l.Close()
		return nil, err
	}
	if cgroup := info.Cgroup(); cgroup != nil && cgroup.CgroupId == id {
		return l, nil
	}
	return nil, errors.Join(l.Unpin(), l.Close())
}

// Close closes the programs and maps. Those that are attached go on.
func (p *Programs) Close() error { return p.objects.Close() }

// hooks are the attach types with their programs.
var hooks = []struct {
	attach  ebpf.AttachType
	program func(*serviceObjects) *ebpf.Program
}{
	// Answers before requests: from the first translated packet on, its answer is.
	{ebpf.AttachCgroupInetSockRelease, func(o *serviceObjects) *ebpf.Program { return o.SpiderRelease }},
	{ebpf.AttachCgroupInet4GetPeername, func(o *serviceObjects) *ebpf.Program { return o.SpiderPeername4 }},
	{ebpf.AttachCgroupInet6GetPeername, func(o *serviceObjects) *ebpf.Program { return o.SpiderPeername6 }},
	{ebpf.AttachCGroupUDP4Recvmsg, func(o *serviceObjects) *ebpf.Program { return o.SpiderRecvmsg4 }},
	{ebpf.AttachCGroupUDP6Recvmsg, func(o *serviceObjects) *ebpf.Program { return o.SpiderRecvmsg6 }},
	{ebpf.AttachCGroupUDP4Sendmsg, func(o *serviceObjects) *ebpf.Program { return o.SpiderSendmsg4 }},
	{ebpf.AttachCGroupUDP6Sendmsg, func(o *serviceObjects) *ebpf.Program { return o.SpiderSendmsg6 }},
	{ebpf.AttachCGroupInet4Connect, func(o *serviceObjects) *ebpf.Program { return o.SpiderConnect4 }},
	{ebpf.AttachCGroupInet6Connect, func(o *serviceObjects) *ebpf.Program { return o.SpiderConnect6 }},
}
