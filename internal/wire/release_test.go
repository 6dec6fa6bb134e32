package wire

import (
	"encoding/json"
	"fmt"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestPreviousReleaseIsUnderstood reads messages with every field set, encoded by the
// code of v0.1.0 (commit 06ce6da), and encodes them again. If a field of v0.1.0 is lost
// or has another form, a plugin and an agent of different releases misunderstand each
// other during an upgrade. New fields are fine: both sides ignore unknown ones.
func TestPreviousReleaseIsUnderstood(t *testing.T) {
	content, err := os.ReadFile("testdata/v0.1.0.json")
	if err != nil {
		t.Fatal(err)
	}
	var old map[string]json.RawMessage
	if err := json.Unmarshal(content, &old); err != nil {
		t.Fatal(err)
	}
	types := map[string]any{
		"AddRequest": &AddRequest{}, "AddReply": &AddReply{}, "DeleteRequest": &DeleteRequest{}, "CheckRequest": &CheckRequest{},
		"GCRequest": &GCRequest{}, "ConflictRequest": &ConflictRequest{}, "CoordinatorRequest": &CoordinatorRequest{},
		"CoordinatorReply": &CoordinatorReply{}, "Error": &Error{},
	}
	if len(old) != len(types) {
		t.Errorf("v0.1.0 has %d types, the test %d", len(old), len(types))
	}
	for name, message := range types {
		if err := json.Unmarshal(old[name], message); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		encoded, err := json.Marshal(message)
		if err != nil {
			t.Fatal(err)
		}
		var before, after any
		if err := json.Unmarshal(old[name], &before); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(encoded, &after); err != nil {
			t.Fatal(err)
		}
		for _, l := range lost(before, after, name) {
			t.Error(l)
		}
	}
}

// lost returns the values of before that are missing or different in after.
func lost(before, after any, at string) []string {
	switch b := before.(type) {
	case map[string]any:
		a, ok := after.(map[string]any)
		if !ok {
			break
		}
		var out []string
		for key, value := range b {
			out = append(out, lost(value, a[key], at+"."+key)...)
		}
		return out
	case []any:
		a, ok := after.([]any)
		if !ok || len(a) != len(b) {
			break
		}
		var out []string
		for i := range b {
			out = append(out, lost(b[i], a[i], fmt.Sprintf("%s[%d]", at, i))...)
		}
		return out
	}
	if cmp.Equal(before, after) {
		return nil
	}
	return []string{fmt.Sprintf("%s was %v and is %v", at, before, after)}
}
