package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/netplan"
	"spiderpool.dev/spiderpool/internal/rpc/rpcserver"
	"spiderpool.dev/spiderpool/internal/wire"
)

var found = []netplan.Finding{
	{What: "kernel", Is: "6.1", Want: "5.7 or newer", OK: true},
	{What: "sysctl a/b", Is: "1", Want: "4 or more", Why: "of neighbors"},
}

func TestNodeTable(t *testing.T) {
	var out bytes.Buffer
	if err := findingsAnswer(found).print(&out, "table", threeAtNight()); err != nil {
		t.Fatal(err)
	}
	const want = `CHECK       VALUE  REQUIRED      
kernel      6.1    5.7 or newer  ok
sysctl a/b  1      4 or more     FAILED

sysctl a/b is 1, want 4 or more: of neighbors
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
	out.Reset()
	if err := findingsAnswer(found[:1]).print(&out, "table", threeAtNight()); err != nil || !strings.HasSuffix(out.String(), "all requirements of underlay pods.\n") {
		t.Errorf("got %v\n%s", err, out.String())
	}
}

func TestNodeJSON(t *testing.T) {
	var out bytes.Buffer
	var got []netplan.Finding
	if err := findingsAnswer(found).print(&out, "json", threeAtNight()); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || len(got) != 2 || got[1] != found[1] {
		t.Errorf("got %v (%v)", got, err)
	}
}

func TestUnknownOutputIsRejected(t *testing.T) {
	cmd := newRoot()
	cmd.SetArgs([]string{"node", "-o", "wide"})
	if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), `"wide": write table, json or yaml`) {
		t.Errorf("got %v", err)
	}
}

func TestKernelCommandsNeedLinux(t *testing.T) {
	cmd, _, err := newRoot().Find([]string{"connectivity", "probe"})
	if err != nil {
		t.Fatal(err)
	}
	if err := checkSystem(cmd, "linux"); err != nil {
		t.Errorf("on Linux: %v", err)
	}
	const want = "connectivity probe reads the Linux kernel of a node, but this machine runs darwin: run it in the agent of the node, " +
		"e.g. kubectl -n kube-system exec spiderpool-agent-x7k2p -- spiderpoolctl connectivity probe"
	asPlugin(cmd.Root())
	if err := checkSystem(cmd, "darwin"); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// agent serves only the question about the runtime.
type agent struct {
	rpcserver.Service
	reply wire.RuntimeReply
}

func (a agent) Runtime(context.Context) (wire.RuntimeReply, error) { return a.reply, nil }

func TestNodeNamesSilentRuntime(t *testing.T) {
	const fault = "/run/crio/crio.sock: no such socket; set the Helm value spiderpoolAgent.criSocket"
	for name, tc := range map[string]struct {
		reply wire.RuntimeReply
		want  netplan.Finding
	}{
		"answering": {wire.RuntimeReply{Socket: "/run/crio/crio.sock"},
			netplan.Finding{What: "container runtime", Is: "answering /run/crio/crio.sock", Want: "answering", OK: true}},
		"silent": {wire.RuntimeReply{Fault: fault},
			netplan.Finding{What: "container runtime", Is: "silent", Want: "answering", Why: "an address whose DEL was lost is not reclaimed: " + fault}},
	} {
		t.Run(name, func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "agent.sock")
			listener, err := rpcserver.Listen(socket)
			if err != nil {
				t.Fatal(err)
			}
			server := rpcserver.Server{Service: agent{reply: tc.reply}, Log: slog.New(slog.DiscardHandler), AllowedUIDs: []uint32{uint32(os.Getuid())}}
			go func() { _ = server.Serve(t.Context(), listener, time.Second) }()
			if got := runtimeFindings(t.Context(), socket); len(got) != 1 || got[0] != tc.want {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
	// A dead agent is a finding, a node without an agent is none.
	dead := filepath.Join(t.TempDir(), "agent.sock")
	if got := runtimeFindings(t.Context(), dead); got != nil {
		t.Errorf("without an agent: %+v", got)
	}
	if err := os.WriteFile(dead, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := runtimeFindings(t.Context(), dead); len(got) != 1 || got[0].OK || !strings.Contains(got[0].Why, "is its pod running") {
		t.Errorf("with a dead agent: %+v", got)
	}
}
