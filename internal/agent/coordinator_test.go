package agent

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/netplan"
)

func TestSwitchedOffCoordinatorAnswersDisabled(t *testing.T) {
	c := &coordinator{}
	object, err := c.object(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	config, err := settingsOf(object)
	if err != nil || config.Mode != "disabled" {
		t.Errorf("mode %q, %v, want disabled", config.Mode, err)
	}
	if table, ok := c.hostRuleTable(t.Context()); ok {
		t.Errorf("table %d is kept for pods that get no routes", table)
	}
}

func networks(texts ...string) (out []netip.Prefix) {
	for _, text := range texts {
		out = append(out, netip.MustParsePrefix(text))
	}
	return out
}

func TestCoordinatorSettingsComeFromObject(t *testing.T) {
	defaults := netplan.Default()
	for name, c := range map[string]struct {
		spec   v2beta1.CoordinatorSpec
		status v2beta1.SpiderCoordinatorStatus
		want   netplan.Settings
	}{
		"everything": {
			v2beta1.CoordinatorSpec{
				Mode: new(v2beta1.ModeOverlay), PodCIDRType: new(v2beta1.PodCIDRCalico),
				HijackCIDR:   []string{"169.254.0.0/16", "fd00:1::/64"},
				PolicyRoutes: v2beta1.PolicyRoutes{{Dst: "10.1.0.0/16", Gw: "10.0.0.1"}, {Dst: "fd01::/64", Gw: "fd00::1"}},
				PodMACPrefix: new("0a:1b"), TunePodRoutes: new(false), PodDefaultRouteNIC: new("net1"), HostRuleTable: new(501),
				PodRPFilter: new(2), TxQueueLen: new(1000), VethLinkAddress: new("169.254.100.1"), VethMTU: new(8900),
				DetectGateway: new(true), DetectIPConflict: new(true), HostRPFilter: new(1),
			},
			v2beta1.SpiderCoordinatorStatus{
				Phase:          v2beta1.CoordinatorSynced,
				OverlayPodCIDR: []string{"10.244.0.0/16", "fd00:244::/56"}, ServiceCIDR: []string{"10.96.0.0/12", "fd00:96::/112"},
			},
			netplan.Settings{
				Mode: "overlay", HijackCIDR: networks("169.254.0.0/16", "fd00:1::/64"),
				OverlayPodCIDR: networks("10.244.0.0/16", "fd00:244::/56"), ServiceCIDR: networks("10.96.0.0/12", "fd00:96::/112"),
				PolicyRoutes: []inet.Route{
					{Dst: netip.MustParsePrefix("10.1.0.0/16"), Via: netip.MustParseAddr("10.0.0.1")},
					{Dst: netip.MustParsePrefix("fd01::/64"), Via: netip.MustParseAddr("fd00::1")},
				},
				MACPrefix: "0a:1b", TunePodRoutes: false, DefaultNIC: "net1", HostRuleTable: 501,
				RPFilter: 2, TxQueueLen: 1000, VethLinkAddr: netip.MustParseAddr("169.254.100.1"), VethMTU: 8900,
			},
		},
		"nothing": {want: defaults},
		"empty strings": {
			spec: v2beta1.CoordinatorSpec{PodMACPrefix: new(""), PodDefaultRouteNIC: new(""), VethLinkAddress: new("")}, want: defaults,
		},
		"addresses": {
			spec: v2beta1.CoordinatorSpec{HijackCIDR: []string{"169.254.20.10", "fd00::9"}, PolicyRoutes: v2beta1.PolicyRoutes{{Dst: "10.1.2.3", Gw: "10.0.0.1"}}},
			want: netplan.Settings{
				Mode: "auto", TunePodRoutes: true, HostRuleTable: 500, VethMTU: 1500, HijackCIDR: networks("169.254.20.10/32", "fd00::9/128"),
				PolicyRoutes: []inet.Route{{Dst: netip.MustParsePrefix("10.1.2.3/32"), Via: netip.MustParseAddr("10.0.0.1")}},
			},
		},
		"host bits": {
			spec: v2beta1.CoordinatorSpec{HijackCIDR: []string{"10.1.2.3/8"}, PolicyRoutes: v2beta1.PolicyRoutes{{Dst: "10.1.2.3/16", Gw: "10.0.0.1"}}},
			want: netplan.Settings{
				Mode: "auto", TunePodRoutes: true, HostRuleTable: 500, VethMTU: 1500, HijackCIDR: networks("10.0.0.0/8"),
				PolicyRoutes: []inet.Route{{Dst: netip.MustParsePrefix("10.1.0.0/16"), Via: netip.MustParseAddr("10.0.0.1")}},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := settingsOf(&v2beta1.SpiderCoordinator{Spec: c.spec, Status: c.status})
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("%v\ngot  %+v\nwant %+v", err, got, c.want)
			}
		})
	}
}

func TestInvalidCoordinatorNamesEveryField(t *testing.T) {
	_, err := settingsOf(&v2beta1.SpiderCoordinator{
		ObjectMeta: metav1.ObjectMeta{Name: "default"},
		Spec: v2beta1.CoordinatorSpec{
			HijackCIDR:      []string{"10.0.0.0/8", "10.0.0"},
			PolicyRoutes:    v2beta1.PolicyRoutes{{Dst: "10.0.0.0/8", Gw: "10.0.0.1"}, {Dst: "nowhere", Gw: "router"}},
			VethLinkAddress: new("veth0"),
		},
		Status: v2beta1.SpiderCoordinatorStatus{OverlayPodCIDR: []string{"pods"}, ServiceCIDR: []string{"10.96.0.0/12", "services"}},
	})
	var failure *ipam.Error
	if !errors.As(err, &failure) || failure.Kind != ipam.Invalid || failure.Msg != "SpiderCoordinator default is invalid" {
		t.Fatalf("got %v, want an invalid configuration", err)
	}
	for _, part := range []string{
		`spec.hijackCIDR[1]: Invalid value: "10.0.0": is not a network in CIDR notation`,
		`spec.policyRoutes[1].dst: Invalid value: "nowhere": is not a network in CIDR notation`,
		`spec.vethLinkAddress: Invalid value: "veth0": is not a link-local address`,
		`status.overlayPodCIDR[0]: Invalid value: "pods": is not a network in CIDR notation`,
		`status.serviceCIDR[1]: Invalid value: "services": is not a network in CIDR notation`,
	} {
		if !strings.Contains(failure.Details, part) {
			t.Errorf("details are\n%s\nwant in them %s", failure.Details, part)
		}
	}
}
