package coordinator

import (
	"errors"
	"net/netip"
	"reflect"
	"testing"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/wire"
)

func reply() wire.CoordinatorReply {
	return wire.CoordinatorReply{Config: wire.CoordinatorConfig{
		Mode: "underlay", HijackCIDR: []netip.Prefix{netip.MustParsePrefix("169.254.0.0/16")},
		ServiceCIDR:  []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
		PolicyRoutes: []inet.Route{{Dst: netip.MustParsePrefix("10.0.0.0/8"), Via: netip.MustParseAddr("172.31.16.2")}},
		PodMACPrefix: "0a:1b", TunePodRoutes: true, PodDefaultRouteNIC: "net1", HostRuleTable: 501, PodRPFilter: 2, TxQueueLen: 9,
		VethLinkAddress: netip.MustParseAddr("169.254.9.9"), VethMTU: 1400,
	}}
}

func settingsOf(t *testing.T, conf string, r wire.CoordinatorReply) (string, string, netplan.Settings, error) {
	t.Helper()
	c, err := parseConf([]byte(conf))
	if err != nil {
		t.Fatal(err)
	}
	return c.settings(r)
}

func TestWhatIsLeftOutComesFromTheAgent(t *testing.T) {
	mode, mac, s, err := settingsOf(t, `{"podCIDRType":"auto","unknown":1}`, reply())
	want := netplan.Settings{
		HijackCIDR: []netip.Prefix{netip.MustParsePrefix("169.254.0.0/16")}, ServiceCIDR: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
		PolicyRoutes:  []inet.Route{{Dst: netip.MustParsePrefix("10.0.0.0/8"), Via: netip.MustParseAddr("172.31.16.2")}},
		TunePodRoutes: true, DefaultNIC: "net1", HostRuleTable: 501, RPFilter: 2, TxQueueLen: 9,
		VethLinkAddr: netip.MustParseAddr("169.254.9.9"), VethMTU: 1400,
	}
	if err != nil || mode != "underlay" || mac != "0a:1b" || !reflect.DeepEqual(s, want) {
		t.Errorf("got %s, %s, %+v, %v", mode, mac, s, err)
	}
}

func TestWhatIsSetWinsOverTheAgent(t *testing.T) {
	mode, mac, s, err := settingsOf(t, `{"mode":"overlay","hijackCIDR":[],"serviceCIDR":["fd00::/112"],"overlayPodCIDR":["10.244.0.0/16"],
		"policyRoutes":[{"dst":"2001:db8::/32","gw":"fe80::2"}],"podMACPrefix":"","tunePodRoutes":false,"podDefaultRouteNic":"eth0",
		"hostRuleTable":7,"podRPFilter":0,"txQueueLen":0,"vethLinkAddress":"fe80::9","vethMTU":9000}`, reply())
	want := netplan.Settings{
		HijackCIDR: []netip.Prefix{}, ServiceCIDR: []netip.Prefix{netip.MustParsePrefix("fd00::/112")},
		OverlayPodCIDR:  []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
		PolicyRoutes:    []inet.Route{{Dst: netip.MustParsePrefix("2001:db8::/32"), Via: netip.MustParseAddr("fe80::2")}},
		OwnPolicyRoutes: true, DefaultNIC: "eth0", HostRuleTable: 7, VethLinkAddr: netip.MustParseAddr("fe80::9"), VethMTU: 9000,
	}
	if err != nil || mode != "overlay" || mac != "" || !reflect.DeepEqual(s, want) {
		t.Errorf("got %s, %s, %+v, %v", mode, mac, s, err)
	}
	r := reply()
	r.PodDefaultRouteNIC = "net2"
	if _, _, s, _ := settingsOf(t, `{"podDefaultRouteNic":"eth0"}`, r); s.DefaultNIC != "net2" {
		t.Errorf("the pod wants net2 and gets %s", s.DefaultNIC)
	}
}

func TestDefaultsOfAnEmptyReply(t *testing.T) {
	mode, _, s, err := settingsOf(t, `{}`, wire.CoordinatorReply{})
	if err != nil || mode != "auto" || s.HostRuleTable != 500 {
		t.Errorf("got %s, %+v, %v", mode, s, err)
	}
}

func TestMalformedFieldsAreNamed(t *testing.T) {
	for conf, field := range map[string]string{
		`{"mode":"sideways"}`:                                       "mode",
		`{"hijackCIDR":["169.254.0.0"]}`:                            "hijackCIDR",
		`{"serviceCIDR":["x"]}`:                                     "serviceCIDR",
		`{"overlayPodCIDR":[""]}`:                                   "overlayPodCIDR",
		`{"policyRoutes":[{"dst":"10.0.0.0","gw":"10.0.0.1"}]}`:     "policyRoutes.dst",
		`{"policyRoutes":[{"dst":"10.0.0.0/8","gw":"10.0.0.1/8"}]}`: "policyRoutes.gw",
		`{"vethLinkAddress":"x"}`:                                   "vethLinkAddress",
	} {
		_, _, _, err := settingsOf(t, conf, reply())
		var fault *netplan.FieldError
		if !errors.As(err, &fault) || fault.Field != field {
			t.Errorf("%s: got %v, want an error of %s", conf, err, field)
		}
	}
	for _, conf := range []string{`{`, `{"logOptions":{"logMaxSize":"many"}}`, `{"hostRuleTable":"500"}`} {
		if _, err := parseConf([]byte(conf)); err == nil {
			t.Errorf("%s was accepted", conf)
		}
	}
}

func TestLogOptionsAreNumbersOrStrings(t *testing.T) {
	c, err := parseConf([]byte(`{"logOptions":{"logMaxSize":"50","logMaxAge":7}}`))
	if err != nil || c.Log.MaxSize != "50" || c.Log.MaxAge != "7" {
		t.Fatalf("got %+v, %v", c, err)
	}
}
