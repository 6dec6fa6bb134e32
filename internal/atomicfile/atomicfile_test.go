package atomicfile_test

import (
	"os"
	"path/filepath"
	"testing"

	"spiderpool.dev/spiderpool/internal/atomicfile"
)

type writer func(path string, content []byte, mode os.FileMode) error

// eachWriter runs a test with Write and with Replace.
func eachWriter(t *testing.T, test func(*testing.T, writer)) {
	for name, write := range map[string]writer{"Write": atomicfile.Write, "Replace": atomicfile.Replace} {
		t.Run(name, func(t *testing.T) { test(t, write) })
	}
}

func TestContentAndModeAreReplaced(t *testing.T) { eachWriter(t, testContentAndModeAreReplaced) }

func testContentAndModeAreReplaced(t *testing.T, write writer) {
	path := filepath.Join(t.TempDir(), "a.conf")
	if err := os.WriteFile(path, []byte("old and longer"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := write(path, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil || string(content) != "new" {
		t.Errorf("got %q, %v, want new", content, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got mode %v, %v, want 0600", info.Mode(), err)
	}
}

func TestFailedWriteLeavesNoFile(t *testing.T) { eachWriter(t, testFailedWriteLeavesNoFile) }

func testFailedWriteLeavesNoFile(t *testing.T, write writer) {
	dir := t.TempDir()
	// A directory cannot be replaced by a file.
	target := filepath.Join(dir, "target")
	if err := os.Mkdir(target, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := write(target, []byte("x"), 0o600); err == nil {
		t.Error("it replaced a directory")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("got %v, %v, want target only", entries, err)
	}
	if err := write(filepath.Join(dir, "missing", "a"), nil, 0o600); err == nil {
		t.Error("it made a missing directory")
	}
}
