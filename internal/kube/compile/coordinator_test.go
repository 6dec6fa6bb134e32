package compile_test

import (
	"testing"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/compile"
)

func TestCoordinatorRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		spec v2beta1.CoordinatorSpec
		want string // the whole error, or "" for none
	}{
		"nothing that is empty": {v2beta1.CoordinatorSpec{}, ""},
		"no empty strings":      {v2beta1.CoordinatorSpec{PodMACPrefix: new(""), PodDefaultRouteNIC: new(""), VethLinkAddress: new("")}, ""},
		"nothing that is right": {v2beta1.CoordinatorSpec{
			HijackCIDR: []string{"169.254.0.0/16", "fd00::/64"}, PolicyRoutes: v2beta1.PolicyRoutes{{Dst: "10.0.0.0/8", Gw: "10.0.0.1"}, {Dst: "fd01::/64", Gw: "fd00::1"}},
			PodMACPrefix: new("0a:1b"), PodDefaultRouteNIC: new("abcdefghijklmno"), HostRuleTable: new(500), PodRPFilter: new(2), TxQueueLen: new(0),
			VethMTU: new(1), VethLinkAddress: new("fe80::1"),
		}, ""},
		"addresses for networks": {v2beta1.CoordinatorSpec{
			HijackCIDR: []string{"10.0.0.1", "fd00::1"}, PolicyRoutes: v2beta1.PolicyRoutes{{Dst: "10.0.0.9", Gw: "10.0.0.1"}, {Dst: "fd00::9", Gw: "fd00::1"}},
		}, ""},
		"no network": {v2beta1.CoordinatorSpec{HijackCIDR: []string{"10.0.0.0/8", "10.0.0"}},
			`spec.hijackCIDR[1]: Invalid value: "10.0.0": is not a network in CIDR notation, such as "10.0.0.0/8" or "fd00::/64", or an address`},
		"an IPv4 address in IPv6 form": {v2beta1.CoordinatorSpec{HijackCIDR: []string{"::ffff:10.0.0.1"}},
			`spec.hijackCIDR[0]: Invalid value: "::ffff:10.0.0.1": is not a network in CIDR notation, such as "10.0.0.0/8" or "fd00::/64", or an address`},
		"an address with a zone to hijack": {v2beta1.CoordinatorSpec{HijackCIDR: []string{"fe80::1%eth0"}},
			`spec.hijackCIDR[0]: Invalid value: "fe80::1%eth0": is not a network in CIDR notation, such as "10.0.0.0/8" or "fd00::/64", or an address`},
		"an IPv4 network in IPv6 form": {v2beta1.CoordinatorSpec{HijackCIDR: []string{"::ffff:10.0.0.0/104"}},
			`spec.hijackCIDR[0]: Invalid value: "::ffff:10.0.0.0/104": is not a network in CIDR notation, such as "10.0.0.0/8" or "fd00::/64", or an address`},
		"a destination that is none": {v2beta1.CoordinatorSpec{PolicyRoutes: v2beta1.PolicyRoutes{{Dst: "nowhere", Gw: "10.0.0.1"}}},
			`spec.policyRoutes[0].dst: Invalid value: "nowhere": is not a network in CIDR notation, such as "10.0.0.0/8" or "fd00::/64"`},
		"an IPv4 destination in IPv6 form": {v2beta1.CoordinatorSpec{PolicyRoutes: v2beta1.PolicyRoutes{{Dst: "::ffff:10.0.0.0/104", Gw: "fd00::1"}}},
			`spec.policyRoutes[0].dst: Invalid value: "::ffff:10.0.0.0/104": is not a network in CIDR notation, such as "10.0.0.0/8" or "fd00::/64"`},
		"a next hop that is none": {v2beta1.CoordinatorSpec{PolicyRoutes: v2beta1.PolicyRoutes{{Dst: "10.0.0.0/8", Gw: "router"}}},
			`spec.policyRoutes[0].gw: Invalid value: "router": is not an IP address, such as "10.0.0.1" or "fd00::1"`},
		"a next hop of another version": {v2beta1.CoordinatorSpec{PolicyRoutes: v2beta1.PolicyRoutes{{Dst: "10.0.0.0/8", Gw: "fd00::1"}}},
			`spec.policyRoutes[0].gw: Invalid value: "fd00::1": is IPv6, but dst 10.0.0.0/8 is IPv4; write a next hop of that version`},
		"a multicast next hop": {v2beta1.CoordinatorSpec{PolicyRoutes: v2beta1.PolicyRoutes{{Dst: "10.0.0.0/8", Gw: "224.0.0.1"}}},
			`spec.policyRoutes[0].gw: Invalid value: "224.0.0.1": is a multicast address; write the address of a router`},
		"a destination with host bits": {v2beta1.CoordinatorSpec{PolicyRoutes: v2beta1.PolicyRoutes{{Dst: "10.9.0.7/16", Gw: "10.0.0.1"}}}, ""},
		"a MAC prefix of another form": {v2beta1.CoordinatorSpec{PodMACPrefix: new("0a1b")},
			`spec.podMACPrefix: Invalid value: "0a1b": use two hexadecimal bytes, e.g. "0a:1b"`},
		"a multicast MAC prefix": {v2beta1.CoordinatorSpec{PodMACPrefix: new("0b:1b")},
			`spec.podMACPrefix: Invalid value: "0b:1b": the first byte is odd, which makes a multicast address; use an even one, e.g. "0a:1b"`},
		"an interface with a long name": {v2beta1.CoordinatorSpec{PodDefaultRouteNIC: new("abcdefghijklmnop")},
			`spec.podDefaultRouteNIC: Invalid value: "abcdefghijklmnop": is longer than 15 bytes, the limit for interface names; e.g. "eth0" or "net1"`},
		"an interface of two-byte letters": {v2beta1.CoordinatorSpec{PodDefaultRouteNIC: new("ääääääää")},
			`spec.podDefaultRouteNIC: Invalid value: "ääääääää": is longer than 15 bytes, the limit for interface names; e.g. "eth0" or "net1"`},
		"an interface with a slash": {v2beta1.CoordinatorSpec{PodDefaultRouteNIC: new("a/b")},
			`spec.podDefaultRouteNIC: Invalid value: "a/b": is not an interface name; e.g. "eth0" or "net1"`},
		"a table of the kernel's": {v2beta1.CoordinatorSpec{HostRuleTable: new(253)},
			`spec.hostRuleTable: Invalid value: 253: use a table above 0 other than 253 (default), 254 (main) and 255 (local), e.g. 500`},
		"table 0": {v2beta1.CoordinatorSpec{HostRuleTable: new(0)},
			`spec.hostRuleTable: Invalid value: 0: use a table above 0 other than 253 (default), 254 (main) and 255 (local), e.g. 500`},
		"a value that rp_filter has not": {v2beta1.CoordinatorSpec{PodRPFilter: new(3)},
			`spec.podRPFilter: Invalid value: 3: use 0 (off), 1 (strict) or 2 (loose)`},
		"a negative rp_filter": {v2beta1.CoordinatorSpec{PodRPFilter: new(-1)},
			`spec.podRPFilter: Invalid value: -1: use 0 (off), 1 (strict) or 2 (loose)`},
		"a negative queue": {v2beta1.CoordinatorSpec{TxQueueLen: new(-1)},
			`spec.txQueueLen: Invalid value: -1: use a number of packets, or 0 to keep the kernel's value`},
		"a huge MTU": {v2beta1.CoordinatorSpec{VethMTU: new(65536)},
			`spec.vethMTU: Invalid value: 65536: use a number of bytes up to 65535, e.g. 1500, or 0 for the kernel's default`},
		"an address that is not link-local": {v2beta1.CoordinatorSpec{VethLinkAddress: new("10.0.0.1")},
			`spec.vethLinkAddress: Invalid value: "10.0.0.1": is not a link-local address; use one in 169.254.0.0/16 or fe80::/10, or omit the field`},
		"an address with a zone": {v2beta1.CoordinatorSpec{VethLinkAddress: new("fe80::1%eth0")},
			`spec.vethLinkAddress: Invalid value: "fe80::1%eth0": is not a link-local address; use one in 169.254.0.0/16 or fe80::/10, or omit the field`},
		"a network for an address": {v2beta1.CoordinatorSpec{VethLinkAddress: new("169.254.0.0/16")},
			`spec.vethLinkAddress: Invalid value: "169.254.0.0/16": is not a link-local address; use one in 169.254.0.0/16 or fe80::/10, or omit the field`},
	} {
		t.Run(name, func(t *testing.T) {
			got := ""
			if _, errs := compile.Coordinator(field.NewPath("spec"), &c.spec, &v2beta1.SpiderCoordinatorStatus{}); len(errs) > 0 {
				got = errs.ToAggregate().Error()
			}
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}
