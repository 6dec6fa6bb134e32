package state

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestConfigSurvivesSaveAndLoad(t *testing.T) {
	t.Parallel()
	dir := Dir(t.TempDir())
	if _, err := dir.Load(); !errors.Is(err, ErrNone) {
		t.Fatalf("Load without a lab: %v", err)
	}
	want := Config{Topology: "aws", Nodes: 2, Archives: []string{"a"}, MachineProcess: 7, MachineStart: 9, Complete: true}
	if err := dir.Save(want); err != nil {
		t.Fatal(err)
	}
	got, err := dir.Load()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Load (-want +got):\n%s", diff)
	}
}

func TestGroupsDependOnTheDirectory(t *testing.T) {
	t.Parallel()
	if a, b := Dir("/run/spiderpool-lab").Control(), Dir("/run/other").Control(); a == b {
		t.Errorf("both are %s", a)
	}
}
