package topology

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"

	"spiderpool.dev/spiderpool/test/lab/topologies"
)

// Load reads a topology by name ("aws", "l2"). If nameOrPath contains a slash or ends in .yaml, it is a file. The
// result is complete and valid.
func Load(nameOrPath string) (*Topology, error) {
	if strings.Contains(nameOrPath, "/") || strings.HasSuffix(nameOrPath, ".yaml") {
		data, err := os.ReadFile(nameOrPath)
		if err != nil {
			return nil, fmt.Errorf("topology: %w", err)
		}
		return parseNamed(nameOrPath, data)
	}
	data, err := topologies.FS.ReadFile(nameOrPath + ".yaml")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("topology %q is unknown; known: %s; or give the path of a file",
			nameOrPath, strings.Join(Names(), ", "))
	}
	if err != nil {
		return nil, fmt.Errorf("topology %q: %w", nameOrPath, err)
	}
	return parseNamed(nameOrPath, data)
}

// Names lists the topology names accepted by Load.
func Names() []string {
	entries, err := topologies.FS.ReadDir(".")
	if err != nil {
		panic(err) // an embedded directory cannot fail to read
	}
	names := make([]string, len(entries))
	for i, entry := range entries {
		names[i] = strings.TrimSuffix(entry.Name(), ".yaml")
	}
	return names
}

func parseNamed(name string, data []byte) (*Topology, error) {
	t, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("topology %s: %w", name, err)
	}
	return t, nil
}

// Parse reads one YAML document, completes and validates it. Unknown keys are errors.
func Parse(data []byte) (*Topology, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	t := &Topology{}
	if err := decoder.Decode(t); err != nil {
		return nil, err
	}
	if err := decoder.Decode(&struct{}{}); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one YAML document; a topology is one document")
	}
	t.complete()
	if err := t.Validate(); err != nil {
		return nil, err
	}
	return t, nil
}

// complete fills in defaults. It must accept invalid values, because Validate reports them.
func (t *Topology) complete() {
	for v := range t.VPCs {
		vpc := &t.VPCs[v]
		completeSubnets(vpc.Subnets)
		for n := range vpc.NATGateways {
			completeMAC(&vpc.NATGateways[n].MAC, vpc.NATGateways[n].IPv4)
		}
	}
	if t.L2 != nil {
		completeSubnets(t.L2.Subnets)
		if len(t.L2.Subnets) > 0 {
			completeMAC(&t.L2.Gateway.MAC, t.L2.Subnets[0].GatewayIPv4)
		}
	}
	if t.Kind == KindAWS {
		t.Hosts = append(t.Hosts, t.loadBalancerHost())
	}
	for _, hosts := range [][]Host{t.Nodes, t.Hosts} {
		for h := range hosts {
			for i := range hosts[h].Interfaces {
				iface := &hosts[h].Interfaces[i]
				completeMAC(&iface.MAC, iface.IPv4)
			}
		}
	}
}

func completeSubnets(subnets []Subnet) {
	for s := range subnets {
		subnet := &subnets[s]
		if !subnet.GatewayIPv4.IsValid() && subnet.IPv4.IsValid() {
			subnet.GatewayIPv4 = subnet.IPv4.Masked().Addr().Next()
		}
		if !subnet.GatewayIPv6.IsValid() && subnet.IPv6.IsValid() {
			subnet.GatewayIPv6 = subnet.IPv6.Masked().Addr().Next()
		}
	}
}

// completeMAC derives a locally administered MAC address from the IPv4 address, which is unique in a topology.
func completeMAC(mac *MAC, ipv4 netip.Addr) {
	if *mac == nil && ipv4.Is4() {
		b := ipv4.As4()
		*mac = MAC{0x06, 0x01, b[0], b[1], b[2], b[3]}
	}
}

// loadBalancerHost is the host of a VPC's load balancers: one ENI with the addresses of all frontends.
func (t *Topology) loadBalancerHost() Host {
	iface := Interface{Name: "eth0", Subnet: t.LoadBalancer.Subnet, MAC: t.LoadBalancer.MAC}
	for i, frontend := range t.LoadBalancer.Frontends {
		if i == 0 {
			iface.IPv4, iface.IPv6 = frontend.IPv4, frontend.IPv6
			continue
		}
		iface.Secondary = append(iface.Secondary, frontend.IPv4, frontend.IPv6)
	}
	return Host{Name: t.LoadBalancer.Host, Interfaces: []Interface{iface}}
}
