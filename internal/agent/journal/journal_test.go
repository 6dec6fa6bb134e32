package journal_test

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"spiderpool.dev/spiderpool/internal/agent/journal"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/lease"
)

func release(container, ifname string) ipam.Release {
	return ipam.Release{Attachment: lease.Attachment{ContainerID: container, Interface: ifname}, Namespace: "ns", Pod: "a", PodUID: "u"}
}

func open(t *testing.T, dir string) *journal.Journal {
	t.Helper()
	j, err := journal.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func all(t *testing.T, j *journal.Journal) []ipam.Release {
	t.Helper()
	releases, err := j.All()
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(releases, func(a, b ipam.Release) int {
		return strings.Compare(a.ContainerID+a.Interface, b.ContainerID+b.Interface)
	})
	return releases
}

func TestReleasesAreFoundAgainUntilTheyAreRemoved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "releases")
	j := open(t, dir)
	want := []ipam.Release{release("c1", "eth0"), release("c1", "net1"), release("../../etc/passwd", "eth0")}
	for _, r := range append(want, want[0]) {
		if err := j.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	slices.SortFunc(want, func(a, b ipam.Release) int {
		return strings.Compare(a.ContainerID+a.Interface, b.ContainerID+b.Interface)
	})
	j = open(t, dir)
	if got := all(t, j); !reflect.DeepEqual(got, want) || j.Len() != len(want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for _, r := range want {
		if err := j.Remove(r.Attachment); err != nil {
			t.Fatal(err)
		}
		if err := j.Remove(r.Attachment); err != nil {
			t.Errorf("second Remove: %v", err)
		}
	}
	if got := all(t, open(t, dir)); len(got) != 0 {
		t.Errorf("left over: %+v", got)
	}
}

func TestWhatACrashLeftHalfWrittenIsNoRelease(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "unfinished-1"), []byte(`{"containerID":"c`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := all(t, open(t, dir)); len(got) != 0 {
		t.Errorf("got %+v", got)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("Open left %v, %v", left, err)
	}
}

func TestADamagedFileIsReportedAndDoesNotHideTheOthers(t *testing.T) {
	dir := t.TempDir()
	if err := open(t, dir).Add(release("c1", "eth0")); err != nil {
		t.Fatal(err)
	}
	damaged := filepath.Join(dir, "x.release.json")
	if err := os.WriteFile(damaged, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	j := open(t, dir)
	releases, err := j.All()
	if len(releases) != 1 || err == nil || !strings.Contains(err.Error(), damaged) {
		t.Errorf("got %+v, %v", releases, err)
	}
	if again := all(t, j); len(again) != 1 || j.Len() != 1 {
		t.Errorf("reported again, or the other was lost: %+v", again)
	}
	if !j.Has(release("c1", "eth0").Attachment) || j.Has(release("c2", "eth0").Attachment) {
		t.Error("Has does not tell what is kept")
	}
}

func TestAReleaseThatCannotBeKeptIsAnError(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "releases")
	j := open(t, dir)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := j.Add(release("c1", "eth0")); err == nil || j.Len() != 0 {
		t.Errorf("Add to a missing directory: %v, %d kept", err, j.Len())
	}
}
