//go:build apiserver

package admission_test

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

// object makes a resource of a specification in YAML.
func object(t *testing.T, kind, spec string) *unstructured.Unstructured {
	t.Helper()
	var parsed any
	if err := yaml.Unmarshal([]byte(spec), &parsed); err != nil {
		t.Fatal(err)
	}
	o := &unstructured.Unstructured{Object: map[string]any{"spec": parsed}}
	o.SetGroupVersionKind(v2beta1.GroupVersion.WithKind(kind))
	o.SetName("judged")
	if kind == "SpiderMultusConfig" {
		o.SetNamespace("default")
	}
	return o
}

// judged is a rule's good example (want is empty) or bad one (want is part of the refusal).
type judged struct{ name, spec, want string }

// judge creates each example as the API server sees it, and deletes it again.
func judge(t *testing.T, c client.Client, kind string, examples []judged) {
	t.Helper()
	for _, example := range examples {
		t.Run(kind+"/"+example.name, func(t *testing.T) {
			o := object(t, kind, example.spec)
			answered(t, c.Create(t.Context(), o, client.DryRunAll), example.want)
		})
	}
}

// many returns a list of n entries in YAML.
func many(n int, entry func(i int) string) string {
	var out []string
	for i := range n {
		out = append(out, entry(i))
	}
	return "[" + strings.Join(out, ", ") + "]"
}

