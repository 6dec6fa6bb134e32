// Package cloudnews notices that the cloud has changed the addresses of the node's network
// interfaces.
//
// It asks the instance metadata service of Amazon EC2 every few seconds. That takes no call
// of the EC2 API, which counts calls for the whole account. The news is a hint, never a
// proof: the controller asks the EC2 API before it changes a pool. A change while no agent
// runs makes no news; the controller notices it when it asks about all nodes.
package cloudnews

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/sets"
)

const (
	// Interval is the time between two questions.
	Interval = 5 * time.Second
	// maxPause is the time between two questions to a service that does not answer.
	maxPause = 5 * time.Minute
)

// Watcher asks the metadata service. Set all fields, then call Run.
type Watcher struct {
	// URL is that of the service; see URL.
	URL string
	// Interval is the time between two questions; see Interval.
	Interval time.Duration
	// Tell gets each change, e.g. "the cloud has assigned 172.31.32.32/28 to the network
	// interface 0a:5c:ac:1f:20:12".
	Tell func(text string)
	Log  *slog.Logger
}

// Run asks until ctx ends. Failed questions are asked less and less often: nodes of other
// clouds have no such service.
func (w *Watcher) Run(ctx context.Context) {
	service := newService(w.URL)
	var before map[string][]string
	pause := w.Interval
	for {
		now, err := service.assigned(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			w.Log.Debug("the instance metadata service does not answer; the controller notices changes of addresses later", "err", err)
			pause = min(2*pause, maxPause)
		default:
			if before != nil {
				if text := difference(before, now); text != "" {
					w.Tell(text)
				}
			}
			before, pause = now, w.Interval
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// difference describes the changes of the addresses by MAC address, "" for none.
func difference(before, now map[string][]string) string {
	macs := maps.Clone(before)
	maps.Copy(macs, now)
	var changes []string
	for _, mac := range slices.Sorted(maps.Keys(macs)) {
		if added := without(now[mac], before[mac]); len(added) > 0 {
			changes = append(changes, fmt.Sprintf("assigned %s to the network interface %s", strings.Join(added, ", "), mac))
		}
		if removed := without(before[mac], now[mac]); len(removed) > 0 {
			changes = append(changes, fmt.Sprintf("taken %s from the network interface %s", strings.Join(removed, ", "), mac))
		}
	}
	if len(changes) == 0 {
		return ""
	}
	return "the cloud has " + strings.Join(changes, ", and ")
}

// without returns the texts that are not among others, sorted.
func without(texts, others []string) []string {
	return sets.List(sets.New(texts...).Difference(sets.New(others...)))
}
