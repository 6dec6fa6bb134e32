package agent

import (
	"context"
	"errors"
	"strings"
	"testing"
)

func TestOldDefinitionsKeepAgentUnready(t *testing.T) {
	old := errors.New("SpiderIPBlock lacks spec.former")
	answer := old
	a := &agent{options: options{definitions: func(context.Context) error { return answer }}}
	const reason = "has not compared the custom resource definitions"
	if err := a.ready(); err == nil || !strings.Contains(err.Error(), reason) {
		t.Errorf("before the comparison: %v", err)
	}
	if err := a.checkDefinitions(t.Context()); !errors.Is(err, old) {
		t.Errorf("error %v, want %v", err, old)
	}
	if err := a.ready(); err == nil || !strings.Contains(err.Error(), reason) {
		t.Errorf("with old definitions: %v", err)
	}
	answer = nil
	if err := a.checkDefinitions(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := a.ready(); err == nil || strings.Contains(err.Error(), reason) {
		t.Errorf("with the right definitions: %v", err)
	}
}
