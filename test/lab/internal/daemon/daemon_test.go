package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// sh returns a daemon that runs a shell script.
func sh(name, script string) Spec {
	return Spec{Name: name, Args: []string{"/bin/sh", "-c", script}, Env: os.Environ()}
}

// eventually waits until the condition holds.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting for: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func one(t *testing.T, s *Set) Status {
	t.Helper()
	list := s.Status()
	if len(list) != 1 {
		t.Fatalf("%d daemons, want one: %+v", len(list), list)
	}
	return list[0]
}

func TestEndedProgramIsRestarted(t *testing.T) {
	t.Parallel()
	s := NewSet(t.TempDir())
	if err := s.Start(sh("a/b", "sleep 300")); err != nil {
		t.Fatal(err)
	}
	first := one(t, s)
	if err := s.Kill("a/b"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another process", func() bool {
		now := one(t, s)
		return now.Process != 0 && now.Process != first.Process && now.Restarts == 1
	})
	if err := s.Failed("a/b", 0); err == nil || !strings.Contains(err.Error(), "signal: killed") {
		t.Errorf("Failed = %v, want the exit status", err)
	}
	if err := s.Stop(t.Context(), "a/b"); err != nil {
		t.Fatal(err)
	}
}

func TestStoppedProgramStaysStopped(t *testing.T) {
	t.Parallel()
	s := NewSet(t.TempDir())
	if err := s.Start(sh("x", "exec sleep 300")); err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	if now := one(t, s); now.Process != 0 || now.Restarts != 0 {
		t.Errorf("after Stop: %+v", now)
	}
	if err := s.Stop(t.Context(), "x"); err != nil {
		t.Errorf("second Stop: %v", err)
	}
	if err := s.Restart("x"); err != nil {
		t.Fatal(err)
	}
	if now := one(t, s); now.Process == 0 {
		t.Errorf("after Restart: %+v", now)
	}
	if err := s.Stop(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
}

func TestProgramIgnoringSIGTERMIsKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := NewSet(dir)
	if err := s.Start(sh("deaf", "trap '' TERM; echo ready; while :; do sleep 1; done")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "ready", func() bool {
		log, err := os.ReadFile(filepath.Join(dir, "deaf.log"))
		return err == nil && strings.Contains(string(log), "ready")
	})
	if err := s.Stop(t.Context(), "deaf"); err != nil {
		t.Fatal(err)
	}
	if now := one(t, s); now.LastExit != "signal: killed" {
		t.Errorf("LastExit = %q", now.LastExit)
	}
}

func TestFailureShowsTheLog(t *testing.T) {
	t.Parallel()
	s := NewSet(t.TempDir())
	if err := s.Start(sh("bad", "echo flag --x is unknown; exit 7")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "failure", func() bool { return s.Failed("bad", 0) != nil })
	if err := s.Failed("bad", 0); !strings.Contains(err.Error(), "exit status 7") || !strings.Contains(err.Error(), "flag --x is unknown") {
		t.Errorf("Failed = %v", err)
	}
	if err := s.Stop(t.Context(), "bad"); err != nil {
		t.Fatal(err)
	}
}

func TestRunningDaemonIsNotStartedTwice(t *testing.T) {
	t.Parallel()
	s := NewSet(t.TempDir())
	for range 2 {
		if err := s.Start(sh("x", "exec sleep 300")); err != nil {
			t.Fatal(err)
		}
	}
	one(t, s)
	if err := s.Stop(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
}

func TestUnknownDaemonIsAnError(t *testing.T) {
	t.Parallel()
	s := NewSet(t.TempDir())
	if err := s.Stop(t.Context(), "x"); err == nil {
		t.Error("Stop succeeded")
	}
	if err := s.Kill("x"); err == nil {
		t.Error("Kill succeeded")
	}
}
