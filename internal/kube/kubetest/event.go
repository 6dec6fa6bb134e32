package kubetest

import (
	"context"
	"fmt"
	"strings"
	"testing"

	eventsv1 "k8s.io/api/events/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Event waits for an event about the object with the reason and with part in its
// note.
func Event(tb testing.TB, c client.Client, about client.Object, reason, part string) {
	tb.Helper()
	Eventually(tb, func(ctx context.Context) error {
		var list eventsv1.EventList
		if err := c.List(ctx, &list); err != nil {
			return err
		}
		var others []string
		for _, e := range list.Items {
			if e.Regarding.UID != about.GetUID() {
				continue
			}
			if e.Reason == reason && strings.Contains(e.Note, part) {
				return nil
			}
			others = append(others, e.Reason+": "+e.Note)
		}
		return fmt.Errorf("no event %s with %q is about %s, but these are: %q", reason, part, about.GetName(), others)
	})
}
