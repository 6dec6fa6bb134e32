package observe

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"spiderpool.dev/spiderpool/internal/flow"
)

// flowEnd is one end of a flow with its address.
type flowEnd struct {
	*flow.End
	addr string
}

func endOf(f *flow.Flow, source bool) flowEnd {
	end, addr := f.Target, f.Destination.Addr()
	if source {
		end, addr = f.Opener, f.Source.Addr()
	}
	if end == nil {
		end = &flow.End{}
	}
	return flowEnd{end, addr.String()}
}

// contexts are the ways to name an end, as in Hubble. An end without such a name has the value "".
var contexts = map[string]func(flowEnd) string{
	"namespace":         func(e flowEnd) string { return e.Pod.Namespace },
	"pod":               func(e flowEnd) string { return e.Pod.String() },
	"pod-name":          func(e flowEnd) string { return e.Pod.Name },
	"workload":          func(e flowEnd) string { return inNamespace(e, e.Workload.Name) },
	"workload-name":     func(e flowEnd) string { return e.Workload.Name },
	"app":               app,
	"ip":                func(e flowEnd) string { return e.addr },
	"identity":          identityOf,
	"reserved-identity": reserved,
}

func inNamespace(e flowEnd, name string) string {
	if name == "" {
		return ""
	}
	return e.Pod.Namespace + "/" + name
}

func app(e flowEnd) string {
	return cmp.Or(e.Labels["app.kubernetes.io/name"], e.Labels["k8s-app"], e.Labels["app"])
}

func reserved(e flowEnd) string {
	if e.IsPod() {
		return ""
	}
	return identityOf(e)
}

// identityOf returns all labels, e.g. "k8s:app=web,k8s:io.kubernetes.pod.namespace=shop".
func identityOf(e flowEnd) string { return strings.Join(e.HubbleLabels(), ",") }

// contextOf returns the value of the first of several contexts that has one, e.g. "pod|ip".
func contextOf(text string, source bool) (func(*flow.Flow) string, error) {
	var chosen []func(flowEnd) string
	for _, name := range strings.Split(text, "|") {
		of, ok := contexts[name]
		if !ok {
			return nil, fmt.Errorf("context %q: write one of %s", name, strings.Join(slices.Sorted(maps.Keys(contexts)), ", "))
		}
		chosen = append(chosen, of)
	}
	return func(f *flow.Flow) string {
		end := endOf(f, source)
		for _, of := range chosen {
			if value := of(end); value != "" {
				return value
			}
		}
		return ""
	}, nil
}

// ofEnd are the parts of the labels of labelsContext after source_ or destination_.
var ofEnd = map[string]func(flowEnd) string{
	"ip":            contexts["ip"],
	"pod":           contexts["pod-name"],
	"namespace":     contexts["namespace"],
	"workload":      contexts["workload-name"],
	"workload_kind": func(e flowEnd) string { return e.Workload.Kind },
	"app":           app,
}

// labelOf returns the value of a label of labelsContext, e.g. source_app.
func labelOf(label string) (func(*flow.Flow) string, error) {
	if label == "traffic_direction" {
		return func(f *flow.Flow) string { return f.Direction.String() }, nil
	}
	where, what, _ := strings.Cut(label, "_")
	of, ok := ofEnd[what]
	if !ok || where != "source" && where != "destination" {
		return nil, fmt.Errorf("label %q: write traffic_direction, or source_ or destination_ with one of %s", label, strings.Join(slices.Sorted(maps.Keys(ofEnd)), ", "))
	}
	return func(f *flow.Flow) string { return of(endOf(f, where == "source")) }, nil
}
