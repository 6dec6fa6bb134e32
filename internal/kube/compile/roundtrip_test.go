package compile_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/cniconf"
	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/kube/compile"
)

var pools = &v2beta1.AttachmentPools{IPv4: []string{"v4"}, IPv6: []string{"v6"}, MatchMasterSubnet: new(true)}

// everyCNIType has a spec with all fields for each CNI type.
var everyCNIType = map[v2beta1.CNIType]v2beta1.SpiderMultusConfigSpec{
	v2beta1.CNIMacvlan: {Macvlan: &v2beta1.MasterConfig{Master: []string{"eth0", "eth1"}, VlanID: new(int32(5)), MTU: new(int32(1400)), IPPools: pools,
		Bond: &v2beta1.Bond{Name: "bond0", Mode: 1, Options: new("miimon=100")}}},
	v2beta1.CNIIPvlan: {IPvlan: &v2beta1.MasterConfig{Master: []string{"eth0"}, IPPools: pools}},
	v2beta1.CNIVlan:   {Vlan: &v2beta1.VlanConfig{MasterConfig: v2beta1.MasterConfig{Master: []string{"eth0"}, VlanID: new(int32(5)), IPPools: pools}}},
	v2beta1.CNISriov: {Sriov: &v2beta1.SriovConfig{ResourceName: "a/b", VlanID: new(int32(5)), MinTxRateMbps: new(1), MaxTxRateMbps: new(2),
		MTU: new(int32(1400)), RDMAIsolation: new(true), IPPools: pools}},
	v2beta1.CNIIBSriov: {IBSriov: &v2beta1.IBSriovConfig{ResourceName: "a/b", Pkey: new("0x8001"), LinkState: new("auto"), RDMAIsolation: new(false),
		EnableIBKubernetes: new(true), IPPools: pools}},
	v2beta1.CNIIPoIB: {IPoIB: &v2beta1.IPoIBConfig{Master: "ib0", IPPools: pools}},
	v2beta1.CNIOvs: {Ovs: &v2beta1.OvsConfig{BrName: "br1", VlanTag: new(int32(5)), DeviceID: "0000:03:00.1", IPPools: pools,
		Trunk: []v2beta1.Trunk{{ID: new(uint(7))}, {MinID: new(uint(8)), MaxID: new(uint(9))}}}},
	v2beta1.CNICustom: {CustomCNI: new(`{"type":"macvlan","master":"eth0","ipam":{"type":"spiderpool","default_ipv4_ippool":["v4"],` +
		`"default_ipv6_ippool":["v6"],"match_master_subnet":true}}`)},
}

// TestAttachmentRoundTrip reads each compiled configuration with the types of cniconf and writes it again: no key is
// lost. The agent reads the pools from it.
func TestAttachmentRoundTrip(t *testing.T) {
	for kind, spec := range everyCNIType {
		t.Run(string(kind), func(t *testing.T) {
			spec.CNIType = &kind
			spec.Coordinator = &v2beta1.CoordinatorSpec{
				Mode: new(v2beta1.ModeUnderlay), HijackCIDR: []string{"10.0.0.0/8"}, PolicyRoutes: v2beta1.PolicyRoutes{{Dst: "10.0.0.0/8", Gw: "10.0.0.1"}},
				PodMACPrefix: new("0a:1b"), TunePodRoutes: new(false), PodDefaultRouteNIC: new("net1"), HostRuleTable: new(501), PodRPFilter: new(2),
				TxQueueLen: new(0), VethLinkAddress: new("fe80::1"), VethMTU: new(1400),
			}
			attachment, errs := compile.Attachment(&v2beta1.SpiderMultusConfig{Spec: spec})
			if len(errs) > 0 {
				t.Fatal(errs)
			}
			list, err := cniconf.Parse([]byte(attachment.Config))
			if err != nil {
				t.Fatal(err)
			}
			for _, raw := range list.Plugins {
				if again := decodeStrictly(t, raw); kind != v2beta1.CNICustom && !bytes.Equal(cniconf.Marshal(again), raw) {
					t.Errorf("%s\nbecame\n%s", raw, cniconf.Marshal(again))
				}
			}
			network, err := agentclient.ParseNetwork(attachment.Config)
			if err != nil || !network.IPAM || !network.MatchMasterSubnet || !cmp.Equal([]string{"v4"}, network.Pools.IPv4) || !cmp.Equal([]string{"v6"}, network.Pools.IPv6) {
				t.Errorf("the agent reads %+v, %v", network, err)
			}
		})
	}
}

// decodeStrictly decodes a plugin's configuration as the type that its key "type" names. An unknown key fails the test.
func decodeStrictly(t *testing.T, raw json.RawMessage) any {
	t.Helper()
	var typed cniconf.Typed
	if err := json.Unmarshal(raw, &typed); err != nil {
		t.Fatal(err)
	}
	plugin, ok := map[string]any{
		"macvlan": &cniconf.Main{}, "ipvlan": &cniconf.Main{}, "ipoib": &cniconf.Main{}, "vlan": &cniconf.VLAN{}, "sriov": &cniconf.SRIOV{},
		"ib-sriov": &cniconf.IBSRIOV{}, "ovs": &cniconf.OVS{}, "tuning": &cniconf.Tuning{}, "rdma": &cniconf.Typed{},
		cniconf.TypeIfacer: &cniconf.Ifacer{}, cniconf.TypeCoordinator: &cniconf.Coordinator{},
	}[typed.Type]
	if !ok {
		t.Fatalf("no type for %s", raw)
	}
	if bytes.Contains(raw, []byte("cniVersion")) {
		return nil // a single plugin with the keys of a list
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(plugin); err != nil {
		t.Fatal(err)
	}
	return plugin
}
