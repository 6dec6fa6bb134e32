package cli

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"spiderpool.dev/spiderpool/internal/view"
)

func failing(finding string) view.Report {
	return view.Report{Checks: []view.Check{{Subject: "agents", Verdict: view.Failure, Finding: finding, Remedy: "wait"}, {Subject: "leader", Verdict: view.Warning}}}
}

func TestWaitEndsWithoutFailures(t *testing.T) {
	answers := []struct {
		report view.Report
		err    error
	}{
		{err: errors.New("connection refused")},
		{report: failing("1 of 3")}, {report: failing("1 of 3")}, {report: failing("2 of 3")},
		{report: view.Report{Checks: []view.Check{{Subject: "leader", Verdict: view.Warning}}}},
	}
	var said []string
	w := waiting{limit: time.Hour, interval: time.Microsecond, say: func(line string) { said = append(said, line) }}
	report, err := w.until(t.Context(), func(context.Context) (view.Report, error) {
		next := answers[0]
		answers = answers[1:]
		return next.report, next.err
	})
	if err != nil || len(report.Checks) != 1 {
		t.Errorf("got %+v, %v", report, err)
	}
	want := []string{"the API server: connection refused", "agents: 1 of 3", "agents: 2 of 3"}
	if !slices.EqualFunc(said, want, strings.HasSuffix) {
		t.Errorf("said %q, want the ends %q", said, want)
	}
}

func TestWaitEndsAtLimit(t *testing.T) {
	w := waiting{limit: time.Millisecond, interval: time.Microsecond, say: func(string) {}}
	report, err := w.until(t.Context(), func(context.Context) (view.Report, error) { return failing("1 of 3"), nil })
	if err != nil || !errors.Is(foundIn(report, err), errFound) {
		t.Errorf("got %+v, %v", report, err)
	}
	if _, err := w.until(t.Context(), func(context.Context) (view.Report, error) { return view.Report{}, errors.New("away") }); err == nil {
		t.Error("an API server that stays away is no error")
	}
}

func TestWaitStopsWithoutRights(t *testing.T) {
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "nodes"}, "", nil)
	w := waiting{limit: time.Hour, interval: time.Hour, say: func(line string) { t.Errorf("it waits: %s", line) }}
	if _, err := w.until(t.Context(), func(context.Context) (view.Report, error) { return view.Report{}, forbidden }); !apierrors.IsForbidden(err) {
		t.Errorf("got %v", err)
	}
}
