package ipamplugin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spiderpool.dev/spiderpool/internal/cni/ipamplugin"
	"spiderpool.dev/spiderpool/internal/cniconf"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/journal"
	"spiderpool.dev/spiderpool/internal/rpc/rpcserver"
	"spiderpool.dev/spiderpool/internal/wire"
)

// asPlugin makes the test binary behave as the plugin, so that the tests start
// it as a runtime does: environment, standard input, standard output, status.
const asPlugin = "SPIDERPOOL_TEST_AS_PLUGIN"

func TestMain(m *testing.M) {
	if os.Getenv(asPlugin) != "" {
		ipamplugin.Main("CNI IPAM plugin spiderpool")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// agent answers from fields and keeps the last request.
type agent struct {
	add    wire.AddRequest
	del    wire.DeleteRequest
	check  wire.CheckRequest
	gc     wire.GCRequest
	reply  wire.AddReply
	err    error
	called int
}

func (a *agent) Add(_ context.Context, r wire.AddRequest) (wire.AddReply, error) {
	a.called++
	a.add = r
	return a.reply, a.err
}
func (a *agent) Delete(_ context.Context, r wire.DeleteRequest) error {
	a.called++
	a.del = r
	return a.err
}
func (a *agent) Check(_ context.Context, r wire.CheckRequest) error {
	a.called++
	a.check = r
	return a.err
}
func (a *agent) GC(_ context.Context, r wire.GCRequest) error {
	a.called++
	a.gc = r
	return a.err
}
func (a *agent) Conflict(context.Context, wire.ConflictRequest) error { return a.err }
func (a *agent) Status(context.Context) error                         { a.called++; return a.err }
func (*agent) Runtime(context.Context) (wire.RuntimeReply, error)     { return wire.RuntimeReply{}, nil }
func (a *agent) Coordinator(context.Context, wire.CoordinatorRequest) (wire.CoordinatorReply, error) {
	return wire.CoordinatorReply{}, a.err
}

// installation is what the installer wrote on the node.
type installation struct {
	cniconf.Node
	file string
}

// install writes the file of an installation without an agent.
func install(t *testing.T) installation {
	t.Helper()
	dir := t.TempDir()
	i := installation{cniconf.Node{Socket: filepath.Join(dir, "s"), StateDir: filepath.Join(dir, "state"), LogDir: filepath.Join(dir, "log")}, filepath.Join(dir, cniconf.NodeFile)}
	if err := os.WriteFile(i.file, cniconf.Marshal(i.Node), 0o644); err != nil {
		t.Fatal(err)
	}
	return i
}

// serve serves an agent and returns its installation.
func serve(t *testing.T, a *agent) installation {
	t.Helper()
	node := install(t)
	listener, err := rpcserver.Listen(node.Socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	server := rpcserver.Server{Service: a, Log: slog.New(slog.DiscardHandler), AllowedUIDs: []uint32{uint32(os.Getuid())}}
	go func() { done <- server.Serve(ctx, listener, time.Second) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return node
}

const podArgs = "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns1;K8S_POD_NAME=a;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u1"

// run executes the plugin and returns its standard output and whether it succeeded.
func run(t *testing.T, node installation, command, conf string, env ...string) (map[string]any, bool) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Stdin = strings.NewReader(conf)
	// A network namespace other than the plugin's own is wanted: a file that is none will do.
	cmd.Env = append([]string{asPlugin + "=1", cniconf.NodeFileVariable + "=" + node.file, "CNI_COMMAND=" + command, "CNI_CONTAINERID=c1", "CNI_NETNS=/proc/self/ns/uts",
		"CNI_IFNAME=eth0", "CNI_PATH=/opt/cni/bin", "CNI_ARGS=" + podArgs, "CNI_NETNS_OVERRIDE=true"}, env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	failed := cmd.Run()
	result := map[string]any{}
	if out.Len() > 0 {
		if err := json.Unmarshal(out.Bytes(), &result); err != nil {
			t.Fatalf("%s printed %q: %v", command, out.String(), err)
		}
	}
	if errs.Len() > 0 {
		t.Logf("stderr: %s", errs.String())
	}
	return result, failed == nil
}

// conf is a network configuration with cniVersion and extra members of "ipam".
func conf(version, extra string) string {
	return `{"cniVersion":"` + version + `","name":"n1","type":"ipvlan","master":"ens5","mode":"l2",` +
		`"ipam":{"type":"spiderpool"` + extra + `}}`
}

var dualStack = wire.AddReply{
	Addresses: []wire.Address{
		{Prefix: netip.MustParsePrefix("192.0.2.7/24"), Gateway: netip.MustParseAddr("192.0.2.1"), Pool: "v4"},
		{Prefix: netip.MustParsePrefix("2001:db8::7/64"), Pool: "v6"},
	},
	Routes: []inet.Route{{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("192.0.2.1")}},
	DNS:    wire.DNS{Nameservers: []string{"192.0.2.53"}},
}

// The main plugins take an altname of an interface as master, and an altname may be long (ip-link(8)).
func TestMasterMayHaveLongName(t *testing.T) {
	node := serve(t, &agent{reply: dualStack})
	config := strings.Replace(conf("1.1.0", ""), "ens5", "enp129s0f1np1v17", 1)
	if result, ok := run(t, node, "ADD", config); !ok {
		t.Error(result)
	}
}

func TestAddPrintsEveryResultVersion(t *testing.T) {
	a := &agent{reply: dualStack}
	node := serve(t, a)
	for _, version := range []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		result, ok := run(t, node, "ADD", conf(version, ""))
		if !ok || result["cniVersion"] != version {
			t.Errorf("%s: %v", version, result)
		}
		text, _ := json.Marshal(result)
		for _, part := range []string{
			`"address":"192.0.2.7/24"`, `"gateway":"192.0.2.1"`, `"address":"2001:db8::7/64"`,
			`{"dst":"0.0.0.0/0","gw":"192.0.2.1"}`, `"nameservers":["192.0.2.53"]`,
		} {
			if !strings.Contains(string(text), part) {
				t.Errorf("%s: %s lacks %s", version, text, part)
			}
		}
	}
}

func TestAddPassesOnTheConfiguration(t *testing.T) {
	a := &agent{reply: dualStack}
	node := serve(t, a)
	_, ok := run(t, node, "ADD", conf("1.0.0", `,"default_ipv4_ippool":["v4"],"default_ipv6_ippool":["v6"],"clean_gateway":true,`+
		`"match_master_subnet":true,"log_file_max_size":"100","log_file_max_age":30,"log_file_max_count":7,"log_level":"INFO","unheard_of":1`))
	if !ok {
		t.Fatal("ADD failed")
	}
	want := wire.AddRequest{
		Attachment: wire.Attachment{ContainerID: "c1", NetNS: "/proc/self/ns/uts", Interface: "eth0",
			PodNamespace: "ns1", PodName: "a", PodUID: "u1"},
		Network: "n1", Master: "ens5", DefaultIPv4Pools: []string{"v4"}, DefaultIPv6Pools: []string{"v6"},
		CleanGateway: true, MatchMasterSubnet: true,
	}
	got, _ := json.Marshal(a.add)
	wanted, _ := json.Marshal(want)
	if !bytes.Equal(got, wanted) {
		t.Errorf("got %s\nwant %s", got, wanted)
	}
}

func TestErrorsHaveCodeAndWayOut(t *testing.T) {
	with := serve(t, &agent{err: &wire.Error{Code: wire.CodeNoAddress, Msg: "no pool can give an address", Details: "p: disabled"}})
	without, damaged := install(t), install(t)
	if err := os.WriteFile(damaged.file, []byte(`{"socket":"run/s"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		node          installation
		command, conf string
		env           string
		code          float64
		part          string
	}{
		"agent's error":          {with, "ADD", conf("1.0.0", ""), "", wire.CodeNoAddress, "p: disabled"},
		"agent away":             {without, "ADD", conf("1.0.0", ""), "", wire.CodeTryAgainLater, "is its pod running"},
		"agent away, STATUS":     {without, "STATUS", conf("1.1.0", ""), "", 50, "is its pod running"},
		"no pod":                 {with, "ADD", conf("1.0.0", ""), "CNI_ARGS=a=b", wire.CodeInvalidEnvironment, "K8S_POD_NAME"},
		"relative socket":        {damaged, "ADD", conf("1.0.0", ""), "", wire.CodeInvalidConfig, `socket "run/s" is not an absolute path`},
		"size in words":          {with, "ADD", conf("1.0.0", `,"log_file_max_size":"many"`), "", wire.CodeDecodingFailure, "invalid number literal"},
		"unknown log level":      {with, "ADD", conf("1.0.0", `,"log_level":"loud"`), "", wire.CodeInvalidConfig, "ipam.log_level"},
		"CHECK without a result": {with, "CHECK", conf("1.0.0", ""), "", wire.CodeInvalidConfig, "prevResult"},
		"version of the past":    {with, "ADD", conf("0.2.0", ""), "", 1, "0.3.0"},
	} {
		t.Run(name, func(t *testing.T) {
			env := []string{}
			if c.env != "" {
				env = append(env, c.env)
			}
			result, ok := run(t, c.node, c.command, c.conf, env...)
			text, _ := json.Marshal(result)
			if ok || result["code"] != c.code || !strings.Contains(strings.ReplaceAll(string(text), `\"`, `"`), c.part) {
				t.Errorf("ok %v, printed %s; want code %v and %q", ok, text, c.code, c.part)
			}
		})
	}
}

// badConfigurations are configurations that ADD refuses.
var badConfigurations = map[string]string{
	"unknown log level": conf("1.0.0", `,"log_level":"trace"`),
	"wrong duration":    conf("1.0.0", `,"detectOptions":{"interval":"100"}`),
	"wrong number":      conf("1.0.0", `,"log_file_max_size":"100MB"`),
	"pools as a text":   conf("1.0.0", `,"default_ipv4_ippool":"pool-a"`),
	"unknown version":   conf("0.2.0", ""),
	"no network name":   `{"cniVersion":"1.0.0","type":"macvlan","ipam":{"type":"spiderpool"}}`,
	"master as a list":  `{"cniVersion":"1.0.0","name":"n","type":"macvlan","master":["eth0"],"ipam":{"type":"spiderpool"}}`,
	"not JSON":          `{`,
	"empty":             ``,
}

func TestDelSucceedsWhateverConfigurationSays(t *testing.T) {
	a := &agent{}
	node := serve(t, a)
	for name, bad := range badConfigurations {
		t.Run(name, func(t *testing.T) {
			if result, ok := run(t, node, "ADD", bad); ok {
				t.Fatalf("ADD accepts it: %v", result)
			}
			a.del = wire.DeleteRequest{}
			if result, ok := run(t, node, "DEL", bad); !ok || len(result) != 0 || a.del.ContainerID != "c1" || a.del.Interface != "eth0" {
				t.Errorf("ok %t, printed %v, the agent got %+v", ok, result, a.del)
			}
		})
	}
	if kept := journal.In(node.StateDir).Len(); kept != 0 {
		t.Errorf("%d releases are on disk although the agent took them", kept)
	}
}

// kept returns the releases on disk.
func kept(t *testing.T, node installation) (all []wire.Attachment) {
	t.Helper()
	_, err := journal.In(node.StateDir).Replay(t.Context(), func(_ context.Context, at wire.Attachment) error {
		all = append(all, at)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return all
}

func TestDelWithoutAgentKeepsRelease(t *testing.T) {
	refusing := serve(t, &agent{err: &wire.Error{Code: wire.CodeTryAgainLater, Msg: "the disk is full"}})
	away := install(t)
	for name, node := range map[string]installation{"agent away": away, "agent fails": refusing} {
		t.Run(name, func(t *testing.T) {
			for range 2 { // the runtime may repeat it
				if result, ok := run(t, node, "DEL", conf("1.0.0", "")); !ok || len(result) != 0 {
					t.Errorf("ok %t, printed %v", ok, result)
				}
			}
			want := []wire.Attachment{{ContainerID: "c1", Interface: "eth0", PodNamespace: "ns1", PodName: "a", PodUID: "u1"}}
			if diff := cmp.Diff(want, kept(t, node)); diff != "" {
				t.Errorf("on disk: want (-), got (+):\n%s", diff)
			}
			log, err := os.ReadFile(filepath.Join(node.LogDir, "spiderpool.log"))
			if err != nil || !strings.Contains(string(log), "the release is on disk") {
				t.Errorf("log %q, %v", log, err)
			}
		})
	}
}

func TestDelWithoutAnyStoreSucceeds(t *testing.T) {
	node := install(t)
	if err := os.WriteFile(node.StateDir, nil, 0o600); err != nil { // no directory can take its place
		t.Fatal(err)
	}
	if result, ok := run(t, node, "DEL", conf("1.0.0", "")); !ok || len(result) != 0 {
		t.Errorf("ok %t, printed %v", ok, result)
	}
	if err := os.WriteFile(node.file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if result, ok := run(t, node, "DEL", conf("1.0.0", ""), "CNI_ARGS="); !ok || len(result) != 0 {
		t.Errorf("with a damaged file of the installation: ok %t, printed %v", ok, result)
	}
}

func TestAttachmentDoesNotChooseSocket(t *testing.T) {
	other, a := &agent{reply: dualStack}, &agent{reply: dualStack}
	foreign, node := serve(t, other), serve(t, a)
	if result, ok := run(t, node, "ADD", conf("1.0.0", `,"ipam_unix_socket_path":"`+foreign.Socket+`"`)); !ok {
		t.Fatalf("ADD: %v", result)
	}
	if other.called != 0 || a.called != 1 {
		t.Errorf("the attachment's agent was called %d times, the node's %d times", other.called, a.called)
	}
	log, err := os.ReadFile(filepath.Join(node.LogDir, "spiderpool.log"))
	if err != nil || !strings.Contains(string(log), "the agent of this node listens on "+node.Socket) {
		t.Errorf("log %q, %v", log, err)
	}
}

func TestDelSucceedsWithoutPod(t *testing.T) {
	a := &agent{}
	node := serve(t, a)
	if result, ok := run(t, node, "DEL", conf("0.3.1", "")); !ok || len(result) != 0 || a.del.ContainerID != "c1" || a.del.PodName != "a" {
		t.Errorf("DEL: %v %v, agent got %+v", ok, result, a.del)
	}
	a.called = 0
	if result, ok := run(t, node, "DEL", conf("0.3.1", ""), "CNI_ARGS="); !ok || a.called != 0 {
		t.Errorf("DEL without a pod: %v %v, agent called %d times", ok, result, a.called)
	}
}

func TestCheckSendsPreviousAddresses(t *testing.T) {
	a := &agent{}
	node := serve(t, a)
	withResult := strings.TrimSuffix(conf("1.0.0", ""), "}") +
		`,"prevResult":{"cniVersion":"1.0.0","ips":[{"address":"192.0.2.7/24"},{"address":"2001:db8::7/64"}]}}`
	if result, ok := run(t, node, "CHECK", withResult); !ok {
		t.Fatalf("CHECK: %v", result)
	}
	if got, _ := json.Marshal(a.check.Addresses); string(got) != `["192.0.2.7","2001:db8::7"]` {
		t.Errorf("addresses %s", got)
	}
}

func TestGCSendsTheValidAttachments(t *testing.T) {
	a := &agent{}
	node := serve(t, a)
	withValid := strings.TrimSuffix(conf("1.1.0", ""), "}") +
		`,"cni.dev/valid-attachments":[{"containerID":"c1","ifname":"eth0"},{"containerID":"c2","ifname":"net1"}]}`
	if result, ok := run(t, node, "GC", withValid); !ok {
		t.Fatalf("GC: %v", result)
	}
	if got, _ := json.Marshal(a.gc); string(got) != `{"network":"n1","valid":[{"containerID":"c1","interface":"eth0"},{"containerID":"c2","interface":"net1"}]}` {
		t.Errorf("request %s", got)
	}
	if result, ok := run(t, node, "STATUS", conf("1.1.0", "")); !ok {
		t.Errorf("STATUS: %v", result)
	}
}

func TestLogFileHasOnlyFailures(t *testing.T) {
	a := &agent{} // no address, because CNI_NETNS has no interface
	node := serve(t, a)
	log := filepath.Join(node.LogDir, "spiderpool.log")
	if result, ok := run(t, node, "ADD", conf("1.0.0", "")); !ok {
		t.Fatalf("ADD: %v", result)
	}
	if _, err := os.Stat(log); !os.IsNotExist(err) {
		t.Errorf("a successful call at level INFO wrote a log: %v", err)
	}
	a.err = &wire.Error{Code: wire.CodeNoAddress, Msg: "no pool can give an address"}
	run(t, node, "ADD", conf("1.0.0", `,"log_file_path":""`))
	if _, err := os.Stat(log); !os.IsNotExist(err) {
		t.Errorf("a call wrote a log although the configuration wants none: %v", err)
	}
	run(t, node, "ADD", conf("1.0.0", ""))
	content, err := os.ReadFile(log)
	if err != nil || !strings.Contains(string(content), "no pool can give an address") || !strings.Contains(string(content), `"container":"c1"`) {
		t.Errorf("log %q, err %v", content, err)
	}
}
