package coordinator

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/google/go-cmp/cmp"

	"spiderpool.dev/spiderpool/internal/cni/plugin"
	"spiderpool.dev/spiderpool/internal/cniconf"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/wire"
)

func reply() wire.CoordinatorReply {
	return wire.CoordinatorReply{Config: netplan.Settings{
		Mode: "underlay", HijackCIDR: []netip.Prefix{netip.MustParsePrefix("169.254.0.0/16")},
		ServiceCIDR:  []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
		PolicyRoutes: []inet.Route{{Dst: netip.MustParsePrefix("10.0.0.0/8"), Via: netip.MustParseAddr("172.31.16.2")}},
		MACPrefix:    "0a:1b", TunePodRoutes: true, DefaultNIC: "net1", HostRuleTable: 501, RPFilter: 2, TxQueueLen: 9,
		VethLinkAddr: netip.MustParseAddr("169.254.9.9"), VethMTU: 1400,
	}}
}

// callWith is a call with this network configuration.
func callWith(conf string) *plugin.Call {
	return &plugin.Call{CmdArgs: &skel.CmdArgs{StdinData: []byte(conf)}, Node: cniconf.DefaultNode()}
}

func settingsOf(t *testing.T, conf string, r wire.CoordinatorReply) (netplan.Settings, error) {
	t.Helper()
	c, err := parseConf(callWith(conf))
	if err != nil {
		t.Fatal(err)
	}
	return c.settings(r)
}

func TestConfigurationOverlaysCluster(t *testing.T) {
	pod := reply()
	pod.PodDefaultRouteNIC = "net2"
	fromCluster, fromPod := reply().Config, reply().Config
	fromPod.DefaultNIC = "net2"
	for name, c := range map[string]struct {
		conf  string
		reply wire.CoordinatorReply
		want  netplan.Settings
	}{
		"no keys of its own": {`{"podCIDRType":"auto","unknown":1,"hostRuleTable":0}`, reply(), fromCluster},
		"every key": {`{"mode":"overlay","hijackCIDR":[],"serviceCIDR":["fd00::/112"],"overlayPodCIDR":["10.244.0.0/16"],
			"policyRoutes":[{"dst":"2001:db8::/32","gw":"fe80::2"}],"podMACPrefix":"","tunePodRoutes":false,"podDefaultRouteNic":"eth0",
			"hostRuleTable":7,"podRPFilter":0,"txQueueLen":0,"vethLinkAddress":"fe80::9","vethMTU":9000}`, reply(), netplan.Settings{
			Mode: "overlay", HijackCIDR: []netip.Prefix{}, ServiceCIDR: []netip.Prefix{netip.MustParsePrefix("fd00::/112")},
			OverlayPodCIDR:  []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
			PolicyRoutes:    []inet.Route{{Dst: netip.MustParsePrefix("2001:db8::/32"), Via: netip.MustParseAddr("fe80::2")}},
			OwnPolicyRoutes: true, DefaultNIC: "eth0", HostRuleTable: 7, VethLinkAddr: netip.MustParseAddr("fe80::9"), VethMTU: 9000,
		}},
		"the pod's annotation": {`{"podDefaultRouteNic":"net3"}`, pod, fromPod},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := settingsOf(t, c.conf, c.reply)
			if diff := cmp.Diff(c.want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); err != nil || diff != "" {
				t.Errorf("%v\n%s", err, diff)
			}
		})
	}
}

func TestMalformedFieldsAreNamed(t *testing.T) {
	for conf, field := range map[string]string{
		`{"mode":"sideways"}`:                                       "mode",
		`{"hijackCIDR":["169.254.0"]}`:                              "hijackCIDR[0]",
		`{"serviceCIDR":["x"]}`:                                     "serviceCIDR[0]",
		`{"overlayPodCIDR":[""]}`:                                   "overlayPodCIDR[0]",
		`{"policyRoutes":[{"dst":"10.0.0","gw":"10.0.0.1"}]}`:       "policyRoutes[0].dst",
		`{"policyRoutes":[{"dst":"10.0.0.0/8","gw":"10.0.0.1/8"}]}`: "policyRoutes[0].gw",
		`{"vethLinkAddress":"x"}`:                                   "vethLinkAddress",
	} {
		_, err := settingsOf(t, conf, reply())
		var fault *netplan.FieldError
		if !errors.As(err, &fault) || fault.Field != field {
			t.Errorf("%s: got %v, want an error of %s", conf, err, field)
		}
	}
	for _, conf := range []string{`{`, `{"logOptions":{"logMaxSize":"many"}}`, `{"hostRuleTable":"500"}`} {
		if _, err := parseConf(callWith(conf)); err == nil {
			t.Errorf("%s was accepted", conf)
		}
	}
}

func TestLogOptionsAreNumbersOrStrings(t *testing.T) {
	c, err := parseConf(callWith(`{"logOptions":{"logMaxSize":"50","logMaxAge":7}}`))
	if err != nil || c.Log.MaxSize != "50" || c.Log.MaxAge != "7" {
		t.Fatalf("got %+v, %v", c, err)
	}
}

func TestFirstInterfaceSurvivesBadConfiguration(t *testing.T) {
	for conf, want := range map[string]string{
		`{"podDefaultCniNic":"lan0","vethMTU":"1500"}`: "lan0",
		`{"vethMTU":"1500","podDefaultCniNic":"lan0"}`: "lan0",
		`{"podDefaultCniNic":7}`:                       "eth0",
		`{`:                                            "eth0",
	} {
		if got := firstNIC([]byte(conf)); got != want {
			t.Errorf("%s: got %s, want %s", conf, got, want)
		}
	}
}
