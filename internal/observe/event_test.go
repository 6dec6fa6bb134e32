package observe

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/reclaim"
)

var update = flag.Bool("update", false, "write docs/reference/events.md instead of comparing it")

const intro = `# Events

` + "`kubectl describe`" + ` and ` + "`kubectl get events`" + ` show them. Agent and controller write the same events.

| object | type | reason | meaning |
| --- | --- | --- | --- |
`

const outro = `
If the condition ` + "`Ready`" + ` of an object becomes False, or ` + "`Degraded`" + ` of a SpiderCloudNetwork True, the object also gets a Warning with the reason and the message of the condition; see
[conditions](conditions.md).
`

// TestReferenceListsEveryEvent compares docs/reference/events.md with the catalogue; -update writes it.
func TestReferenceListsEveryEvent(t *testing.T) {
	want := intro
	for _, k := range slices.SortedFunc(slices.Values(kinds), func(a, b Kind) int {
		return strings.Compare(a.About+a.Reason, b.About+b.Reason)
	}) {
		want += fmt.Sprintf("| %s | %s | `%s` | %s |\n", k.About, k.Type, k.Reason, k.help)
	}
	want += outro
	page := filepath.Join("..", "..", "docs", "reference", "events.md")
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s differs from the catalogue; run go test ./internal/observe -update. Want:\n%s", page, want)
	}
}

func TestReclaimedIPNamesAddressAndReason(t *testing.T) {
	change := reclaim.Change{
		Lease:   lease.Lease{Addr: netip.MustParseAddr("10.0.0.1"), Pool: "a"},
		Verdict: reclaim.Verdict{Action: reclaim.Free, Reason: reclaim.PodGone, Message: "pod default/a does not exist"},
	}
	got := ReclaimedIP(change)
	if got.Type != "Normal" || got.Reason != "ReclaimedIP" || got.Text != change.String() {
		t.Errorf("event is %+v", got)
	}
}

// The API server refuses an event whose note has more than 1024 bytes, and JSON
// writes half a letter as three bytes.
func TestTextIsCutBetweenLetters(t *testing.T) {
	for name, text := range map[string]string{
		"short":                  "is inverted",
		"at the limit":           strings.Repeat("a", maxText),
		"over the limit":         strings.Repeat("a", maxText+1),
		"letters of two bytes":   strings.Repeat("ä", 600),
		"letters of three bytes": "a" + strings.Repeat("€", 600),
	} {
		t.Run(name, func(t *testing.T) {
			got := FailedAllocateIP(text).Text
			if len(got) > maxText || !utf8.ValidString(got) {
				t.Errorf("%d bytes, valid %t: …%q", len(got), utf8.ValidString(got), got[len(got)-8:])
			}
			if fits := len(text) <= maxText; fits != (got == text) || !fits && (len(got) < maxText-4 || !strings.HasSuffix(got, "...")) {
				t.Errorf("%d bytes became %d that end with %q", len(text), len(got), got[len(got)-8:])
			}
		})
	}
}
