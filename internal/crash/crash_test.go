package crash_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"

	"spiderpool.dev/spiderpool/internal/crash"
)

// asServer makes the test binary a process with a handler that panics.
const asServer = "CRASH_TEST_AS_SERVER"

func TestMain(m *testing.M) {
	if os.Getenv(asServer) == "" {
		os.Exit(m.Run())
	}
	server := httptest.NewServer(crash.OnPanic(http.HandlerFunc(panics)))
	_, _ = http.Get(server.URL + "/add")
	os.Exit(0) // net/http recovered the panic
}

func panics(http.ResponseWriter, *http.Request) { panic("half changed") }

func TestPanicInHandlerEndsProcess(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), asServer+"=1")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 {
		t.Errorf("the process ended with %v", err)
	}
	for _, part := range []string{"GET /add: half changed", "crash_test.panics"} {
		if !strings.Contains(string(out), part) {
			t.Errorf("the trace lacks %q:\n%s", part, out)
		}
	}
}
