package cloudapi

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"spiderpool.dev/spiderpool/internal/cloud/cloudtest/ec2test"
	"spiderpool.dev/spiderpool/test/lab/internal/topology"
)

const (
	// Role is the role in the instance profile of all nodes.
	Role = "spiderpool-node"
	// instanceType has room for 10 addresses and prefixes of each IP version on an ENI.
	instanceType = "m5.large"
)

// newCloud returns the cloud of a topology: its VPCs and subnets, its nodes as instances, and the addresses of its other
// machines as interfaces of another owner.
func newCloud(t *topology.Topology) *ec2test.Cloud {
	c := ec2test.New(ec2test.Options{Region: region(t)})
	subnets := map[string]string{} // IDs by name
	groups := map[string]string{}  // the same
	for v, vpc := range t.VPCs {
		id := c.AddVPC(ec2test.VPC{ID: fmt.Sprintf("vpc-%017x", v+1), IPv4: vpc.IPv4, IPv6: vpc.IPv6, Tags: named(vpc.Name)})
		group := c.AddSecurityGroup(ec2test.SecurityGroup{VPC: id, Name: "nodes"})
		for s, subnet := range vpc.Subnets {
			subnets[subnet.Name] = c.AddSubnet(ec2test.Subnet{
				ID: fmt.Sprintf("subnet-%015x%02x", v+1, s+1), VPC: id, Zone: subnet.Zone, IPv4: subnet.IPv4, IPv6: subnet.IPv6, Tags: named(subnet.Name),
			})
			groups[subnet.Name] = group
		}
	}
	for _, node := range t.Nodes {
		eni := node.Interfaces[0]
		c.AddInstance(ec2test.Instance{
			ID: node.InstanceID(), Type: instanceType, Subnet: subnets[eni.Subnet], Groups: []string{groups[eni.Subnet]}, Role: Role, Tags: named(node.Name),
			MAC: eni.MAC.String(), Address: eni.IPv4, Address6: eni.IPv6, Prefixes: eni.Prefixes,
		})
	}
	for _, other := range others(t) {
		other.Subnet = subnets[other.Subnet]
		c.AddInterface(other)
	}
	return c
}

// others returns the interfaces of everything but nodes, with the names of their subnets. The load balancers are a host.
func others(t *topology.Topology) []ec2test.Interface {
	var list []ec2test.Interface
	add := func(name, subnet string, addrs ...netip.Addr) {
		i := ec2test.Interface{Subnet: subnet, Description: name, Requester: "lab", Tags: named(name)}
		for _, addr := range addrs {
			switch {
			case addr.Is4():
				i.IPv4 = append(i.IPv4, addr)
			case addr.IsValid():
				i.IPv6 = append(i.IPv6, addr)
			}
		}
		list = append(list, i)
	}
	for _, host := range t.Hosts {
		for _, eni := range host.Interfaces {
			add(host.Name, eni.Subnet, eni.Addresses()...)
		}
	}
	for _, vpc := range t.VPCs {
		for _, nat := range vpc.NATGateways {
			add(nat.Name, nat.Subnet, nat.IPv4)
		}
	}
	return list
}

// region returns the region of the topology, e.g. ap-east-1 for the zone ap-east-1a.
func region(t *topology.Topology) string {
	return strings.TrimRight(t.VPCs[0].Subnets[0].Zone, "abcdef")
}

func named(name string) map[string]string { return map[string]string{"Name": name} }

// assigned returns what the cloud has assigned to the nodes, by MAC address. An ENI without an instance has nothing.
func assigned(t *topology.Topology, c *ec2test.Cloud) map[string][]netip.Prefix {
	all := map[string][]netip.Prefix{}
	for _, node := range t.Nodes {
		all[node.Interfaces[0].MAC.String()] = nil
	}
	for _, r := range c.Routes() {
		all[r.MAC] = append(all[r.MAC], r.Prefix)
	}
	return all
}

// attached returns the interfaces of the nodes beside their primary ones, by node, and whether others are being attached. Their
// names are those of Nitro instances: ens6 for device index 1.
func attached(t *topology.Topology, c *ec2test.Cloud) (all map[string][]topology.Interface, more bool, err error) {
	routed := map[string]bool{} // those that are being detached are not
	for _, r := range c.Routes() {
		routed[r.Interface] = true
	}
	all = map[string][]topology.Interface{}
	for _, node := range t.Nodes {
		for _, i := range c.Interfaces(node.InstanceID()) {
			if i.Attachment.Device == 0 || !routed[i.ID] {
				continue
			}
			if !i.Attachment.Complete(time.Now()) {
				more = true
				continue
			}
			further := topology.Interface{Name: fmt.Sprintf("ens%d", 5+i.Attachment.Device), IPv4: i.IPv4[0]}
			if err := further.MAC.UnmarshalText([]byte(i.MAC)); err != nil {
				return nil, false, fmt.Errorf("interface %s: %w", i.ID, err)
			}
			all[node.Name] = append(all[node.Name], further)
		}
	}
	return all, more, nil
}

// instanceOf returns the instance that has the address.
func instanceOf(c *ec2test.Cloud, addr netip.Addr) (string, bool) {
	for _, r := range c.Routes() {
		if r.Prefix.Contains(addr) {
			return r.Instance, true
		}
	}
	return "", false
}
