//go:build kernel

package chains

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/rogpeppe/go-internal/txtar"

	"spiderpool.dev/spiderpool/internal/cniconf"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/rpc/rpcserver"
	"spiderpool.dev/spiderpool/internal/wire"
)

// golden are the chains compiled from SpiderMultusConfigs.
const golden = "../../internal/kube/compile/testdata/attachment"

// needs lists plugins that need more than a network namespace.
var needs = map[string]string{
	"sriov": "a device with virtual functions", "ib-sriov": "InfiniBand", "ipoib": "InfiniBand",
	"ovs": "Open vSwitch", "rdma": "an RDMA device",
}

// chain is a chain of plugins with the names of its master interfaces.
type chain struct {
	Plugins []struct {
		Type       string          `json:"type"`
		Master     string          `json:"master"`
		Interfaces []string        `json:"interfaces"`
		Bond       *struct{}       `json:"bond"`
		VlanID     int             `json:"vlanID"`
		IPAM       json.RawMessage `json:"ipam"`
	} `json:"plugins"`
}

func TestEverySpiderMultusConfigsChainWorks(t *testing.T) {
	files, err := filepath.Glob(golden + "/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no chains: %v", err)
	}
	executed := 0
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		_, config, ok := bytes.Cut(archive.Files[len(archive.Files)-1].Data, []byte("\n{"))
		if !ok {
			continue // refused, or no configuration
		}
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			execute(t, append([]byte("{"), config...))
			executed++
		})
	}
	t.Logf("%d chains executed", executed)
	if executed == 0 {
		t.Error("no chain was executed")
	}
}

// execute runs STATUS, ADD, CHECK, DEL, a second DEL and GC of a chain, as far as its
// CNI version supports them.
func execute(t *testing.T, config []byte) {
	dir := t.TempDir()
	list := load(t, config)
	var c chain
	if err := json.Unmarshal(list.Bytes, &c); err != nil {
		t.Fatal(err)
	}
	node := linuxtest.NewMachine(t, "node")
	ipam, coordinated, link := prepare(t, node, c)
	agent := &agent{}
	serve(t, agent, dir)
	cni := newCNI(t, dir)
	pod, runtime := newPod(t)
	before := links(node)
	call := func(name string, f func(context.Context) error) {
		t.Helper()
		if err := node.Do(func() error { return f(t.Context()) }); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	v110, v040 := list.CNIVersion >= "1.1.0", list.CNIVersion >= "0.4.0"
	if v110 {
		call("STATUS", func(ctx context.Context) error { return cni.GetStatusNetworkList(ctx, list) })
	}
	call("ADD", func(ctx context.Context) error {
		result, err := cni.AddNetworkList(ctx, list, runtime)
		if err != nil {
			return err
		}
		return judge(result, ipam)
	})
	state := pod.Must("", "ip", "-d", "address")
	for want, wanted := range map[string]bool{
		"eth0": true, link + " ": link != "bridge", "veth0": coordinated, "10.20.0.10/24": ipam, "fd20::10/64": ipam,
	} {
		if wanted && !strings.Contains(state, want) {
			t.Errorf("after ADD the pod lacks %s:\n%s", want, state)
		}
	}
	if v040 {
		call("CHECK", func(ctx context.Context) error { return cni.CheckNetworkList(ctx, list, runtime) })
	}
	for range 2 {
		call("DEL", func(ctx context.Context) error { return cni.DelNetworkList(ctx, list, runtime) })
	}
	if state := pod.Must("", "ip", "-o", "link"); strings.Count(state, "\n") != 1 {
		t.Errorf("DEL left links in the pod:\n%s", state)
	}
	// Interfaces created by ifacer and bridge stay on the node.
	if after := links(node); len(after) > len(before)+made(c) {
		t.Errorf("DEL left links on the node: %v after, %v before", after, before)
	}
	if v110 {
		call("GC", func(ctx context.Context) error { return cni.GCNetworkList(ctx, list, &libcni.GCArgs{}) })
	}
	if want := map[bool]int{true: 1}[ipam]; len(agent.added) != want || ipam && agent.deleted == 0 {
		t.Errorf("the agent got ADD requests %v and %d releases", agent.added, agent.deleted)
	}
}

// newCNI returns a libcni that runs the plugins and stores results below dir.
func newCNI(t *testing.T, dir string) *libcni.CNIConfig {
	t.Helper()
	bin, err := plugins.Dir()
	if err != nil {
		t.Fatal(err)
	}
	return libcni.NewCNIConfigWithCacheDir([]string{bin}, filepath.Join(dir, "cache"), nil)
}

// newPod returns a pod's network namespace and the runtime's arguments for it.
func newPod(t *testing.T) (*linuxtest.Machine, *libcni.RuntimeConf) {
	t.Helper()
	pod := linuxtest.NewMachine(t, "pod")
	return pod, &libcni.RuntimeConf{
		ContainerID: strings.Repeat("c", 64), NetNS: pod.Path(), IfName: "eth0",
		Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "default"}, {"K8S_POD_NAME", "pod"}, {"K8S_POD_UID", "u"}},
	}
}

