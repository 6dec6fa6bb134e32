package netplan

import (
	"strings"
	"testing"
)

func underlay(t *testing.T, pod Pod, node Node, change func(*Settings)) Plan {
	t.Helper()
	s := guideSettings()
	change(&s)
	plan, err := Underlay(pod, node, s, guideVeth)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

func TestFirstAttachmentConfiguresVeth(t *testing.T) {
	for _, tt := range []struct {
		name, attached string
		veth, want     bool
	}{
		{"first interface", "eth0", false, true},
		{"first interface again", "eth0", true, true},
		{"second interface", "net1", true, false},
		{"second interface without a pair", "net1", false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pod := attached(tt.attached, guideEth0, guideNet1)
			pod.Veth = tt.veth
			plan := underlay(t, pod, guideNode, func(s *Settings) { s.VethMTU, s.VethLinkAddr, s.RPFilter = 1400, ips("169.254.200.1")[0], 2 })
			for _, item := range []string{"mac 5a:c8:cc:d6:f8:52 mtu 1400\n", "addr 169.254.200.1/32 dev veth0\n", "sysctl net/ipv4/conf/veth0/rp_filter = 0\n"} {
				if got := strings.Contains(plan.Pod.String(), item); got != tt.want {
					t.Errorf("%q planned: %v, want %v in\n%s", item, got, tt.want, plan.Pod)
				}
			}
		})
	}
}

// TestOldPodsGetNoReplyMark plans for pods that a release without the mark made.
func TestOldPodsGetNoReplyMark(t *testing.T) {
	for _, attachment := range []string{"eth0", "net1"} {
		for _, old := range []bool{false, true} {
			pod := attached(attachment, guideEth0, guideNet1)
			pod.Veth, pod.Masqueraded = true, old
			plan := underlay(t, pod, guideNode, func(s *Settings) { s.RPFilter = 1 })
			inPod, onNode := plan.Pod.String(), plan.Host.String()
			for text, parts := range map[string][]string{
				inPod:  {"replymark ip dev veth0", "replymark ip6 dev veth0", "fwmark", "table 99", "tcp_fwmark_accept", "fwmark_reflect"},
				onNode: {"group 83"},
			} {
				for _, part := range parts {
					if strings.Contains(text, part) == old {
						t.Errorf("%s, old pod %v: %q in\n%s", attachment, old, part, text)
					}
				}
			}
			filter := "veth0/rp_filter = 0"
			if old {
				filter = "veth0/rp_filter = 1"
			}
			if attachment == "eth0" && !strings.Contains(inPod, filter) {
				t.Errorf("old pod %v: no %s in\n%s", old, filter, inPod)
			}
		}
	}
}

func TestIPv6SilencedOnlyIfRunning(t *testing.T) {
	ipv4 := guideEth0
	ipv4.Addrs, ipv4.Gateways = ipv4.Addrs[:1], ipv4.Gateways[:1]
	small := ipv4
	small.MTU = 1279
	large := ipv4
	large.MTU = 1280
	for _, tt := range []struct {
		name           string
		nic            NIC
		node           Node
		change         func(*Settings)
		veth, nicRA    bool // accept_ra = 0 of veth0 and of eth0
		vethSpeaksIPv6 bool
	}{
		{"IPv4 pod", ipv4, guideNode, func(*Settings) {}, true, true, false},
		{"dual-stack pod", guideEth0, guideNode, func(*Settings) {}, true, true, true},
		{"kernel without IPv6", ipv4, Node{}, func(*Settings) {}, false, false, false},
		{"small MTU of the pair", ipv4, guideNode, func(s *Settings) { s.VethMTU = 1279 }, false, true, false},
		{"small MTU of the interface", small, guideNode, func(*Settings) {}, true, false, false},
		{"least MTU of the interface", large, guideNode, func(*Settings) {}, true, true, false},
		{"IPv6 address of the pair", ipv4, guideNode, func(s *Settings) { s.VethLinkAddr = ips("fe80::2")[0] }, true, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := underlay(t, attached("eth0", tt.nic), tt.node, tt.change).Pod.String()
			for item, want := range map[string]bool{
				"net/ipv6/conf/veth0/accept_ra = 0": tt.veth, "net/ipv6/conf/veth0/addr_gen_mode = 1": tt.veth,
				"net/ipv6/conf/eth0/accept_ra = 0": tt.nicRA, "net/ipv6/conf/veth0/disable_ipv6 = 0": tt.vethSpeaksIPv6,
			} {
				if got := strings.Contains(text, item); got != want {
					t.Errorf("%s planned: %v, want %v", item, got, want)
				}
			}
		})
	}
}

