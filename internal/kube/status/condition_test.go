package status_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"spiderpool.dev/spiderpool/internal/kube/status"
)

// The API server refuses an event whose note has more than 1024 bytes, and JSON
// writes half a letter as three.
func TestNoteOfAnEventIsShortenedBetweenLetters(t *testing.T) {
	for name, note := range map[string]string{
		"short": "is inverted", "as long as can be": strings.Repeat("a", 1024), "long": strings.Repeat("a", 1025),
		"letters of two bytes": strings.Repeat("ä", 600), "letters of three bytes": "a" + strings.Repeat("€", 600),
	} {
		t.Run(name, func(t *testing.T) {
			got := status.EventNote(note)
			if len(got) > 1024 || !utf8.ValidString(got) {
				t.Errorf("%d bytes, valid %t: …%q", len(got), utf8.ValidString(got), got[len(got)-8:])
			}
			if fits := len(note) <= 1024; fits != (got == note) || !fits && (len(got) < 1020 || !strings.HasSuffix(got, "...")) {
				t.Errorf("%d bytes became %d that end with %q", len(note), len(got), got[len(got)-8:])
			}
		})
	}
}