// The rules that the API server knows by itself, with no webhook.
func TestSchemaOfPoolsAndSubnets(t *testing.T) {
	c := kubetest.Client(t)
	both := []judged{
		{"smallest", `{subnet: 10.0.0.0/24}`, ""},
		{"guide", `{subnet: "2406:da1e:c4:ed01::/64", ips: ["2406:da1e:c4:ed01:c57d::0-2406:da1e:c4:ed01:c57d::f"], gateway: "2406:da1e:c4:ed01::1"}`,
			""},
		{"no subnet", `{ips: []}`, "spec.subnet: Required value"},
		{"subnet with host bits", `{subnet: 10.0.0.1/24}`,
			"'10.0.0.1/24' has host bits; write the network's first address, with zeros after the prefix"},
		{"address as subnet", `{subnet: 10.0.0.1}`, "'10.0.0.1' is not a network in CIDR notation, such as '10.0.0.0/8' or 'fd00::/64'"},
		{"version of the subnet", `{subnet: 10.0.0.0/24, ipVersion: 4}`, ""},
		{"version of another", `{subnet: 10.0.0.0/24, ipVersion: 6}`,
			"spec.ipVersion: Invalid value: 6 is not the IP version of subnet '10.0.0.0/24'; omit ipVersion"},
		{"version 5", `{subnet: 10.0.0.0/24, ipVersion: 5}`, `spec.ipVersion: Unsupported value: 5`},
		{"addresses and ranges", `{subnet: 10.0.0.0/24, ips: [10.0.0.1, 10.0.0.3-10.0.0.9], excludeIPs: [10.0.0.4]}`, ""},
		{"thousands of addresses", `{subnet: 10.0.0.0/8, ips: ` + many(4096, func(i int) string { return fmt.Sprintf("10.0.%d.%d-10.0.%d.%d", i/100, i%100*2, i/100, i%100*2) }) + `}`, ""},
		{"malformed range", `{subnet: 10.0.0.0/24, ips: ["10.0.0.1", "10.0.0.x"]}`,
			"spec.ips[1]: Invalid value: \"10.0.0.x\": '10.0.0.x' is not an address or a range, such as '10.0.0.1' or '10.0.0.1-10.0.0.9'"},
		{"range with three ends", `{subnet: 10.0.0.0/24, ips: ["10.0.0.1-10.0.0.2-10.0.0.3"]}`, "is not an address or a range"},
		{"range of mixed versions", `{subnet: 10.0.0.0/24, ips: ["10.0.0.1-fd00::1"]}`,
			"'10.0.0.1-fd00::1' mixes IP versions; use IPv4 at both ends of a range, or IPv6 at both"},
		{"range outside the subnet", `{subnet: 10.0.0.0/24, ips: [10.0.0.1, 10.0.0.250-10.0.1.5]}`,
			"spec.ips: Invalid value: '10.0.0.250-10.0.1.5' is outside subnet '10.0.0.0/24'; use addresses of the subnet"},
		{"range of another version than the subnet's", `{subnet: 10.0.0.0/24, ips: ["fd00::1"]}`,
			"spec.ips: Invalid value: 'fd00::1' is outside subnet '10.0.0.0/24'"},
		{"exclusion outside the subnet", `{subnet: 10.0.0.0/24, excludeIPs: [10.0.1.5]}`,
			"spec.excludeIPs: Invalid value: '10.0.1.5' is outside subnet '10.0.0.0/24'"},
		{"gateway of the subnet", `{subnet: 10.0.0.0/24, gateway: 10.0.0.1}`, ""},
		{"gateway outside the subnet", `{subnet: 10.0.0.0/24, gateway: 10.0.1.1}`,
			"spec.gateway: Invalid value: '10.0.1.1' is outside subnet '10.0.0.0/24'; use a gateway inside the subnet"},
		{"IPv4 gateway in an IPv6 subnet", `{subnet: "fd00::/64", gateway: 10.0.1.1}`,
			"spec.gateway: Invalid value: '10.0.1.1' has another IP version than subnet 'fd00::/64'"},
		{"malformed gateway", `{subnet: 10.0.0.0/24, gateway: router}`, "'router' is not an IP address, such as '10.0.0.1' or 'fd00::1'"},
		{"routes", `{subnet: 10.0.0.0/24, routes: [{dst: 10.9.0.0/16, gw: 10.0.0.2}]}`, ""},
		{"address as destination", `{subnet: 10.0.0.0/24, routes: [{dst: 10.9.0.0, gw: 10.0.0.2}]}`,
			"spec.routes[0].dst: Invalid value: '10.9.0.0' is not a network in CIDR notation"},
		{"malformed next hop", `{subnet: 10.0.0.0/24, routes: [{dst: 10.9.0.0/16, gw: x}]}`,
			"spec.routes[0].gw: Invalid value: 'x' is not an IP address"},
		{"next hop of another version", `{subnet: 10.0.0.0/24, routes: [{dst: 10.9.0.0/16, gw: "fd00::1"}]}`,
			"spec.routes[0].gw: Invalid value: 'fd00::1' has another IP version than dst '10.9.0.0/16'"},
		{"route of another version", `{subnet: 10.0.0.0/24, routes: [{dst: "fd01::/64", gw: "fd00::1"}]}`,
			"'fd01::/64' has another IP version than subnet '10.0.0.0/24'; move the route to an object of its version"},
	}
	judge(t, c, "SpiderIPPool", both)
	judge(t, c, "SpiderSubnet", both)
	judge(t, c, "SpiderIPPool", []judged{
		{"names", `{subnet: 10.0.0.0/24, nodeName: [node.a-1], namespaceName: [ns-1], multusName: [kube-system/net.a, net]}`, ""},
		{"node with a slash", `{subnet: 10.0.0.0/24, nodeName: [a/b]}`,
			"spec.nodeName[0]: Invalid value: \"a/b\": 'a/b' is not a node name; copy the metadata.name of a node"},
		{"namespace with a dot", `{subnet: 10.0.0.0/24, namespaceName: [a.b]}`, "'a.b' is not a namespace name"},
		{"attachment with two slashes", `{subnet: 10.0.0.0/24, multusName: [a/b/c]}`,
			"spec.multusName[0]: Invalid value: \"a/b/c\": 'a/b/c' is not the name of a network attachment; write 'namespace/name' or 'name'"},
		{"thousands of nodes", `{subnet: 10.0.0.0/8, nodeName: ` + many(5000, func(i int) string { return fmt.Sprintf("node-%d", i) }) + `}`, ""},
	})
}

func TestSubnetNetworkIsImmutable(t *testing.T) {
	c := kubetest.Client(t)
	subnet := newSubnet("fixed", "10.0.0.0/24")
	kubetest.Create(t, c, subnet)
	subnet.Spec.IPs = []string{"10.0.0.1"}
	if err := c.Update(t.Context(), subnet); err != nil {
		t.Errorf("addresses of the same network were refused: %v", err)
	}
	subnet.Spec.Subnet = "10.0.0.0/16"
	want := "'10.0.0.0/16' differs from '10.0.0.0/24', and subnet is immutable; create a new object for another network"
	refused(t, c.Update(t.Context(), subnet), want)
}

func TestPoolSubnetIsImmutable(t *testing.T) {
	c := kubetest.Client(t)
	pool := newPool("fixed", "fd00::/64")
	pool.Spec.IPVersion = new(int64(6))
	kubetest.Create(t, c, pool)
	pool.Spec.Subnet = "FD00:0::/64"
	if err := c.Update(t.Context(), pool); err != nil {
		t.Errorf("another form of the same network was refused: %v", err)
	}
	pool.Spec.Subnet = "fd00::/48"
	want := "'fd00::/48' differs from 'FD00:0::/64', and subnet is immutable; create a new object for another network"
	refused(t, c.Update(t.Context(), pool), want)
}

