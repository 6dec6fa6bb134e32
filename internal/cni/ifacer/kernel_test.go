//go:build kernel

package ifacer

import (
	"net"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"

	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
)

// TestMain is the plugin itself when a test runs it as a runtime does.
func TestMain(m *testing.M) {
	if os.Getenv("CNI_COMMAND") != "" {
		Main("ifacer under test")
		return
	}
	os.Exit(m.Run())
}

// machine is a node with a pod that an attachment is made for.
type machine struct {
	*linuxtest.Machine
	pod *linuxtest.Machine
}

// newNode is a node with the interfaces ens5, ens6 and ens7, on a kernel that has kind.
func newNode(t *testing.T, kind string) machine {
	t.Helper()
	node := machine{Machine: linuxtest.NewMachine(t, "node"), pod: linuxtest.NewMachine(t, "pod")}
	other := linuxtest.NewMachine(t, "switch")
	for _, name := range []string{"ens5", "ens6", "ens7"} {
		linuxtest.Wire(node.Machine, name, other, name)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "probe"
	var l netlink.Link = netlink.NewLinkBond(attrs)
	if kind == "vlan" {
		attrs.ParentIndex = node.Link("ens5").Attrs().Index
		l = &netlink.Vlan{LinkAttrs: attrs, VlanId: 1}
	}
	if err := node.NL.LinkAdd(l); err != nil {
		t.Skipf("this kernel has no %s: %v", kind, err)
	}
	if err := node.NL.LinkDel(node.Link("probe")); err != nil {
		t.Fatal(err)
	}
	return node
}

func call(node machine, command, conf string) (string, error) {
	return node.Run(`{"cniVersion":"1.0.0","name":"n","type":"ifacer",`+conf+`}`, []string{
		"CNI_COMMAND=" + command, "CNI_CONTAINERID=c", "CNI_NETNS=" + node.pod.Path(), "CNI_IFNAME=eth0", "CNI_PATH=/nonexistent",
	}, "/proc/self/exe")
}

func must(t *testing.T, node machine, command, conf string) {
	t.Helper()
	if out, err := call(node, command, conf); err != nil {
		t.Fatalf("%s of %s: %v\n%s", command, conf, err, out)
	}
}

func refused(t *testing.T, node machine, conf, why string) {
	t.Helper()
	out, err := call(node, "ADD", conf)
	if err == nil || !strings.Contains(out, why) {
		t.Errorf("ADD of %s: got %v, want a refusal with %q\n%s", conf, err, why, out)
	}
}

const vlan100 = `"interfaces":["ens5"],"vlanID":100`

func TestCallersAtOnceMakeOneVLAN(t *testing.T) {
	node := newNode(t, "vlan")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if out, err := call(node, "ADD", vlan100); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	wg.Wait()
	v, ok := node.Link("ens5.100").(*netlink.Vlan)
	if !ok || v.VlanId != 100 || v.ParentIndex != node.Link("ens5").Attrs().Index {
		t.Errorf("got %+v", v)
	}
	must(t, node, "CHECK", vlan100)
	must(t, node, "DEL", vlan100)
	node.Link("ens5.100") // serves other pods
}

func TestUnfitInterfaceRefusedWithDifference(t *testing.T) {
	node := newNode(t, "vlan")
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = "ens5.100", node.Link("ens5").Attrs().Index
	if err := node.NL.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: 7}); err != nil {
		t.Fatal(err)
	}
	refused(t, node, vlan100, "it has VLAN 7 instead of 100")
	attrs.Name = "other"
	if err := node.NL.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: 8}); err != nil {
		t.Fatal(err)
	}
	refused(t, node, `"interfaces":["ens5"],"vlanID":8`, "exists under another name than ens5.8")
	refused(t, node, `"interfaces":["ens9"],"vlanID":8`, "no interface ens9; it has ens5, ens5.100")
}

