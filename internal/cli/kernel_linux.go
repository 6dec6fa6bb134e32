package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"spiderpool.dev/spiderpool/internal/agent/datapath"
	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/linux"
	"spiderpool.dev/spiderpool/internal/linux/bpf"
	"spiderpool.dev/spiderpool/internal/linux/packetfilter"
	"spiderpool.dev/spiderpool/internal/linux/pathprobe"
	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/reach"
)

// Only this file of the program needs the kernel of Linux. kernel_other.go has its functions for other systems.

// examine compares the kernel of this node with the requirements of underlay pods.
func examine(ipv6 bool) ([]netplan.Finding, error) {
	host, err := linux.Current()
	if err != nil {
		return nil, err
	}
	defer host.Close()
	facts, err := host.Facts(netplan.LinkKinds...)
	if err != nil {
		return nil, fmt.Errorf("examine the node (run as root in the node's network namespace, e.g. in the agent): %w", err)
	}
	if err := linux.TryBandwidth(); err != nil {
		facts.NoBandwidth = err.Error()
	}
	findings := netplan.Preflight(facts, ipv6)
	file, err := config.Load(config.DefaultPath)
	switch {
	case errors.Is(err, fs.ErrNotExist): // outside of an agent's container
		return findings, nil
	case err != nil:
		return nil, err
	}
	return slices.Concat(findings, []netplan.Finding{examineServices(file.Service)}, examinePolicies(file.Policy)), nil
}

// examineServices returns the translator of service addresses.
func examineServices(cfg config.Service) netplan.Finding {
	if cfg.Mode == config.ServiceKubeProxy {
		return judgeServices(cfg.Mode, false, nil)
	}
	return judgeServices(cfg.Mode, bpf.Attached(), datapath.Check(cfg))
}

// examinePolicies returns how well the kernel enforces network policies.
func examinePolicies(cfg config.Policy) []netplan.Finding {
	if !cfg.Enabled {
		return judgePolicies(false, nil, nil)
	}
	return judgePolicies(true, packetfilter.TryPacketSockets(), packetfilter.TryOwnership())
}

// serveProbes answers the probes of a connectivity test until ctx ends.
func serveProbes(ctx context.Context, name string, port uint16) error {
	server, err := pathprobe.Listen(name, port)
	if err != nil {
		return err
	}
	return server.Serve(ctx)
}

// askProbes asks the questions of a connectivity test from the network namespace of the process.
func askProbes(ctx context.Context, request reach.Request) (reach.Reply, error) {
	return pathprobe.Probe(ctx, request)
}