// load returns the configuration as a list.
func load(t *testing.T, config []byte) *libcni.NetworkConfigList {
	t.Helper()
	var list map[string]any
	if err := json.Unmarshal(config, &list); err != nil {
		t.Fatal(err)
	}
	if list["plugins"] == nil {
		list = map[string]any{"cniVersion": list["cniVersion"], "name": list["name"], "plugins": []any{list}}
	}
	text, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	out, err := libcni.NetworkConfFromBytes(text)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// prepare creates the chain's master interfaces on the node. It skips the test if this
// kernel or a namespace lacks a requirement of the chain.
func prepare(t *testing.T, node *linuxtest.Machine, c chain) (ipam, coordinated bool, link string) {
	peer := linuxtest.NewMachine(t, "peer")
	var interfaces []string
	for _, p := range c.Plugins {
		if need, ok := needs[p.Type]; ok {
			t.Skipf("plugin %s needs %s", p.Type, need)
		}
		kinds := map[string]bool{"bond": p.Bond != nil, "vlan": p.Type == "vlan" || p.VlanID > 0,
			"macvlan": p.Type == "macvlan", "ipvlan": p.Type == "ipvlan"}
		for kind, needed := range kinds {
			if needed && !linuxtest.HasKind(t, kind) {
				t.Skipf("this kernel has no %s", kind)
			}
		}
		interfaces = append(interfaces, p.Interfaces...)
		if p.Master != "" && len(interfaces) == 0 {
			interfaces = append(interfaces, p.Master)
		}
		coordinated = coordinated || p.Type == "coordinator"
		ipam = ipam || len(p.IPAM) > 0
		if link == "" && p.Type != "ifacer" {
			link = p.Type
		}
	}
	for i, name := range interfaces {
		linuxtest.Wire(node, name, peer, fmt.Sprintf("p%d", i))
	}
	if len(interfaces) == 1 {
		node.Addr(interfaces[0], "10.20.0.2/24", "fd20::2/64")
	}
	return ipam, coordinated, link
}

// judge compares a result with the agent's grants.
func judge(result types.Result, ipam bool) error {
	converted, err := types100.NewResultFromResult(result)
	if err != nil {
		return err
	}
	var got []string
	for _, ip := range converted.IPs {
		got = append(got, ip.Address.String())
	}
	want := []string{}
	if ipam {
		want = []string{"10.20.0.10/24", "fd20::10/64"}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		return fmt.Errorf("the result has %v, want %v", got, want)
	}
	return nil
}

// links returns the names of a machine's links.
func links(m *linuxtest.Machine) []string {
	var names []string
	for line := range strings.Lines(m.Must("", "ip", "-o", "link")) {
		names = append(names, strings.Fields(line)[1])
	}
	slices.Sort(names)
	return names
}

// made returns the number of links created by the chain on the node.
func made(c chain) int {
	n := 0
	for _, p := range c.Plugins {
		if p.Type == "bridge" || p.Bond != nil {
			n++
		}
		if p.Type == "ifacer" && p.VlanID > 0 {
			n++
		}
	}
	return n
}

// agent grants every interface the same addresses.
type agent struct {
	mu      sync.Mutex
	added   []string
	deleted int
}

// serve serves an agent on a socket in dir, and makes the plugins use it.
func serve(t *testing.T, a rpcserver.Service, dir string) {
	t.Helper()
	installed := cniconf.Node{Socket: filepath.Join(dir, "agent.sock"), StateDir: dir, LogDir: filepath.Join(dir, "log")}
	file := filepath.Join(dir, cniconf.NodeFile)
	if err := os.WriteFile(file, cniconf.Marshal(installed), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(cniconf.NodeFileVariable, file)
	listener, err := rpcserver.Listen(installed.Socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &rpcserver.Server{Service: a, Log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- server.Serve(ctx, listener, 10*time.Second) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func (a *agent) Add(_ context.Context, req wire.AddRequest) (wire.AddReply, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.added = append(a.added, req.Interface)
	return wire.AddReply{
		Addresses: []wire.Address{
			{Prefix: netip.MustParsePrefix("10.20.0.10/24"), Gateway: netip.MustParseAddr("10.20.0.1"), Pool: "v4"},
			{Prefix: netip.MustParsePrefix("fd20::10/64"), Gateway: netip.MustParseAddr("fd20::1"), Pool: "v6"},
		},
		Routes: []inet.Route{
			{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.20.0.1")},
			{Dst: netip.MustParsePrefix("::/0"), Via: netip.MustParseAddr("fd20::1")},
		},
	}, nil
}

func (a *agent) Delete(context.Context, wire.DeleteRequest) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.deleted++
	return nil
}

func (*agent) Check(context.Context, wire.CheckRequest) error       { return nil }
func (*agent) GC(context.Context, wire.GCRequest) error             { return nil }
func (*agent) Conflict(context.Context, wire.ConflictRequest) error { return nil }
func (*agent) Status(context.Context) error                         { return nil }

func (*agent) Runtime(context.Context) (wire.RuntimeReply, error) { return wire.RuntimeReply{}, nil }
func (*agent) Coordinator(context.Context, wire.CoordinatorRequest) (wire.CoordinatorReply, error) {
	return wire.CoordinatorReply{Config: netplan.Settings{
		Mode:          "auto",
		ServiceCIDR:   []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:10:96::/112")},
		TunePodRoutes: true, HostRuleTable: 500, VethMTU: 1500,
	}}, nil
}

// plugins are all plugins of the chains.
var plugins = linuxtest.Plugins{Root: "../..", Lab: []string{"tool"},
	Own: []string{"./cmd/spiderpool", "./cmd/coordinator", "./cmd/ifacer"}}

func TestMain(m *testing.M) {
	code := m.Run()
	_ = plugins.Remove()
	os.Exit(code)
}