func TestBondsOfEveryMode(t *testing.T) {
	node := newNode(t, "bond")
	for _, c := range []struct{ mode, options string }{
		{"0", "miimon=100"},
		{"1", "miimon=100;primary=ens6;primary_reselect=failure;fail_over_mac=active"},
		{"2", "miimon=100;xmit_hash_policy=layer3+4"},
		{"3", "arp_interval=100;arp_ip_target=10.0.0.1,10.0.0.2"},
		{"4", "miimon=100;lacp_rate=fast;ad_select=bandwidth;min_links=1"},
		{"5", "miimon=100;tlb_dynamic_lb=0"},
		{"6", "miimon=50;updelay=100"},
	} {
		t.Run(c.mode, func(t *testing.T) {
			conf := `"interfaces":["ens5","ens6"],"vlanID":9,"bond":{"name":"bond0","mode":` + c.mode + `,"options":"` + c.options + `"}`
			must(t, node, "ADD", conf)
			must(t, node, "ADD", conf)
			must(t, node, "CHECK", conf)
			bond := node.Link("bond0").(*netlink.Bond)
			for _, port := range []string{"ens5", "ens6"} {
				if node.Link(port).Attrs().MasterIndex != bond.Index {
					t.Errorf("%s is no port of bond0", port)
				}
			}
			if strings.Contains(c.options, "primary=ens6") && bond.Primary != node.Link("ens6").Attrs().Index {
				t.Errorf("primary is interface %d, want ens6", bond.Primary)
			}
			node.Link("bond0.9")
			if err := node.NL.LinkDel(bond); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestUnfitBondIsRefused(t *testing.T) {
	node := newNode(t, "bond")
	two := func(bond string) string { return `"interfaces":["ens5","ens6"],"bond":{"name":"bond0",` + bond + `}` }
	must(t, node, "ADD", two(`"mode":1,"options":"miimon=100"`))
	refused(t, node, two(`"mode":4,"options":"miimon=100"`), "its mode is active-backup instead of 802.3ad")
	refused(t, node, `"interfaces":["ens5","ens7"],"bond":{"name":"bond0","mode":1}`, "its ports are [ens5 ens6] instead of [ens5 ens7]")
	refused(t, node, `"interfaces":["ens5","ens6","ens7"],"bond":{"name":"bond0","mode":1}`, "its ports are [ens5 ens6] instead of [ens5 ens6 ens7]")
	refused(t, node, two(`"mode":1,"options":"primary=ens6"`), `its option primary is \"\" instead of \"ens6\"`)
	refused(t, node, two(`"mode":1,"options":"primary=ens7"`), "it is not one of the ports [ens5 ens6]")
	refused(t, node, two(`"mode":1,"options":"arp_ip_target=10.0.0.1"`), "its option arp_ip_target is [] instead of [10.0.0.1]")
	if node.Link("ens7").Attrs().MasterIndex != 0 {
		t.Error("a refusal changed a port")
	}
	refused(t, node, two(`"mode":1,"options":"miimon=200"`), "its option miimon is 100 instead of 200")
	refused(t, node, two(`"mode":1,"options":"miimon=fast"`), "want a number of 0 or more")
	refused(t, node, two(`"mode":1,"options":"frobnicate=1"`), "unknown option; known options are")
	refused(t, node, `"interfaces":["ens5","ens7"],"bond":{"name":"bond1","mode":1}`, "it is already a port of bond0")
	node.Addr("ens7", "10.9.0.1/24")
	refused(t, node, `"interfaces":["ens7","ens6"],"bond":{"name":"bond2","mode":1}`, "in bond bond2")
	if _, err := node.NL.LinkByName("bond2"); err == nil {
		t.Error("a refused bond was left behind")
	}
}

func TestCallersAtOnceMakeOneBond(t *testing.T) {
	node := newNode(t, "bond")
	const conf = `"interfaces":["ens5","ens6"],"vlanID":9,"bond":{"name":"bond0","mode":1,"options":"miimon=100;primary=ens6"}`
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if out, err := call(node, "ADD", conf); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	wg.Wait()
	must(t, node, "CHECK", conf)
	if err := node.NL.LinkSetNoMaster(node.Link("ens5")); err != nil {
		t.Fatal(err)
	}
	if out, err := call(node, "CHECK", conf); err == nil || !strings.Contains(out, "its ports are [ens6] instead of [ens5 ens6]") {
		t.Errorf("CHECK without a port: %v\n%s", err, out)
	}
}

// TestIncompleteBondIsRemoved has a second port that the kernel does not
// give away, because a macvlan interface uses it.
func TestIncompleteBondIsRemoved(t *testing.T) {
	node := newNode(t, "bond")
	node.Sub("macvlan", "ens6", node.pod, "eth0")
	refused(t, node, `"interfaces":["ens5","ens6"],"bond":{"name":"bond0","mode":1}`, "add ens6 to bond bond0")
	if _, err := node.NL.LinkByName("bond0"); err == nil {
		t.Error("half a bond was left behind")
	}
	for _, port := range []string{"ens5", "ens6"} {
		if a := node.Link(port).Attrs(); a.MasterIndex != 0 || a.Flags&net.FlagUp == 0 {
			t.Errorf("%s is %+v", port, a)
		}
	}
}