func TestNodeSpeaksFromSubnetOfPod(t *testing.T) {
	node := Node{Addrs: pfx("172.17.0.1/16", "172.31.22.228/20", "192.0.2.1/32", "fd99::1/64", "fd20::1/64")}
	for pod, want := range map[string]string{
		"172.31.16.9": "172.31.22.228", "10.0.0.1": "172.17.0.1", "fd20::9": "fd20::1", "fd21::9": "fd99::1",
	} {
		if got := node.sourceFor(ips(pod)[0]); got != ips(want)[0] {
			t.Errorf("%s: from %s, want %s", pod, got, want)
		}
	}
	if got := (Node{Addrs: pfx("172.17.0.1/16")}).sourceFor(ips("fd20::9")[0]); got.IsValid() {
		t.Errorf("a node without IPv6 speaks from %s", got)
	}
}

// TestNodeReachesOnlyAnswerablePods plans net1, which has both families, behind an overlay without IPv6.
func TestNodeReachesOnlyAnswerablePods(t *testing.T) {
	plan, err := Overlay(attached("net1", calicoEth0, guideNet1), guideNode, guideSettings(), "cali0")
	if err != nil {
		t.Fatal(err)
	}
	const want = `neighbor 10.20.0.17 mac 02:00:00:00:00:07 dev cali0
route 10.20.0.17/32 dev cali0 src 172.31.22.228 table 500 proto 83
`
	if got := plan.Host.String(); got != want {
		t.Errorf("got\n%s", got)
	}
}

func TestSatisfiedItemsNeedNoChange(t *testing.T) {
	const link = "link a kind veth mac 02:00:00:00:00:01 mtu 1500 txqueuelen 1000"
	for _, tt := range []struct {
		want, have string
		satisfied  bool
	}{
		{"link a", link, true},
		{"link a kind veth mac 02:00:00:00:00:01 mtu 1500 txqueuelen 1000", link, true},
		{"link b", link, false},
		{"link a kind dummy", link, false},
		{"link a mac 02:00:00:00:00:02", link, false},
		{"link a mtu 1400", link, false},
		{"link a txqueuelen 500", link, false},
		{"link a peer b peermac 02:00:00:00:00:09", link, true},
		{"up a", link, false},
		{"link a", "up a", false},
		{"route 10.0.0.0/8 via 10.0.0.1 dev a", "route 10.0.0.0/8 via 10.0.0.1 dev a src 10.0.0.2 proto 3", true},
		{"route 10.0.0.0/8 via 10.0.0.1 dev a src 10.0.0.2", "route 10.0.0.0/8 via 10.0.0.1 dev a src 10.0.0.3", false},
		{"route 10.0.0.0/8 via 10.0.0.1 dev a", "route 10.0.0.0/8 via 10.0.0.9 dev a", false},
		{"route 10.0.0.0/8 via 10.0.0.1 dev a", "route 10.0.0.0/8 via 10.0.0.1 dev b", false},
		{"route 10.0.0.0/8 via 10.0.0.1 dev a", "route 10.0.0.0/8 via 10.0.0.1 dev a table 100", false},
		{"route 10.0.0.0/8 via 10.0.0.1 dev a", "route 10.0.0.0/8 via 10.0.0.1 dev a table 254", true},
		{"route ::/0 via fe80::1 dev a", "route ::/0 via fe80::1 dev a proto 9", false},
		{"rule ip 1 from all lookup 5", "rule ip 1 from all lookup 5 proto 83", true},
		{"rule ip 1 from all lookup 5", "rule ip6 1 from all lookup 5", false},
		{"rule ip 1 from all fwmark 0x10 lookup 5", "rule ip 1 from all fwmark 0x10 lookup 5 proto 83", true},
		{"rule ip 1 from all fwmark 0x10 lookup 5", "rule ip 1 from all lookup 5", false},
		{"link a group 83", link, false},
		{"link a", "link a group 83", true},
		{"replymark ip dev a mark 0x10", "replymark ip dev a mark 0x10", true},
		{"replymark ip dev a mark 0x10", "replymark ip dev a mark 0x20", false},
		{"replymark ip dev a mark 0x10", "replymark ip6 dev a mark 0x10", false},
		{"addr 10.0.0.1/8 dev a", "addr 10.0.0.1/8 dev a learned", false},
		{"neighbor 10.0.0.1 mac 02:00:00:00:00:01 dev a", "neighbor 10.0.0.1 mac 02:00:00:00:00:02 dev a", false},
		{"sysctl a/b = 1", "sysctl a/b = 2", false},
		{"masquerade ip links spv", "masquerade ip6 links spv", false},
	} {
		if got := parse(t, tt.want)[0].SatisfiedBy(parse(t, tt.have)[0]); got != tt.satisfied {
			t.Errorf("%s, have %s: satisfied %v, want %v", tt.want, tt.have, got, tt.satisfied)
		}
	}
}

