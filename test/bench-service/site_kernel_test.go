//go:build kernel

package benchservice

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"spiderpool.dev/spiderpool/internal/cniconf"
	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/wire"
)

// network makes nodes and pods on one switch, 172.16.0.0/16.
type network struct {
	tb          testing.TB
	ethernet    *linuxtest.Machine
	coordinator string // the plugin's program
	nodeFile    string
	pods        int
}

func newNetwork(tb testing.TB) *network {
	tb.Helper()
	n := &network{tb: tb, ethernet: linuxtest.NewMachine(tb, "switch"), coordinator: filepath.Join(tb.TempDir(), "coordinator")}
	n.ethernet.Bridge("br0")
	build := exec.Command("go", "build", "-o", n.coordinator, "spiderpool.dev/spiderpool/cmd/coordinator")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		tb.Fatalf("build the coordinator: %v\n%s", err, out)
	}
	n.serveAgent()
	return n
}

// serveAgent answers the plugin like an agent with the default SpiderCoordinator.
func (n *network) serveAgent() {
	n.tb.Helper()
	dir := n.tb.TempDir()
	socket := filepath.Join(dir, "s")
	n.nodeFile = filepath.Join(dir, "node.json")
	if err := os.WriteFile(n.nodeFile, cniconf.Marshal(cniconf.Node{Socket: socket, StateDir: dir, LogDir: dir}), 0o600); err != nil {
		n.tb.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		n.tb.Fatal(err)
	}
	settings := netplan.Default()
	settings.ServiceCIDR = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+wire.PathCoordinator, func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(wire.CoordinatorReply{Config: settings})
	})
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(l) }()
	n.tb.Cleanup(func() { _ = server.Close() })
}

// node makes a node with the address 172.16.0.HOST.
func (n *network) node(name string, host int) *linuxtest.Machine {
	n.tb.Helper()
	m := linuxtest.NewMachine(n.tb, name)
	linuxtest.Wire(m, "ens5", n.ethernet, name)
	n.ethernet.Enslave(name, "br0")
	m.Addr("ens5", nodeAddr(host)+"/16")
	m.Route("default", "172.16.255.254", "ens5")
	return m
}

func nodeAddr(host int) string { return fmt.Sprintf("172.16.0.%d", host) }

// pod makes a macvlan pod on the node, as the container runtime does, and returns its
// address.
func (n *network) pod(node *linuxtest.Machine) (*linuxtest.Machine, string) {
	n.tb.Helper()
	n.pods++
	addr := fmt.Sprintf("172.16.1.%d", n.pods)
	pod := linuxtest.NewMachine(n.tb, addr)
	node.Sub("macvlan", "ens5", pod, "eth0")
	pod.Addr("eth0", addr+"/16")
	pod.Route("default", "172.16.255.254", "eth0")
	out, err := node.Run(fmt.Sprintf(`{"cniVersion":"1.0.0","name":"n","type":"coordinator","prevResult":{"cniVersion":"1.0.0",
		"interfaces":[{"name":"eth0","sandbox":"s"}],"ips":[{"address":"%s/16","interface":0}]}}`, addr), []string{
		cniconf.NodeFileVariable + "=" + n.nodeFile, "CNI_COMMAND=ADD", "CNI_CONTAINERID=" + strings.Repeat(fmt.Sprintf("%04x", n.pods), 16),
		"CNI_NETNS=" + pod.Path(), "CNI_IFNAME=eth0", "CNI_PATH=/nonexistent", "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=p",
	}, n.coordinator)
	if err != nil {
		n.tb.Fatalf("coordinator: %v\n%s", err, out)
	}
	return pod, addr
}
