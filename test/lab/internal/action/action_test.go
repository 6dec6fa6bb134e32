package action

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestDoStopsAtErrorsUndoContinues(t *testing.T) {
	var log []string
	step := func(name string, fails bool) Action {
		record := func(what string) func(context.Context) error {
			return func(context.Context) error {
				log = append(log, what+" "+name)
				if fails {
					return errors.New("broken")
				}
				return nil
			}
		}
		return Action{Name: name, Do: record("do"), Undo: record("undo")}
	}
	actions := []Action{step("a", false), step("b", true), step("c", false)}
	if err := Do(t.Context(), actions); err == nil || err.Error() != "b: broken" {
		t.Errorf("got %v", err)
	}
	if err := Undo(t.Context(), actions); err == nil || !strings.Contains(err.Error(), "b: undo: broken") {
		t.Errorf("got %v", err)
	}
	if want := []string{"do a", "do b", "undo c", "undo b", "undo a"}; !slices.Equal(log, want) {
		t.Errorf("ran %q, want %q", log, want)
	}
}

func TestDoEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := Do(ctx, []Action{{Name: "a", Do: func(context.Context) error { t.Error("ran"); return nil }}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
