package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"spiderpool.dev/spiderpool/internal/netplan"
)

var found = []netplan.Finding{
	{What: "kernel", Is: "6.1", Want: "5.7 or newer", OK: true},
	{What: "sysctl a/b", Is: "1", Want: "4 or more", Why: "of neighbors"},
}

func TestNodeTable(t *testing.T) {
	var out bytes.Buffer
	if err := show(&out, found, "table"); !errors.Is(err, errFound) {
		t.Errorf("got %v", err)
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
	if err := show(&out, found[:1], "table"); err != nil || !strings.HasSuffix(out.String(), "all requirements of underlay pods.\n") {
		t.Errorf("got %v\n%s", err, out.String())
	}
}

func TestNodeJSON(t *testing.T) {
	var out bytes.Buffer
	var got []netplan.Finding
	if err := show(&out, found, "json"); !errors.Is(err, errFound) {
		t.Errorf("got %v", err)
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || len(got) != 2 || got[1] != found[1] {
		t.Errorf("got %v (%v)", got, err)
	}
}

func TestUnknownOutputIsRejected(t *testing.T) {
	cmd := newRoot()
	cmd.SetArgs([]string{"node", "-o", "yaml"})
	if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), `"yaml": write table or json`) {
		t.Errorf("got %v", err)
	}
}
