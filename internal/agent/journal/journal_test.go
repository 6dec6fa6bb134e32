package journal_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"spiderpool.dev/spiderpool/internal/agent/journal"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/lease"
)

func release(container, ifname string) ipam.Release {
	return ipam.Release{Attachment: lease.Attachment{ContainerID: container, Interface: ifname}, Pod: lease.PodKey{Namespace: "ns", Name: "a"}, PodUID: "u"}
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

func TestReleasesSurviveReopening(t *testing.T) {
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
	if diff := cmp.Diff(want, all(t, j), cmpopts.IgnoreFields(ipam.Release{}, "Generation")); diff != "" || j.Len() != len(want) {
		t.Errorf("%d releases; want (-), got (+):\n%s", j.Len(), diff)
	}
	for _, r := range want {
		generation := j.Generation(r.Attachment)
		if err := j.Remove(r.Attachment, generation); err != nil {
			t.Fatal(err)
		}
		if err := j.Remove(r.Attachment, generation); err != nil {
			t.Errorf("second Remove: %v", err)
		}
	}
	if got := all(t, open(t, dir)); len(got) != 0 {
		t.Errorf("left over: %+v", got)
	}
}

func TestRemoveKeepsLaterGeneration(t *testing.T) {
	j := open(t, t.TempDir())
	r := release("c1", "eth0")
	if err := j.Add(r); err != nil {
		t.Fatal(err)
	}
	replayed, err := j.All()
	if err != nil || len(replayed) != 1 {
		t.Fatalf("got %v, %v", replayed, err)
	}
	if err := j.Add(r); err != nil {
		t.Fatal(err)
	}
	if err := j.Remove(r.Attachment, replayed[0].Generation); err != nil {
		t.Fatal(err)
	}
	if j.Len() != 1 {
		t.Error("the release added during the replay is lost")
	}
}

func TestOpenRemovesUnfinishedFiles(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, ".c1.release.json.1"), []byte(`{"containerID":"c`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := all(t, open(t, dir)); len(got) != 0 {
		t.Errorf("got %+v", got)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("Open left %v, %v", left, err)
	}
}

func TestDamagedFileIsReportedOnce(t *testing.T) {
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
	if kept, other := j.Generation(release("c1", "eth0").Attachment), j.Generation(release("c2", "eth0").Attachment); kept == 0 || other != 0 {
		t.Errorf("generations %d of the kept release and %d of none", kept, other)
	}
}

func TestAddFailsWithoutDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "releases")
	j := open(t, dir)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := j.Add(release("c1", "eth0")); err == nil || j.Len() != 0 {
		t.Errorf("Add to a missing directory: %v, %d kept", err, j.Len())
	}
}