func TestSchemaOfReservedIPs(t *testing.T) {
	judge(t, kubetest.Client(t), "SpiderReservedIP", []judged{
		{"addresses", `{ips: [10.0.0.1, 10.0.0.5-10.0.0.9]}`, ""},
		{"version", `{ipVersion: 6, ips: ["fd00::1"]}`, ""},
		{"another version", `{ipVersion: 6, ips: ["10.0.0.1"]}`,
			"spec.ips: Invalid value: '10.0.0.1' is not IPv6, the value of ipVersion; create one object per IP version"},
		{"two versions", `{ips: [10.0.0.1, "fd00::1-fd00::2"]}`,
			"spec.ips: Invalid value: 'fd00::1-fd00::2' is not IPv4, the version of the first entry; create one object per IP version"},
		{"thousands of addresses", `{ips: ` + many(4096, func(i int) string { return fmt.Sprintf("10.0.%d.%d", i/100, i%100) }) + `}`, ""},
		{"nonsense", `{ips: [x]}`, "'x' is not an address or a range"},
	})
}

func TestSchemaOfMultusConfigs(t *testing.T) {
	judge(t, kubetest.Client(t), "SpiderMultusConfig", []judged{
		{"macvlan", `{cniType: macvlan, macvlan: {master: [eth0], vlanID: 4094, mtu: 1500}}`, ""},
		{"bond", `{cniType: ipvlan, ipvlan: {master: [eth0, eth1], bond: {name: bond0, mode: 6, options: "miimon=100"}}}`, ""},
		{"custom by default", `{customCNI: "{}"}`, ""},
		{"unknown type", `{cniType: bridge}`, `spec.cniType: Unsupported value: "bridge"`},
		{"section missing", `{cniType: ipvlan}`, "spec.ipvlan: Invalid value: is missing, but cniType is ipvlan: write the section ipvlan"},
		{"section of ib-sriov missing", `{cniType: ib-sriov}`,
			"spec.ibsriov: Invalid value: is missing, but cniType is ib-sriov: write the section ibsriov"},
		{"section of another type", `{cniType: ipvlan, ipvlan: {master: [eth0]}, macvlan: {master: [eth0]}}`,
			"spec.macvlan: Invalid value: is given, but cniType is ipvlan: remove the section macvlan, or write cniType: macvlan"},
		{"custom configuration of another type", `{cniType: ipvlan, ipvlan: {master: [eth0]}, customCNI: "{}"}`,
			"spec.customCNI: Invalid value: is given, but cniType is ipvlan"},
		{"no master", `{cniType: ipvlan, ipvlan: {master: []}}`, "spec.ipvlan.master: Invalid value"},
		{"master with a slash", `{cniType: ipvlan, ipvlan: {master: [a/b]}}`,
			"'a/b' is not an interface name; copy the name from 'ip link'"},
		{"several masters, no bond", `{cniType: macvlan, macvlan: {master: [eth0, eth1]}}`,
			"spec.macvlan.bond: Invalid value: is missing, but master names several interfaces (eth0, eth1): name the bond to make of them, or name one master"},
		{"VLAN ID", `{cniType: macvlan, macvlan: {master: [eth0], vlanID: 4095}}`, "spec.macvlan.vlanID: Invalid value: 4095"},
		{"bond mode", `{cniType: macvlan, macvlan: {master: [eth0, eth1], bond: {name: b, mode: 7}}}`,
			"spec.macvlan.bond.mode: Invalid value: 7"},
		{"vlan manual", `{cniType: vlan, vlan: {master: [eth0], vlanMode: manual, vlanID: 3}}`, ""},
		{"vlan manual without ID", `{cniType: vlan, vlan: {master: [eth0], vlanMode: manual}}`,
			"spec.vlan.vlanID: Invalid value: is missing, but vlanMode is manual: write the VLAN ID"},
		{"vlan auto", `{cniType: vlan, vlan: {master: [eth0], vlanMode: auto}}`, ""},
		{"vlan auto with ID", `{cniType: vlan, vlan: {master: [eth0], vlanMode: auto, vlanID: 3}}`,
			"spec.vlan.vlanID: Invalid value: 3 is set, but vlanMode is auto: omit vlanID, or write vlanMode: manual"},
		{"sriov", `{cniType: sriov, sriov: {resourceName: a/b, minTxRateMbps: 1, maxTxRateMbps: 2}}`, ""},
		{"sriov without a resource", `{cniType: sriov, sriov: {}}`, "spec.sriov.resourceName: Required value"},
		{"sriov rates", `{cniType: sriov, sriov: {resourceName: a/b, minTxRateMbps: 3, maxTxRateMbps: 2}}`,
			"spec.sriov.minTxRateMbps: Invalid value: 3 is more than maxTxRateMbps, 2; write a lower rate"},
		{"link state", `{cniType: ib-sriov, ibsriov: {resourceName: a/b, linkState: up}}`,
			`spec.ibsriov.linkState: Unsupported value: "up"`},
		{"trunk", `{cniType: ovs, ovs: {bridge: br0, trunk: [{id: 1}, {minID: 2, maxID: 3}]}}`, ""},
		{"empty trunk", `{cniType: ovs, ovs: {bridge: br0, trunk: [{}]}}`, "spec.ovs.trunk[0]: Invalid value"},
		{"inverted trunk", `{cniType: ovs, ovs: {bridge: br0, trunk: [{minID: 4, maxID: 3}]}}`,
			"is not a range: write minID and maxID, with minID <= maxID"},
		{"ambiguous trunk", `{cniType: ovs, ovs: {bridge: br0, trunk: [{id: 1, minID: 2, maxID: 3}]}}`,
			"needs either id or a range: write id, or minID and maxID"},
		{"VLAN of ovs", `{cniType: ovs, ovs: {bridge: br0, vlan: 4095}}`, "spec.ovs.vlan: Invalid value: 4095"},
		{"VLAN of vlan", `{cniType: vlan, vlan: {master: [eth0], vlanID: 4095}}`, "spec.vlan.vlanID: Invalid value: 4095"},
		{"vlan with ID alone", `{cniType: vlan, vlan: {master: [eth0], vlanID: 4094}}`, ""},
		{"vlan with nothing", `{cniType: vlan, vlan: {master: [eth0]}}`,
			"spec.vlan.vlanID: Invalid value: is missing, and so is vlanMode: write the VLAN ID, or vlanMode: auto"},
		{"VLAN of sriov", `{cniType: sriov, sriov: {resourceName: a/b, vlanID: 4095}}`, "spec.sriov.vlanID: Invalid value: 4095"},
		{"sriov with VLAN", `{cniType: sriov, sriov: {resourceName: a/b, vlanID: 4094}}`, ""},
		{"ib-sriov", `{cniType: ib-sriov, ibsriov: {resourceName: a/b, pkey: "0x8001", linkState: disable}}`, ""},
		{"ipoib", `{cniType: ipoib, ipoib: {master: ib0}}`, ""},
		{"ipoib without a master", `{cniType: ipoib, ipoib: {}}`, "spec.ipoib.master: Required value"},
		{"ipoib with no interface", `{cniType: ipoib, ipoib: {master: "ib 0"}}`,
			"spec.ipoib.master: Invalid value: \"ib 0\": 'ib 0' is not an interface name; copy the name from 'ip link'"},
		{"bond options", `{cniType: macvlan, macvlan: {master: [a, b], bond: {name: b0, mode: 1, options: " miimon=100; primary=a;;"}}}`,
			""},
		{"malformed bond options", `{cniType: macvlan, macvlan: {master: [a, b], bond: {name: b0, mode: 1, options: "miimon=100;primary"}}}`,
			"'miimon=100;primary' is not a list of key=value pairs, such as 'miimon=100;lacp_rate=1'"},
		{"coordinator", `{cniType: ipvlan, ipvlan: {master: [eth0]}, coordinator: {hijackCIDR: [x]}}`,
			"spec.coordinator.hijackCIDR[0]: Invalid value: \"x\": 'x' is not a network in CIDR notation"},
	})
}

