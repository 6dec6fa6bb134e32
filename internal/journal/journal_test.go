package journal_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/ipam/ipamtest"
	"spiderpool.dev/spiderpool/internal/journal"
	"spiderpool.dev/spiderpool/internal/wire"
)

func release(container, ifname string) wire.Attachment {
	return wire.Attachment{ContainerID: container, Interface: ifname, PodNamespace: "ns", PodName: "a", PodUID: "u"}
}

func keep(t *testing.T, j journal.Journal, at wire.Attachment) {
	t.Helper()
	if err := j.Begin(at)(true); err != nil {
		t.Fatal(err)
	}
}

// replay commits everything, and returns the containers of the releases.
func replay(t *testing.T, j journal.Journal) (containers []string, err error) {
	t.Helper()
	_, err = j.Replay(t.Context(), func(_ context.Context, at wire.Attachment) error {
		containers = append(containers, at.ContainerID)
		return nil
	})
	return containers, err
}

func files(t *testing.T, j journal.Journal) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(j.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "lock" {
			names = append(names, e.Name())
		}
	}
	return names
}

func TestJournalMeetsContract(t *testing.T) {
	ipamtest.JournalContract(t, func(t *testing.T) (a, b ipam.Journal) {
		dir := t.TempDir()
		return journal.In(dir), journal.In(dir)
	})
}

func TestReleasesSurviveReopening(t *testing.T) {
	dir := t.TempDir()
	at := release("../../etc/passwd", "eth0")
	keep(t, journal.In(dir), at)
	j := journal.In(dir)
	if n := j.Len(); n != 1 {
		t.Errorf("%d releases, want 1", n)
	}
	got, err := replay(t, j)
	if diff := cmp.Diff([]string{at.ContainerID}, got); diff != "" || err != nil {
		t.Errorf("%v; want (-), got (+):\n%s", err, diff)
	}
	if left := files(t, j); len(left) != 0 {
		t.Errorf("left over: %v", left)
	}
}

func TestOnlyRootReadsReleases(t *testing.T) {
	j := journal.In(filepath.Join(t.TempDir(), "state"))
	keep(t, j, release("c1", "eth0"))
	for path, want := range map[string]os.FileMode{j.Dir: 0o700, filepath.Join(j.Dir, files(t, j)[0]): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, %v; want %v", path, info.Mode(), err, want)
		}
	}
}

func TestDamagedFileIsSetAside(t *testing.T) {
	good := release("c1", "eth0")
	for name, content := range map[string]string{
		"empty":            "",
		"of another name":  `{"containerID":"c2","interface":"eth0"}`,
		"too long":         `{"containerID":"` + strings.Repeat("c", 20<<10) + `"}`,
		"not a release":    `[]`,
		"a part of a file": `{"containerID":"c`,
	} {
		t.Run(name, func(t *testing.T) {
			j := journal.In(t.TempDir())
			keep(t, j, good)
			path := filepath.Join(j.Dir, "0123.release.json")
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := replay(t, j)
			if len(got) != 1 || err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("replayed %v, %v", got, err)
			}
			if got, err := replay(t, j); len(got) != 0 || err != nil {
				t.Errorf("the second replay has %v, %v", got, err)
			}
			if diff := cmp.Diff([]string{"0123.release.json.damaged"}, files(t, j)); diff != "" {
				t.Errorf("files: want (-), got (+):\n%s", diff)
			}
		})
	}
}

func TestAbandonedFilesGo(t *testing.T) {
	j := journal.In(t.TempDir())
	finish := j.Begin(release("c1", "eth0"))
	if _, err := replay(t, j); err != nil || len(files(t, j)) != 1 {
		t.Errorf("the file of a running DEL: %v, %v", files(t, j), err)
	}
	old := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(filepath.Join(j.Dir, files(t, j)[0]), old, old); err != nil {
		t.Fatal(err)
	}
	if _, err := replay(t, j); err != nil || len(files(t, j)) != 0 {
		t.Errorf("left: %v, %v", files(t, j), err)
	}
	if err := finish(true); err != nil {
		t.Error(err)
	}
}

func TestFullDirectoryTakesNoMore(t *testing.T) {
	j := journal.In(t.TempDir())
	if err := j.Create(); err != nil {
		t.Fatal(err)
	}
	for i := range 4096 {
		if err := os.WriteFile(filepath.Join(j.Dir, strconv.Itoa(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Begin(release("c1", "eth0"))(true); err == nil || !strings.Contains(err.Error(), "4096") {
		t.Errorf("got %v", err)
	}
	if n := len(files(t, j)); n != 4096 {
		t.Errorf("%d files", n)
	}
}

func TestKeepFailsWithoutDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	j := journal.In(file)
	if err := j.Begin(release("c1", "eth0"))(true); err == nil {
		t.Error("a release below a file was kept")
	}
	if err := j.Begin(release("c1", "eth0"))(false); err != nil || j.Len() != 0 {
		t.Errorf("a release that is not to be kept: %v", err)
	}
}
