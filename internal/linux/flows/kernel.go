package flows

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"spiderpool.dev/spiderpool/internal/linux/bpf"
)

// kernel holds the maps that the programs of all interfaces share.
type kernel struct {
	flowsMaps
	sample uint32
	// services are the maps of package bpf, or nil. They replace peers and replies.
	services *bpf.Translations
	pins     *pins
}

// loadKernel makes the maps, or opens those of p. It fails on a kernel that cannot run the programs.
func loadKernel(sample uint32, p *pins) (*kernel, error) {
	k := &kernel{sample: sample, pins: p}
	spec, err := k.spec()
	if err != nil {
		return nil, err
	}
	options := p.share(spec)
	var all flowsObjects
	if err := spec.LoadAndAssign(&all, &options); err != nil {
		return nil, fmt.Errorf("load the eBPF programs that see connections: %w", err)
	}
	k.flowsMaps = all.flowsMaps
	return k, all.flowsPrograms.Close()
}

// spec returns the programs and maps. Without services, those of services are as small as possible.
func (k *kernel) spec() (*ebpf.CollectionSpec, error) {
	spec, err := loadFlows()
	if err != nil {
		return nil, err
	}
	translated := uint32(1)
	if k.services == nil {
		translated = 0
		spec.Maps[flowsMapPeers].MaxEntries, spec.Maps[flowsMapReplies].MaxEntries = 1, 1
	}
	return spec, errors.Join(spec.Variables[flowsVarSample].Set(k.sample), spec.Variables[flowsVarTranslated].Set(translated))
}

// programs loads the programs of an interface.
func (k *kernel) programs(number uint32) (*flowsPrograms, error) {
	spec, err := k.spec()
	if err != nil {
		return nil, err
	}
	if err := spec.Variables[flowsVarNic].Set(number); err != nil {
		return nil, err
	}
	shared := map[string]*ebpf.Map{
		flowsMapConnections: k.Connections, flowsMapEvents: k.Events, flowsMapLost: k.Lost, flowsMapPeers: k.Peers, flowsMapReplies: k.Replies,
	}
	if k.services != nil {
		shared[flowsMapPeers], shared[flowsMapReplies] = k.services.Peers, k.services.Replies
	}
	var p flowsPrograms
	err = spec.LoadAndAssign(&p, &ebpf.CollectionOptions{MapReplacements: shared})
	return &p, err
}

// attach attaches the programs of an interface in the network namespace of the calling thread.
func (k *kernel) attach(number uint32, index int) (links []link.Link, err error) {
	p, err := k.programs(number)
	if err != nil {
		return nil, err
	}
	defer p.Close() // the links keep them
	for _, one := range []struct {
		program *ebpf.Program
		to      ebpf.AttachType
	}{{p.SpiderIn, ebpf.AttachTCXIngress}, {p.SpiderOut, ebpf.AttachTCXEgress}} {
		l, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: one.program, Attach: one.to, Anchor: link.Head()})
		if err != nil {
			closeAll(links)
			if errors.Is(err, ebpf.ErrNotSupported) {
				return nil, errors.New("this kernel cannot attach eBPF programs to an interface (tcx). Observability needs Linux 6.6 or later")
			}
			return nil, err
		}
		links = append(links, l)
	}
	return links, nil
}

// update replaces the programs of an interface, each without a moment between two. links are those of attach.
func (k *kernel) update(number uint32, links []link.Link) error {
	p, err := k.programs(number)
	if err != nil {
		return err
	}
	defer p.Close()
	return errors.Join(links[0].Update(p.SpiderIn), links[1].Update(p.SpiderOut))
}

func closeAll(links []link.Link) {
	for _, l := range links {
		_ = l.Close()
	}
}

// detach ends links, also pinned ones.
func detach(links []link.Link) {
	for _, l := range links {
		_ = l.Unpin()
	}
	closeAll(links)
}

// isAnswered reports whether both ends of a connection have sent packets.
func (k *kernel) isAnswered(c *connection) bool {
	var s state
	return k.Connections.Lookup(c, &s) == nil && s.Answered != 0
}

// lost returns how many events found no room, since the maps were made.
func (k *kernel) lost() (sum uint64) {
	var ofProcessors []uint64
	if k.Lost.Lookup(uint32(0), &ofProcessors) != nil {
		return 0
	}
	for _, n := range ofProcessors {
		sum += n
	}
	return sum
}
