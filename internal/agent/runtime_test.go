package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spiderpool.dev/spiderpool/internal/wire"
)

func TestSilentRuntimeIsReportedOnce(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	var events []string
	h := &runtimeHealth{now: func() time.Time { return now }, log: slog.New(slog.DiscardHandler),
		warn: func(fault string) {
			events = append(events, fmt.Sprintf("%s: %s", now.Sub(time.Unix(1_800_000_000, 0)), fault))
		}}
	silent := errors.New("no such socket")
	for _, step := range []struct {
		after time.Duration
		fault error
	}{
		{0, nil},
		{time.Minute, silent}, {20 * time.Second, nil}, // a short restart
		{time.Minute, silent}, {30 * time.Second, silent}, {time.Minute, silent},
		{30 * time.Minute, silent},
		{time.Minute, nil},
		{time.Minute, silent}, {time.Minute, silent},
	} {
		now = now.Add(step.after)
		h.observe("/run/a.sock", step.fault)
		if h.answers() != (step.fault == nil) {
			t.Errorf("after %v, answers is %t", step.fault, h.answers())
		}
	}
	want := []string{"2m50s: no such socket", "33m50s: no such socket", "36m50s: no such socket"}
	if diff := cmp.Diff(want, events); diff != "" {
		t.Errorf("events: want (-), got (+)\n%s", diff)
	}
}

func TestReplyHasSocketOrFault(t *testing.T) {
	h := &runtimeHealth{now: time.Now, log: slog.New(slog.DiscardHandler), warn: func(string) {}}
	for _, tc := range []struct {
		fault error
		want  wire.RuntimeReply
	}{
		{nil, wire.RuntimeReply{Socket: "/run/a.sock"}},
		{errors.New("silent"), wire.RuntimeReply{Fault: "silent"}},
	} {
		h.observe("/run/a.sock", tc.fault)
		if got := h.reply(); got != tc.want {
			t.Errorf("got %+v, want %+v", got, tc.want)
		}
	}
}
