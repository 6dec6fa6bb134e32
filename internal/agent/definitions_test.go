package agent

import (
	"context"
	"errors"
	"strings"
	"testing"
)

// comparison is an API server, for definitions.
type comparison struct {
	versions string
	away     int   // number of requests that fail
	old      error // result of the comparison
	count    int
}

func retry(ctx context.Context, _ string, f func(context.Context) error) {
	for f(ctx) != nil && ctx.Err() == nil {
	}
}

func (c *comparison) agent(t *testing.T, dir, fields string) *definitions {
	t.Helper()
	d := newDefinitions(definitionsOptions{
		compare: func(context.Context) error { c.count++; return c.old },
		versions: func(context.Context) (string, error) {
			if c.away--; c.away >= 0 {
				return "", errors.New("connection refused")
			}
			return c.versions, nil
		},
		fields: fields,
	}, dir)
	if err := d.ready(); err == nil || !strings.Contains(err.Error(), "has not compared the custom resource definitions") {
		t.Errorf("ready before the comparison: %v", err)
	}
	return d
}

func TestOldDefinitionsKeepAgentUnready(t *testing.T) {
	c := &comparison{versions: "7", old: errors.New("SpiderIPBlock lacks spec.former")}
	dir := t.TempDir()
	for range 2 { // a failure is not remembered
		d := c.agent(t, dir, "a")
		if err := d.run(t.Context(), retry); !errors.Is(err, c.old) || d.ready() == nil {
			t.Errorf("error %v, want %v; ready: %v", err, c.old, d.ready())
		}
	}
	c.old = nil
	if d := c.agent(t, dir, "a"); d.run(t.Context(), retry) != nil || d.ready() != nil {
		t.Errorf("with the right definitions: %v", d.ready())
	}
}

func TestKnownDefinitionsAreComparedOnce(t *testing.T) {
	dir := t.TempDir()
	for _, step := range []struct {
		name, versions, fields string
		compared               bool
	}{
		{"first agent", "7 8", "a", true},
		{"after a restart", "7 8", "a", false},
		{"of another release", "7 8", "b", true},
		{"with changed definitions", "7 9", "b", true},
		{"after a restart", "7 9", "b", false},
		{"without permission", "", "b", true},
		{"without permission, again", "", "b", true},
		{"with permission", "7 9", "b", false},
	} {
		c := &comparison{versions: step.versions, away: 2}
		d := c.agent(t, dir, step.fields)
		if err := d.run(t.Context(), retry); err != nil || d.ready() != nil {
			t.Errorf("%s: %v, ready: %v", step.name, err, d.ready())
		}
		if c.count > 0 != step.compared {
			t.Errorf("%s: compared %d times, want a comparison: %t", step.name, c.count, step.compared)
		}
	}
}

func TestAgentWithoutComparisonTrustsServer(t *testing.T) {
	d := newDefinitions(definitionsOptions{}, t.TempDir())
	if err := d.run(t.Context(), retry); err != nil || d.ready() != nil {
		t.Errorf("%v, ready: %v", err, d.ready())
	}
}
