package status

import (
	"cmp"
	"context"

	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/internal/observe"
)

// RecordOnce is Record, unless the API server has the event already, e.g. from an earlier process. It keeps events for an
// hour. live must not have a cache.
func (r Recorder) RecordOnce(ctx context.Context, live client.Reader, about client.Object, e observe.Event) {
	var list eventsv1.EventList
	// The API server writes events about objects without a namespace into the default one.
	err := live.List(ctx, &list, client.InNamespace(cmp.Or(about.GetNamespace(), metav1.NamespaceDefault)),
		client.MatchingFields{"regarding.uid": string(about.GetUID()), "reason": e.Reason})
	for i := range list.Items {
		if err == nil && list.Items[i].Note == e.Text {
			return
		}
	}
	r.Record(about, nil, e) // also without the answer
}
