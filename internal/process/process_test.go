package process_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"

	"github.com/spf13/cobra"

	"spiderpool.dev/spiderpool/internal/process"
)

// program is what TestMain runs in place of the tests, by the value of PROCESS_TEST.
func program(*process.Env) *cobra.Command {
	cmd := &cobra.Command{Use: "tester"}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if os.Getenv("PROCESS_TEST") == "fail" {
			return errors.New("out of luck")
		}
		if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
			return err
		}
		<-cmd.Context().Done()
		return nil
	}
	return cmd
}

func TestMain(m *testing.M) {
	if os.Getenv("PROCESS_TEST") != "" {
		os.Args = os.Args[:1]
		signal.Reset()
		process.Main(program)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func start(t *testing.T, behaviour string) (stderr []byte, err error) {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env, cmd.Stderr = append(os.Environ(), "PROCESS_TEST="+behaviour), &out
	err = cmd.Run()
	return out.Bytes(), err
}

func TestFailureIsLoggedAsJSON(t *testing.T) {
	stderr, err := start(t, "fail")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("got %v, want exit code 1", err)
	}
	var record struct{ Level, Msg, Err string }
	if err := json.Unmarshal(stderr, &record); err != nil || record.Level != "ERROR" || record.Msg != "tester failed" || record.Err != "out of luck" {
		t.Errorf("got %s (%v)", stderr, err)
	}
}

func TestSignalEndsContext(t *testing.T) {
	if stderr, err := start(t, "signal"); err != nil || len(stderr) > 0 {
		t.Errorf("got %v, %s", err, stderr)
	}
}
