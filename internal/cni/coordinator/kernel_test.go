//go:build kernel

package coordinator

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/cniconf"
	"spiderpool.dev/spiderpool/internal/linux/linuxtest"
	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/wire"
)

// TestMain is the plugin itself when a test runs it as a runtime does.
func TestMain(m *testing.M) {
	if os.Getenv("CNI_COMMAND") != "" {
		Main("coordinator under test")
		return
	}
	code := m.Run()
	_ = plugins.Remove()
	os.Exit(code)
}

// agent is a fake one: it answers every plugin with one reply, notes conflicts,
// and confirms what containers hold.
type agent struct {
	socket string
	mu     sync.Mutex
	// conflicts are the addresses that were reported; holders are container IDs.
	conflicts []wire.ConflictRequest
	holders   map[string]string
}

func newAgent(t testing.TB, reply *wire.CoordinatorReply) *agent {
	t.Helper()
	dir := t.TempDir()
	a := &agent{socket: filepath.Join(dir, "s"), holders: map[string]string{}}
	content := cniconf.Marshal(cniconf.Node{Socket: a.socket, StateDir: dir, LogDir: filepath.Join(dir, "log")})
	if err := os.WriteFile(nodeFile(a.socket), content, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", a.socket)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+wire.PathCoordinator, func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(reply)
	})
	mux.HandleFunc("POST "+wire.PathConflict, func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		var c wire.ConflictRequest
		_ = json.NewDecoder(r.Body).Decode(&c)
		a.conflicts = append(a.conflicts, c)
		_, _ = w.Write([]byte("{}"))
	})
	mux.HandleFunc("POST "+wire.PathCheck, func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		var c wire.CheckRequest
		_ = json.NewDecoder(r.Body).Decode(&c)
		for _, addr := range c.Addresses {
			if a.holders[addr.String()] != c.ContainerID {
				w.WriteHeader(http.StatusConflict)
				_ = json.NewEncoder(w).Encode(wire.Error{Code: wire.CodeConflict})
				return
			}
		}
		_, _ = w.Write([]byte("{}"))
	})
	srv := &http.Server{Handler: mux}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	return a
}

// nodeFile is the file of the installation whose agent has this socket.
func nodeFile(socket string) string { return socket + ".json" }

// fakeAgent is the socket of an agent that answers every plugin with one reply.
func fakeAgent(t testing.TB, reply *wire.CoordinatorReply) string { return newAgent(t, reply).socket }

// guideReply is what the agent says on the cluster of the AWS guide.
func guideReply() *wire.CoordinatorReply {
	return &wire.CoordinatorReply{Config: netplan.Settings{
		Mode:          "auto",
		HijackCIDR:    []netip.Prefix{netip.MustParsePrefix("169.254.0.0/16")},
		ServiceCIDR:   []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:10:96::/112")},
		TunePodRoutes: true, HostRuleTable: 500, VethMTU: 1500,
	}}
}

// sandbox is a pod under test.
type sandbox struct {
	*linuxtest.Machine
	t      *testing.T
	node   *linuxtest.Machine
	id     string
	socket string
	// version is the CNI version of the configuration.
	version string
}

func newSandbox(t *testing.T, node *linuxtest.Machine, name, socket string) *sandbox {
	t.Helper()
	id := strings.Repeat(fmt.Sprintf("%x", name), 64)[:64]
	return &sandbox{Machine: linuxtest.NewMachine(t, name), t: t, node: node, id: id, socket: socket, version: "0.3.1"}
}

// attach does what a main plugin does: an interface with addresses and default routes.
func (s *sandbox) attach(kind, master, ifName string, addrs, gateways []string) {
	s.t.Helper()
	s.node.Sub(kind, master, s.Machine, ifName)
	s.Addr(ifName, addrs...)
	for _, gw := range gateways {
		s.Route("default", gw, ifName)
	}
}

type m map[string]any

// result is the result of the main plugin for the interface.
func (s *sandbox) result(ifName string, addrs, gateways []string) m {
	ips := []m{}
	for _, a := range addrs {
		p := netip.MustParsePrefix(a)
		ip := m{"address": a, "interface": 0, "version": "4"}
		if p.Addr().Is6() {
			ip["version"] = "6"
		}
		for _, gw := range gateways {
			if p.Contains(netip.MustParseAddr(gw)) {
				ip["gateway"] = gw
			}
		}
		ips = append(ips, ip)
	}
	r := m{"cniVersion": s.version, "interfaces": []m{{"name": ifName, "sandbox": s.Path()}}, "ips": ips}
	return r
}

// call runs the plugin on the node and returns its output; extra overrides the configuration.
func (s *sandbox) call(command, ifName string, previous m, extra m) (string, error) {
	s.t.Helper()
	conf := m{"cniVersion": s.version, "name": "ipvlan-ens5", "type": "coordinator"}
	if previous != nil {
		conf["prevResult"] = previous
	}
	for k, v := range extra {
		conf[k] = v
	}
	stdin, err := json.Marshal(conf)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.node.Run(string(stdin), []string{
		cniconf.NodeFileVariable + "=" + nodeFile(s.socket), "CNI_COMMAND=" + command, "CNI_CONTAINERID=" + s.id, "CNI_NETNS=" + s.Path(), "CNI_IFNAME=" + ifName,
		"CNI_PATH=/nonexistent", "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=" + s.Name,
	}, "/proc/self/exe")
}

// must is call that has to succeed.
func (s *sandbox) must(command, ifName string, previous m, extra m) string {
	s.t.Helper()
	out, err := s.call(command, ifName, previous, extra)
	if err != nil {
		s.t.Fatalf("%s of %s %s: %v\n%s", command, s.Name, ifName, err, out)
	}
	return out
}

// eachKind runs f for the kinds of underlay interfaces; one that this kernel
// lacks is skipped by name, so that a report shows what was not measured.
func eachKind(t *testing.T, f func(t *testing.T, kind string), kinds ...string) {
	for _, kind := range append([]string{"ipvlan", "macvlan"}, kinds...) {
		t.Run(kind, func(t *testing.T) {
			if !linuxtest.HasKind(t, kind) {
				t.Skipf("this kernel has no %s", kind)
			}
			f(t, kind)
		})
	}
}

// measure appends the outcome of a case to the file in DATAPATH_RESULTS. hack/datapath
// makes docs/reference/datapath.md from this file. source is the client's address as the
// server saw it, "" if unknown. It leaves out a case without a kind.
func measure(t *testing.T, source string, columns ...string) {
	file := os.Getenv("DATAPATH_RESULTS")
	if file == "" || columns[0] == "" {
		return
	}
	outcome := "works"
	if t.Failed() {
		outcome = "fails"
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fmt.Fprintln(f, strings.Join(append(columns, outcome, source), "\t"))
}

const askTimeout = 2 * time.Second
