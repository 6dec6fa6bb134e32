package netplan_test

import (
	"fmt"
	"net/netip"

	"spiderpool.dev/spiderpool/internal/cniconf"
	"spiderpool.dev/spiderpool/internal/netplan"
)

// A plan is made from values, without I/O. These are the node's routes to a pod.
func ExampleUnderlay() {
	pod := netplan.Pod{Attached: "eth0", NICs: []netplan.NIC{{
		Name: "eth0", Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.7/24"), netip.MustParsePrefix("fd00::7/64")},
		Gateways: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")},
	}}}
	node := netplan.Node{Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24")}, IPv6: true}
	plan, err := netplan.Underlay(pod, node, netplan.Default(), netplan.VethPairOf("container"))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, item := range plan.Host {
		if route, ok := item.(netplan.Route); ok {
			fmt.Println(route)
		}
	}
	// Output:
	// route 10.0.0.7/32 dev spva42d519714d6 src 10.0.0.2 table 500 proto 83
	// route fd00::7/128 dev spva42d519714d6 table 500 proto 83
}

// An attachment's keys override the cluster's settings.
func ExampleSettings_With() {
	settings, errs := netplan.Default().With(cniconf.Coordinator{VethMTU: new(9000), HostRuleTable: new(254)})
	fmt.Println(settings.VethMTU, settings.TunePodRoutes)
	for _, err := range errs {
		fmt.Println(err.Error())
	}
	// Output:
	// 9000 true
	// hostRuleTable "254": use a table above 0 other than 253 (default), 254 (main) and 255 (local), e.g. 500
}
