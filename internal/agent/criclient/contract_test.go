package criclient_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"spiderpool.dev/spiderpool/internal/agent/criclient"
)

// contract tests a runtime without sandboxes. start starts it at the socket, and the function
// that it returns ends it. reported is the runtime's name and version, as its kubelet would
// report them.
func contract(t *testing.T, socket, reportedName string, start func() (stop func())) {
	t.Helper()
	name, trusted := reportedName, filepath.Join(t.TempDir(), "trusted")
	r := &criclient.Runtime{Sockets: []string{"/nonexistent", socket}, Trusted: trusted, Held: holds("mine")}
	ask := func(want string) {
		t.Helper()
		r.Reported = reported(name)
		ids, err := r.Sandboxes(t.Context())
		if want == "" && (err != nil || ids == nil || len(ids) > 0) || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("got %v, %v; want the error %q", ids, err, want)
		}
	}
	ask(socket + ": no such socket")
	stop := start()
	ask("has not listed a sandbox with a lease of this node yet")
	if err := os.WriteFile(trusted, []byte(socket), 0o600); err != nil {
		t.Fatal(err)
	}
	ask("")
	name = "other://1.0.0"
	ask("this runtime is " + reportedName + ", but the kubelet uses other://1.0.0")
	name = reportedName
	stop()
	ask(socket + ": ") // the socket may be gone, or refuse connections
	stop = start()
	ask("")
	stop()
}

func TestFakeRuntimeKeepsContract(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "cri.sock")
	contract(t, socket, "containerd://2.1.4", func() func() { return serveAt(t, socket, &server{}) })
}
