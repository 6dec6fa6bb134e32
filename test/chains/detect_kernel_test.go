//go:build kernel

package chains

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
	"spiderpool.dev/spiderpool/internal/wire"
	"spiderpool.dev/spiderpool/test/docblocks"
)

// detecting is an agent with conflict detection turned on. It grants addresses in
// order, and the next one after a conflict.
type detecting struct {
	agent
	next      []netip.Prefix
	detect    wire.Detection
	gateways  []string
	conflicts []string
	shared    bool  // the IPv4 address
	refusal   error // of the agent, for a conflict
}

func newDetecting(d wire.Detection) *detecting {
	return &detecting{detect: d, gateways: []string{"10.20.0.1", "fd20::1"},
		next: []netip.Prefix{netip.MustParsePrefix("10.20.0.10/24"), netip.MustParsePrefix("fd20::10/64")}}
}

func (a *detecting) Add(context.Context, wire.AddRequest) (wire.AddReply, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	reply := wire.AddReply{Detect: a.detect}
	for i, p := range a.next {
		gateway := netip.MustParseAddr(a.gateways[i])
		reply.Addresses = append(reply.Addresses, wire.Address{Prefix: p, Gateway: gateway, Pool: fmt.Sprintf("lan-v%d", 4+2*i), Shared: a.shared && p.Addr().Is4()})
		reply.Routes = append(reply.Routes, inet.Route{Dst: inet.FamilyOf(gateway).Everything(), Via: gateway})
	}
	return reply, nil
}

func (a *detecting) Conflict(_ context.Context, req wire.ConflictRequest) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	text := fmt.Sprintf("%s %s %s", req.Interface, req.Address, req.MAC)
	if req.Control.IsValid() {
		text += fmt.Sprintf(" control %s", req.Control)
	}
	a.conflicts = append(a.conflicts, text)
	if a.refusal != nil {
		return a.refusal
	}
	for i, p := range a.next {
		if p.Addr() == req.Address {
			a.next[i] = netip.PrefixFrom(p.Addr().Next(), p.Bits())
		}
	}
	return nil
}

// network is a node, a second machine with the gateways' addresses on the same network,
// and the pods' main plugin.
type network struct {
	*testing.T
	node, other *linuxtest.Machine
	mac         string
	dev         string // the other machine's
	plugin      string
}

// eachMain runs f with every main plugin supported by this kernel.
func eachMain(t *testing.T, f func(n *network)) {
	for kind, plugin := range map[string]string{
		"macvlan": `"type":"macvlan","master":"ens5"`,
		"ipvlan":  `"type":"ipvlan","master":"ens5"`,
		"vlan":    `"type":"vlan","master":"ens5","vlanId":7`,
	} {
		t.Run(kind, func(t *testing.T) {
			if !linuxtest.HasKind(t, kind) {
				t.Skipf("this kernel has no %s", kind)
			}
			n := &network{T: t, node: linuxtest.NewMachine(t, "node"), other: linuxtest.NewMachine(t, "other"), dev: "x", plugin: plugin}
			linuxtest.Wire(n.node, "ens5", n.other, "x")
			if kind == "vlan" {
				if err := n.other.VLAN("x", 7); err != nil {
					t.Fatal(err)
				}
				n.dev = "x.7"
				n.other.Up(n.dev)
			}
			n.other.Addr(n.dev, "10.20.0.1/24", "fd20::1/64")
			n.mac = n.other.Link(n.dev).Attrs().HardwareAddr.String()
			f(n)
		})
	}
}

// add runs an ADD for a new pod and returns its addresses as text.
func (n *network) add(a *detecting) (string, error) {
	n.Helper()
	_, runtime := newPod(n.T)
	return n.addTo(a, runtime)
}

func (n *network) addTo(a *detecting, runtime *libcni.RuntimeConf) (string, error) {
	n.Helper()
	result, err := n.resultOf(a, runtime)
	if err != nil {
		return "", err
	}
	var addresses []string
	for _, ip := range result.IPs {
		addresses = append(addresses, ip.Address.IP.String())
	}
	return strings.Join(addresses, " "), nil
}