func TestPreflightStatesValuesAndLimits(t *testing.T) {
	facts := NodeFacts{Kernel: "5.7.0", Kinds: map[string]bool{"bond": true},
		Sysctls: map[string]string{disableIPv6: "0", MinSysctls[0].Path: "4096", MinSysctls[1].Path: "16383"},
		Masters: []Master{{Attachment: "kube-system/a", Name: "ens5", MTU: 1500, HasMTU: 1500}}}
	var got strings.Builder
	for _, f := range Preflight(facts, true) {
		got.WriteString(f.What + " | " + f.Is + " | " + f.Want + "\n")
		if wantOK := f.Is != "16383"; f.OK != wantOK || f.Why == "" {
			t.Errorf("%+v: want OK %v, with a reason", f, wantOK)
		}
	}
	const want = `kernel | 5.7.0 | 5.7 or newer
link kind bond | supported | supported
sysctl net/ipv6/conf/all/disable_ipv6 | 0 | 0
MTU of interface ens5 | 1500 | 1500 or more
sysctl net/ipv4/neigh/default/gc_thresh1 | 4096 | 4096 or more
sysctl net/ipv4/neigh/default/gc_thresh2 | 16383 | 16384 or more
`
	if got.String() != want {
		t.Errorf("got\n%s", got.String())
	}
	if st := RaiseSysctls(facts.Sysctls); st.String() != "sysctl net/ipv4/neigh/default/gc_thresh2 = 16384\n" {
		t.Errorf("raises\n%s", st)
	}
	if f := lacks(NodeFacts{Kernel: "5.6.19"}, true); len(f) != 1 {
		t.Errorf("kernel 5.6: %v", f)
	}
	if paths := PreflightPaths(); len(paths) != len(MinSysctls)+1 || paths[0] != disableIPv6 || paths[1] != MinSysctls[0].Path {
		t.Errorf("reads %v", paths)
	}
}

func TestRaiseReachesEveryFloor(t *testing.T) {
	const want = `sysctl net/ipv4/neigh/default/gc_thresh1 = 4096
sysctl net/ipv4/neigh/default/gc_thresh2 = 16384
sysctl net/ipv4/neigh/default/gc_thresh3 = 32768
sysctl net/ipv6/neigh/default/gc_thresh1 = 4096
sysctl net/ipv6/neigh/default/gc_thresh2 = 16384
sysctl net/ipv6/neigh/default/gc_thresh3 = 32768
`
	low := map[string]string{}
	for _, path := range PreflightPaths() {
		low[path] = "0"
	}
	if got := RaiseSysctls(low).String(); got != want {
		t.Errorf("got\n%s", got)
	}
}
