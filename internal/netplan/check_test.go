package netplan

import (
	"errors"
	"strings"
	"testing"

	"spiderpool.dev/spiderpool/internal/inet"
)

// TestSettingsAreCheckedAtTheirBounds plans the interface net1 of a pod with two interfaces.
func TestSettingsAreCheckedAtTheirBounds(t *testing.T) {
	ipv4NIC := guideNet1
	ipv4NIC.Addrs, ipv4NIC.Gateways = ipv4NIC.Addrs[:1], ipv4NIC.Gateways[:1]
	ipv4, dual, alone := attached("net1", calicoEth0, ipv4NIC), attached("net1", guideEth0, guideNet1), attached("eth0", guideEth0)
	for _, tt := range []struct {
		name   string
		pod    Pod
		change func(*Settings)
		field  string // "" accepts the settings
	}{
		{"table 0", dual, func(s *Settings) { s.HostRuleTable = 0 }, "hostRuleTable"},
		{"table 1", dual, func(s *Settings) { s.HostRuleTable = 1 }, ""},
		{"table 252", dual, func(s *Settings) { s.HostRuleTable = 252 }, ""},
		{"table default", dual, func(s *Settings) { s.HostRuleTable = 253 }, "hostRuleTable"},
		{"table 256", dual, func(s *Settings) { s.HostRuleTable = 256 }, ""},
		{"rp_filter -1", dual, func(s *Settings) { s.RPFilter = -1 }, "podRPFilter"},
		{"rp_filter 0", dual, func(s *Settings) { s.RPFilter = 0 }, ""},
		{"rp_filter 2", dual, func(s *Settings) { s.RPFilter = 2 }, ""},
		{"queue length 0", dual, func(s *Settings) { s.TxQueueLen = 0 }, ""},
		{"IPv6 link-local address", dual, func(s *Settings) { s.VethLinkAddr = ips("fe80::2")[0] }, ""},
		{"MTU -1", ipv4, func(s *Settings) { s.VethMTU = -1 }, "vethMTU"},
		{"MTU 0", dual, func(s *Settings) { s.VethMTU = 0 }, ""},
		{"MTU 65535", dual, func(s *Settings) { s.VethMTU = 65535 }, ""},
		{"MTU 1280 with IPv6", dual, func(s *Settings) { s.VethMTU = 1280 }, ""},
		{"MTU 1279 with IPv6", dual, func(s *Settings) { s.VethMTU = 1279 }, "vethMTU"},
		{"MTU 1279 without IPv6", ipv4, func(s *Settings) { s.VethMTU = 1279 }, ""},
		{"default interface, untuned", dual, func(s *Settings) { s.DefaultNIC, s.TunePodRoutes = "net1", false }, "podDefaultRouteNIC"},
		{"default interface, tuned", dual, func(s *Settings) { s.DefaultNIC = "net1" }, ""},
		{"default interface, untuned and alone", alone, func(s *Settings) { s.DefaultNIC, s.TunePodRoutes = "eth0", false }, ""},
		{"no default interface, untuned", dual, func(s *Settings) { s.TunePodRoutes = false }, ""},
		{"unreachable gateway of the cluster", dual, func(s *Settings) {
			s.PolicyRoutes = []inet.Route{{Dst: pfx("10.0.0.0/8")[0], Via: ips("192.0.2.1")[0]}}
		}, ""},
		{"unreachable gateway of the attachment", dual, func(s *Settings) {
			s.PolicyRoutes, s.OwnPolicyRoutes = []inet.Route{{Dst: pfx("10.0.0.0/8")[0], Via: ips("192.0.2.1")[0]}}, true
		}, "policyRoutes"},
		{"gateway at the broadcast address", dual, func(s *Settings) {
			s.PolicyRoutes, s.OwnPolicyRoutes = []inet.Route{{Dst: pfx("10.0.0.0/8")[0], Via: ips("10.20.0.255")[0]}}, true
		}, "policyRoutes"},
		{"multicast gateway", dual, func(s *Settings) {
			s.PolicyRoutes = []inet.Route{{Dst: pfx("10.0.0.0/8")[0], Via: ips("224.0.0.1")[0]}}
		}, "policyRoutes[0].gw"},
		{"gateway of a family the pod lacks", ipv4, func(s *Settings) {
			s.PolicyRoutes, s.OwnPolicyRoutes = []inet.Route{{Dst: pfx("fd07::/64")[0], Via: ips("fd20::7")[0]}}, true
		}, ""},
		{"route without a gateway", dual, func(s *Settings) { s.PolicyRoutes = []inet.Route{{Dst: pfx("10.0.0.0/8")[0]}} }, "policyRoutes[0].gw"},
		{"hijacked subnet of net1", dual, func(s *Settings) { s.HijackCIDR = pfx("10.20.0.128/25") }, "hijackCIDR"},
		{"hijacked address in the subnet of net1", dual, func(s *Settings) { s.HijackCIDR = pfx("10.20.0.50/32", "fd20::50/128") }, ""},
		{"hijacked address of net1", dual, func(s *Settings) { s.HijackCIDR = pfx("10.20.0.17/32") }, "hijackCIDR"},
		{"hijacked gateway of net1", dual, func(s *Settings) { s.HijackCIDR = pfx("fd20::1/128") }, "hijackCIDR"},
		{"service network with the gateway of net1", dual, func(s *Settings) { s.ServiceCIDR = pfx("fd20::/124") }, "serviceCIDR"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := guideSettings()
			tt.change(&s)
			_, err := Overlay(tt.pod, guideNode, s, "")
			var field *FieldError
			if errors.As(err, &field); tt.field == "" && err != nil || tt.field != "" && (field == nil || field.Field != tt.field) {
				t.Errorf("got %v, want an error of the field %q", err, tt.field)
			}
		})
	}
	if _, err := Overlay(Pod{}, guideNode, guideSettings(), ""); err == nil {
		t.Error("a pod without an interface is accepted")
	}
}

func TestHardwareAddressIsParsedStrictly(t *testing.T) {
	for _, bad := range []string{"", "02:00:00:00:00", "02:00:00:00:00:00:01", "2:00:00:00:00:01", "02:00:00:00:00:zz", "02:00:00:00:00:001"} {
		if m, err := parseMAC(bad); err == nil || m != (MAC{}) {
			t.Errorf("%q: got %s, %v", bad, m, err)
		}
	}
}

func TestFieldErrorIsShort(t *testing.T) {
	err := &FieldError{Field: "podDefaultRouteNIC", Value: strings.Repeat("x", 250_000), Reason: "is too long"}
	if text := err.Error(); len(text) > 400 || !strings.HasSuffix(text, `x": is too long`) {
		t.Errorf("%d bytes: %.400s", len(text), text)
	}
}