func (n *network) resultOf(a *detecting, runtime *libcni.RuntimeConf) (converted *types100.Result, err error) {
	n.Helper()
	dir := n.TempDir()
	conf := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"n",%s,"ipam":{"type":"spiderpool"}}`, n.plugin)
	list := load(n.T, []byte(conf))
	serve(n.T, a, dir)
	cni := newCNI(n.T, dir)
	err = n.node.Do(func() error {
		result, err := cni.AddNetworkList(n.Context(), list, runtime)
		if err != nil { // a runtime runs DEL after a failed ADD
			return errors.Join(err, cni.DelNetworkList(n.Context(), list, runtime))
		}
		converted, err = types100.NewResultFromResult(result)
		return err
	})
	return converted, err
}

func TestConflictingAddressIsReplaced(t *testing.T) {
	eachMain(t, func(n *network) {
		n.other.Addr(n.dev, "10.20.0.10/24", "fd20::10/64", "fd20::11/64")
		a := newDetecting(wire.Detection{IPConflict: true, Gateway: true})
		got, err := n.add(a)
		if want := "10.20.0.11 fd20::12"; err != nil || got != want {
			n.Errorf("got %q, %v; want %q", got, err, want)
		}
		want := fmt.Sprintf("[eth0 10.20.0.10 %[1]s eth0 fd20::10 %[1]s eth0 fd20::11 %[1]s]", n.mac)
		if fmt.Sprint(a.conflicts) != want {
			n.Errorf("the agent got the conflicts %v, want %s", a.conflicts, want)
		}
	})
}

// The other machine is the pod's own virtual machine, in a live migration.
func TestSharedAddressIsNotProbed(t *testing.T) {
	eachMain(t, func(n *network) {
		n.other.Addr(n.dev, "10.20.0.10/24", "fd20::10/64")
		a := newDetecting(wire.Detection{IPConflict: true, Gateway: true})
		a.shared, a.gateways[0] = true, "10.20.0.99"
		got, err := n.add(a)
		if want := "10.20.0.10 fd20::11"; err != nil || got != want || len(a.conflicts) != 1 {
			n.Errorf("got %q, %v after the conflicts %v; want %q after one", got, err, a.conflicts, want)
		}
	})
}

func TestConflictsEndAfterFiveAddresses(t *testing.T) {
	eachMain(t, func(n *network) {
		for i := range 6 {
			n.other.Addr(n.dev, fmt.Sprintf("10.20.0.%d/24", 10+i))
		}
		a := newDetecting(wire.Detection{IPConflict: true})
		got, err := n.add(a)
		if err == nil || !strings.Contains(err.Error(), "other machines use 5 addresses in turn") || !strings.Contains(err.Error(), "10.20.0.14 is in use") {
			n.Errorf("got %q, %v", got, err)
		}
		if len(a.conflicts) != 5 {
			n.Errorf("the agent got the conflicts %v", a.conflicts)
		}
	})
}

func TestNetworkThatClaimsAllIsReported(t *testing.T) {
	eachMain(t, func(n *network) {
		for _, claimed := range []string{"10.20.0.8/29", "203.0.113.0/24"} {
			n.other.Must("", "ip", "route", "add", "local", claimed, "dev", "lo")
		}
		a := newDetecting(wire.Detection{IPConflict: true})
		a.next, a.refusal = a.next[:1], errors.New("the network is wrong")
		got, err := n.add(a)
		if err == nil || !strings.Contains(err.Error(), "the network is wrong") {
			n.Errorf("got %q, %v", got, err)
		}
		if len(a.conflicts) != 1 || !strings.Contains(a.conflicts[0], " control 203.0.113.") {
			n.Errorf("the agent got the conflicts %v", a.conflicts)
		}
	})
}

func TestSilentGatewayFailsADD(t *testing.T) {
	eachMain(t, func(n *network) {
		for i, silent := range []string{"10.20.0.99", "fd20::99"} {
			a := newDetecting(wire.Detection{IPConflict: true, Gateway: true})
			a.gateways[i] = silent
			got, err := n.add(a)
			want := fmt.Sprintf("gateway %s of pool lan-v%d does not answer", silent, 4+2*i)
			if err == nil || !strings.Contains(err.Error(), want) {
				n.Errorf("got %q, %v; want %q", got, err, want)
			} else if i == 0 && !strings.Contains(n.plugin, "ipvlan") { // ipvlan asks on its master
				err = docblocks.Shows("silent-gateway", err.Error())
				if err != nil {
					n.Error(err)
				}
			}
		}
	})
}

func TestDetectionIsOffByDefault(t *testing.T) {
	eachMain(t, func(n *network) {
		n.other.Addr(n.dev, "10.20.0.10/24")
		a := newDetecting(wire.Detection{})
		if got, err := n.add(a); err != nil || got != "10.20.0.10 fd20::10" || a.conflicts != nil {
			n.Errorf("got %q, %v, and the agent got the conflicts %v", got, err, a.conflicts)
		}
	})
}

// TestDetectionSkipsInterfaceCreatedAfterIPAM uses a main plugin that calls IPAM before
// it creates the interface.
func TestDetectionSkipsInterfaceCreatedAfterIPAM(t *testing.T) {
	n := &network{T: t, node: linuxtest.NewMachine(t, "node"), plugin: `"type":"ptp"`}
	got, err := n.add(newDetecting(wire.Detection{IPConflict: true, Gateway: true}))
	if want := "10.20.0.10 fd20::10"; err != nil || got != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}
