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
	services, err := examineServices()
	if err != nil {
		return nil, err
	}
	policies, err := examinePolicies()
	return slices.Concat(netplan.Preflight(facts, ipv6), services, policies), err
}

// examineServices returns the translator of service addresses, and nothing outside of an
// agent's container, where the configuration is missing.
func examineServices() ([]netplan.Finding, error) {
	file, err := config.Load(config.DefaultPath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	mode := file.Service.Mode
	attached, unable := false, error(nil)
	if mode != config.ServiceKubeProxy {
		attached, unable = bpf.Attached(), datapath.Check(file.Service)
	}
	return []netplan.Finding{judgeServices(mode, attached, unable)}, nil
}

// examinePolicies returns how well the kernel enforces network policies, and nothing outside of an agent's container,
// where the configuration is missing.
func examinePolicies() ([]netplan.Finding, error) {
	file, err := config.Load(config.DefaultPath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil || !file.Policy.Enabled {
		return judgePolicies(false, nil, nil), err
	}
	return judgePolicies(true, packetfilter.TryPacketSockets(), packetfilter.TryOwnership()), nil
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