// Each type has its section, and no other one.
func TestSectionsOfMultusConfigs(t *testing.T) {
	sections := map[string]struct{ cniType, good string }{
		"macvlan": {"macvlan", `{master: [eth0]}`},
		"ipvlan":  {"ipvlan", `{master: [eth0]}`},
		"vlan":    {"vlan", `{master: [eth0], vlanID: 3}`},
		"sriov":   {"sriov", `{resourceName: a/b}`},
		"ibsriov": {"ib-sriov", `{resourceName: a/b}`},
		"ipoib":   {"ipoib", `{master: ib0}`},
		"ovs":     {"ovs", `{bridge: br0}`},
	}
	var examples []judged
	for section, s := range sections {
		examples = append(examples,
			judged{"with " + section, fmt.Sprintf("{cniType: %s, %s: %s}", s.cniType, section, s.good), ""},
			judged{"without " + section, fmt.Sprintf("{cniType: %s}", s.cniType),
				fmt.Sprintf("spec.%s: Invalid value: is missing, but cniType is %s: write the section %s", section, s.cniType, section)},
			judged{section + " for custom", fmt.Sprintf("{cniType: custom, %s: %s}", section, s.good),
				fmt.Sprintf("spec.%s: Invalid value: is given, but cniType is custom: remove the section %s, or write cniType: %s", section, section, s.cniType)})
	}
	judge(t, kubetest.Client(t), "SpiderMultusConfig", examples)
}

