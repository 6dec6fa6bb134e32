package agent

import (
	"spiderpool.dev/spiderpool/internal/agent/flowpods"
	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/flow"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/linux/bpf"
	collector "spiderpool.dev/spiderpool/internal/linux/flows"
)

// newFlowSource returns the collector of the pods' connections, and sets flowPods. It returns nil if connections are not to
// be observed, or if the kernel cannot.
func (a *agent) newFlowSource() flow.Source {
	if !a.cfg.Observability.Enabled {
		if err := collector.Remove(); err != nil {
			a.log.Warn("cannot end the observation of connections by an earlier agent", "err", err)
		}
		return nil
	}
	o := collector.Options{Sample: a.cfg.Observability.Sample, Pins: collector.Directory, Policies: a.policies.denying, Log: a.log}
	if a.cfg.Service.Mode != config.ServiceKubeProxy {
		o.Services = bpf.Directory
	}
	c, err := collector.New(o)
	if err != nil {
		a.log.Error("connections of pods are not observed", "err", err)
		return nil
	}
	a.flowPods = flowpods.New(c, a.ready, func() []lease.Lease { return a.service.Allocator.HeldFor(0) }, podNamespaces, a.log)
	return c
}

// logDrops has a packet filter copy the packets that it drops, if connections are observed.
func (a *agent) logDrops(filter interface{ LogDrops() error }) {
	if !a.cfg.Observability.Enabled {
		return
	}
	if err := filter.LogDrops(); err != nil {
		a.log.Warn("packets that policies drop are not observed", "err", err)
	}
}
