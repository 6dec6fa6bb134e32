package cniconf_test

import (
	"encoding/json"
	"strings"
	"testing"

	"spiderpool.dev/spiderpool/internal/cniconf"
)

func TestParseListOrPlugin(t *testing.T) {
	for name, c := range map[string]struct {
		config, want string // want: name and plugins
	}{
		"list":       {`{"name":"n","plugins":[{"type":"a"},{"type":"b"}]}`, `n {"type":"a"} {"type":"b"}`},
		"plugin":     {`{"name":"n","type":"a"}`, `n {"name":"n","type":"a"}`},
		"empty list": {`{"name":"n","plugins":[]}`, `n {"name":"n","plugins":[]}`},
	} {
		t.Run(name, func(t *testing.T) {
			list, err := cniconf.Parse([]byte(c.config))
			got := list.Name
			for _, raw := range list.Plugins {
				got += " " + string(raw)
			}
			if err != nil || got != c.want {
				t.Errorf("got %s, %v; want %s", got, err, c.want)
			}
		})
	}
	if _, err := cniconf.Parse([]byte(`{`)); err == nil {
		t.Error("malformed JSON is accepted")
	}
}

func TestMarshalKeepsHTML(t *testing.T) {
	if got := string(cniconf.Marshal(cniconf.Typed{Type: "<&>"})); got != `{"type":"<&>"}` {
		t.Errorf("got %s", got)
	}
}

func TestWholeNumbers(t *testing.T) {
	for text, want := range map[string]int{`{}`: 7, `{"retries":3}`: 3, `{"retries":"3"}`: 3, `{"retries":0}`: 0, `{"retries":null}`: 7} {
		var detect cniconf.Detect
		if err := json.Unmarshal([]byte(text), &detect); err != nil {
			t.Fatal(err)
		}
		if got, err := cniconf.Whole(detect.Retries, 7); err != nil || got != want {
			t.Errorf("%s: got %d, %v; want %d", text, got, err, want)
		}
	}
	for _, bad := range []json.Number{"-1", "1.5", "1e3", "many"} {
		if _, err := cniconf.Whole(bad, 7); err == nil || !strings.Contains(err.Error(), string(bad)) {
			t.Errorf("%s: got %v", bad, err)
		}
	}
}