func TestSchemaOfCoordinators(t *testing.T) {
	judge(t, kubetest.Client(t), "SpiderCoordinator", []judged{
		{"everything", `{mode: underlay, podCIDRType: cluster, hijackCIDR: [169.254.0.0/16, "fd00::/64"], policyRoutes: [{dst: 10.0.0.0/8, gw: 10.0.0.1}],
			podMACPrefix: "0a:1b", tunePodRoutes: true, podDefaultRouteNIC: net1, hostRuleTable: 500, podRPFilter: 0, txQueueLen: 1000,
			vethLinkAddress: 169.254.100.1, vethMTU: 1500, detectGateway: true, detectIPConflict: true, hostRPFilter: 0}`, ""},
		{"empty strings", `{podMACPrefix: "", podDefaultRouteNIC: "", vethLinkAddress: ""}`, ""},
		{"mode", `{mode: on}`, `spec.mode`},
		{"addresses", `{hijackCIDR: [10.0.0.1, "fd00::1"], policyRoutes: [{dst: 10.0.0.9, gw: 10.0.0.1}, {dst: "fd00::9", gw: "fd00::1"}]}`,
			""},
		{"network", `{hijackCIDR: [10.0.0]}`,
			"'10.0.0' is not a network in CIDR notation, such as '10.0.0.0/8' or 'fd00::/64', or an address"},
		{"route", `{policyRoutes: [{dst: 10.0.0.0/8, gw: "fd00::1"}]}`,
			"spec.policyRoutes[0].gw: Invalid value: 'fd00::1' has another IP version than dst '10.0.0.0/8'"},
		{"MAC prefix", `{podMACPrefix: "0a1b"}`, "'0a1b' is not two bytes in hexadecimal, such as '0a:1b'"},
		{"multicast MAC prefix", `{podMACPrefix: "0b:1b"}`,
			"'0b:1b' begins with an odd byte, which makes a multicast address; use an even first byte, e.g. '0a:1b'"},
		{"interface", `{podDefaultRouteNIC: "a b"}`, "'a b' is not an interface name, such as 'eth0' or 'net1'"},
		{"table of the kernel", `{hostRuleTable: 254}`,
			"spec.hostRuleTable: Invalid value: 254: 254 is reserved by the kernel (253 default, 254 main, 255 local); use another table, e.g. 500"},
		{"table 0", `{hostRuleTable: 0}`, "spec.hostRuleTable: Invalid value: 0"},
		{"podCIDRType", `{podCIDRType: flannel}`, `spec.podCIDRType: Unsupported value: "flannel"`},
		{"transmit queue", `{txQueueLen: -1}`, "spec.txQueueLen: Invalid value: -1"},
		{"route to an address", `{policyRoutes: [{dst: 10.0.0.9, gw: "fd00::1"}]}`,
			"spec.policyRoutes[0].gw: Invalid value: 'fd00::1' has another IP version than dst '10.0.0.9'"},
		{"destination", `{policyRoutes: [{dst: 10.0.0, gw: 10.0.0.1}]}`,
			"spec.policyRoutes[0].dst: Invalid value: '10.0.0' is not a network in CIDR notation"},
		{"reverse path filter", `{podRPFilter: 3}`, "spec.podRPFilter: Invalid value: 3"},
		{"global link address", `{vethLinkAddress: 10.0.0.1}`,
			"'10.0.0.1' is not a link-local address; use one in 169.254.0.0/16 or fe80::/10, or omit the field"},
		{"MTU", `{vethMTU: 0}`, "spec.vethMTU: Invalid value: 0"},
	})
}
