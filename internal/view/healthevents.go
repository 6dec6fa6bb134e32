package view

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/observe"
)

// eventCheck judges one kind of warning of the agents. No object has the state of an agent's work: the events are the only
// record in the API. They live for an hour, and nothing tells their end, so they are no failures.
type eventCheck struct {
	subject string
	kind    observe.Kind
	// within is the age of a current event. An agent repeats RuntimeUnavailable every 30 minutes.
	within time.Duration
	quiet  string // finding without events
}

var nodeEventChecks = []eventCheck{
	{"runtime", observe.RuntimeUnavailable("").Kind, 35 * time.Minute, "no agent reports a silent container runtime"},
	{"node", observe.NodeNotPrepared("").Kind, time.Hour, "no agent reports an unprepared node"},
	{"node", observe.NetworkNotTrusted("").Kind, time.Hour, ""},
}

var (
	serviceEventCheck = eventCheck{"services", observe.ServicesLeftToKubeProxy("").Kind, time.Hour, "no agent reports services that it left to kube-proxy"}
	policyEventCheck  = eventCheck{"policies", observe.PolicyNotEnforced("").Kind, time.Hour, "no agent reports a pod whose policies are not in effect"}
)

// EventReasons are the reasons of the events for Installation.Events and NodeQuestion.Events.
func EventReasons() (reasons []string) {
	for _, check := range slices.Concat(nodeEventChecks, []eventCheck{serviceEventCheck, policyEventCheck}) {
		reasons = append(reasons, check.kind.Reason)
	}
	return reasons
}

func (i *Installation) events(r *Report, now time.Time) {
	for _, check := range nodeEventChecks {
		check.judge(r, i.Events, now)
	}
	if i.Config.Service.Mode == config.ServiceKubeProxy {
		r.ok("services", "kube-proxy translates them (Helm value service.mode)")
	} else {
		serviceEventCheck.judge(r, i.Events, now)
	}
	if i.Config.Policy.Enabled {
		policyEventCheck.judge(r, i.Events, now)
	} else {
		r.ok("policies", "not enforced (Helm value policy.enabled)")
	}
}

func (c eventCheck) judge(r *Report, events []corev1.Event, now time.Time) {
	current := c.current(events, now)
	for _, event := range current[:min(len(current), maxNamed)] {
		about := event.InvolvedObject
		r.warn(c.subject, fmt.Sprintf("%s, %s ago: %s", objectName(about), duration.HumanDuration(max(0, now.Sub(TimeOf(event)))), oneSentence(event.Message)), describeObject(about)+" has the event "+event.Reason)
	}
	if more := len(current) - maxNamed; more > 0 {
		r.warn(c.subject, fmt.Sprintf("%d more events %s", more, c.kind.Reason), "kubectl get events -A --field-selector reason="+c.kind.Reason)
	}
	if len(current) == 0 && c.quiet != "" {
		r.ok(c.subject, "%s", c.quiet)
	}
}

// current returns the newest event about each object, the newest first.
func (c eventCheck) current(events []corev1.Event, now time.Time) []corev1.Event {
	newest := map[corev1.ObjectReference]corev1.Event{}
	for _, event := range events {
		about := corev1.ObjectReference{Kind: event.InvolvedObject.Kind, Namespace: event.InvolvedObject.Namespace, Name: event.InvolvedObject.Name}
		if event.Reason != c.kind.Reason || now.Sub(TimeOf(event)) > c.within {
			continue
		}
		if former, ok := newest[about]; !ok || TimeOf(event).After(TimeOf(former)) {
			newest[about] = event
		}
	}
	var all []corev1.Event
	for _, event := range newest {
		all = append(all, event)
	}
	slices.SortFunc(all, func(a, b corev1.Event) int {
		return cmp.Or(TimeOf(b).Compare(TimeOf(a)), cmp.Compare(a.InvolvedObject.Namespace, b.InvolvedObject.Namespace), cmp.Compare(a.InvolvedObject.Name, b.InvolvedObject.Name))
	})
	return all
}

// TimeOf returns the time of the latest occurrence.
func TimeOf(event corev1.Event) time.Time {
	latest := event.LastTimestamp.Time
	if event.EventTime.After(latest) {
		latest = event.EventTime.Time
	}
	if event.Series != nil && event.Series.LastObservedTime.After(latest) {
		latest = event.Series.LastObservedTime.Time
	}
	if latest.IsZero() {
		latest = event.CreationTimestamp.Time
	}
	return latest
}

// objectName returns e.g. "node n1" or "pod shop/web-0".
func objectName(about corev1.ObjectReference) string {
	name := about.Name
	if about.Kind != "Node" {
		name = about.Namespace + "/" + name
	}
	return strings.ToLower(about.Kind) + " " + name
}

func describeObject(about corev1.ObjectReference) string {
	kind := strings.ToLower(about.Kind)
	if about.Kind == "Node" {
		return "kubectl describe " + kind + " " + about.Name
	}
	return fmt.Sprintf("kubectl -n %s describe %s %s", about.Namespace, kind, about.Name)
}
