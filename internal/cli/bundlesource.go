package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/kube/definitions"
	"spiderpool.dev/spiderpool/internal/view"
)

// Limits of a bundle.
const (
	maxListBytes = 64 << 20 // of a kind of objects
	maxLogBytes  = 1 << 20  // of a container
	maxLogLines  = 5000
	bundlePage   = 500 // objects in one response
	maxAnswer    = 500 // bytes of an error of a program
)

// source is one file of the bundle.
type source struct {
	file, from string
	json       bool
	read       func(ctx context.Context) (text []byte, more bool, err error)
}

// reason returns an error in one line, with the way out.
func reason(err error) string {
	switch {
	case agentclient.IsMissingKind(err):
		return "this kind is not installed"
	case apierrors.IsNotFound(err):
		return "there is none"
	case apierrors.IsForbidden(err):
		return "you may not read it: " + oneLine(err)
	}
	var status apierrors.APIStatus
	if errors.As(err, &status) && status.Status().Details != nil {
		for _, cause := range status.Status().Details.Causes {
			if cause.Type == metav1.CauseTypeUnexpectedServerResponse { // e.g. the reasons of a program that is not ready
				return oneLine(err) + ": " + new(redactor).text(strings.Join(strings.Fields(bounded(cause.Message)), " "))
			}
		}
	}
	return oneLine(err)
}

// bounded cuts an answer of another program.
func bounded(text string) string { return text[:min(len(text), maxAnswer)] }

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// sources lists all files. The error is that of an API server that does not answer.
func (b *bundle) sources(ctx context.Context, o *bundleOptions) ([]source, error) {
	if _, _, err := b.Fetch(ctx, "/version", maxLogBytes); err != nil {
		return nil, err
	}
	all := []source{b.object("versions/kubernetes.json", "/version")}
	ours, err := definitions.All()
	if err != nil {
		return nil, err
	}
	for _, definition := range ours {
		kind, _, _ := strings.Cut(definition.GetName(), ".")
		all = append(all, b.list("objects/"+kind+".json", "/apis/"+v2beta1.GroupVersion.String()+"/"+kind),
			b.object("definitions/"+kind+".json", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/"+definition.GetName()))
	}
	all = append(all,
		b.list("objects/network-attachment-definitions.json", "/apis/k8s.cni.cncf.io/v1/network-attachment-definitions"),
		b.list("objects/nodes.json", "/api/v1/nodes"),
		b.object("installation/configuration.json", "/api/v1/namespaces/"+b.system+"/configmaps/"+configMap))
	for _, path := range []string{
		"/apis/apps/v1/namespaces/%s/deployments", "/apis/apps/v1/namespaces/%s/daemonsets", "/api/v1/namespaces/%s/pods", "/api/v1/namespaces/%s/services",
		"/apis/coordination.k8s.io/v1/namespaces/%s/leases",
	} {
		path = fmt.Sprintf(path, b.system)
		query := []string{"labelSelector", ourPods}
		if strings.HasSuffix(path, "/leases") {
			query = []string{"fieldSelector", "metadata.name=spiderpool-controller"}
		}
		all = append(all, b.list("installation/"+path[strings.LastIndex(path, "/")+1:]+".json", path, query...))
	}
	for _, kind := range []string{"mutatingwebhookconfigurations", "validatingwebhookconfigurations", "validatingadmissionpolicies"} {
		all = append(all, b.list("installation/"+kind+".json", "/apis/admissionregistration.k8s.io/v1/"+kind, "labelSelector", ourPods))
	}
	for _, program := range []string{"agent", "controller"} {
		all = append(all, b.list("events/of-"+program+".json", "/api/v1/events", "fieldSelector", "reportingComponent=spiderpool-"+program))
	}
	all = append(all, b.events(), source{"findings/check.json", "spiderpoolctl check", true, func(ctx context.Context) ([]byte, bool, error) {
		found, err := (&checkOptions{viewOptions: o.viewOptions}).look(ctx, b.reader)
		return marshal(found, err)
	}})
	return append(all, b.programs(ctx, o.logs)...), nil
}

// ourPods selects the objects of the chart.
const ourPods = "app.kubernetes.io/name=spiderpool"

func marshal(found []view.Discrepancy, err error) ([]byte, bool, error) {
	if err != nil {
		return nil, false, err
	}
	text, err := json.Marshal(found)
	return text, false, err
}

func (b *bundle) object(file, path string) source {
	return source{file, path, true, func(ctx context.Context) ([]byte, bool, error) { return b.Fetch(ctx, path, maxListBytes) }}
}

// list reads a list page by page, up to maxListBytes.
func (b *bundle) list(file, path string, query ...string) source {
	from := path
	for i := 1; i < len(query); i += 2 {
		from += "?" + query[i-1] + "=" + query[i]
	}
	return source{file, from, true, func(ctx context.Context) ([]byte, bool, error) {
		items, size, next := []json.RawMessage{}, 0, ""
		for {
			text, more, err := b.Fetch(ctx, path, maxListBytes, append([]string{"limit", fmt.Sprint(bundlePage), "continue", next}, query...)...)
			var page struct {
				Metadata metav1.ListMeta   `json:"metadata"`
				Items    []json.RawMessage `json:"items"`
			}
			if err == nil && !more {
				err = json.Unmarshal(text, &page)
			}
			if err != nil {
				return nil, false, err
			}
			items = append(items, page.Items...)
			size += len(text)
			if next = page.Metadata.Continue; next == "" || more || size >= maxListBytes {
				out, err := json.Marshal(items)
				return out, more || next != "", err
			}
		}
	}}
}

// events are those about our own workloads.
func (b *bundle) events() source {
	all := b.list("events/of-installation.json", "/api/v1/namespaces/"+b.system+"/events")
	read := all.read
	all.read = func(ctx context.Context) ([]byte, bool, error) {
		text, more, err := read(ctx)
		var items []json.RawMessage
		if err == nil {
			err = json.Unmarshal(text, &items)
		}
		items = slices.DeleteFunc(items, func(item json.RawMessage) bool {
			var event corev1.Event
			return json.Unmarshal(item, &event) != nil || !strings.HasPrefix(event.InvolvedObject.Name, "spiderpool")
		})
		if err != nil {
			return nil, false, err
		}
		text, err = json.Marshal(items)
		return text, more, err
	}
	return all
}

// programs are the logs, the readiness and the metrics of our pods, the controllers and the restarted pods first: at
// most limit pods.
func (b *bundle) programs(ctx context.Context, limit int) []source {
	var pods []*corev1.Pod
	err := b.EachPodOf(ctx, b.system, metav1.ListOptions{LabelSelector: ourPods}, func(pod *corev1.Pod) { pods = append(pods, pod) })
	if err != nil {
		b.leave("logs, readiness and metrics of Spiderpool", reason(err))
		return nil
	}
	slices.SortStableFunc(pods, func(a, c *corev1.Pod) int { return rank(a) - rank(c) })
	if len(pods) > limit {
		b.leave(fmt.Sprintf("logs, readiness and metrics of %d pods of Spiderpool", len(pods)-limit), fmt.Sprintf("--logs is %d", limit))
		pods = pods[:limit]
	}
	var all []source
	for _, pod := range pods {
		for _, container := range append(slices.Clone(pod.Status.InitContainerStatuses), pod.Status.ContainerStatuses...) {
			all = append(all, b.log(pod.Name, container.Name, false))
			if container.RestartCount > 0 {
				all = append(all, b.log(pod.Name, container.Name, true))
			}
		}
		for _, container := range pod.Spec.Containers {
			for _, port := range container.Ports {
				if path, ok := answers[port.Name]; ok {
					all = append(all, b.answer(pod.Name, port.ContainerPort, path))
				}
			}
		}
	}
	return all
}

// answers are the paths that our programs serve, by the name of the port.
var answers = map[string]string{"health": "readyz", "metrics": "metrics"}

// answer asks a program through the API server, e.g. for its metrics. A program that is not ready answers with an error, which
// ends up in the manifest.
func (b *bundle) answer(pod string, port int32, path string) source {
	at := fmt.Sprintf("/api/v1/namespaces/%s/pods/%s:%d/proxy/%s", b.system, url.PathEscape(pod), port, path)
	return source{"programs/" + pod + "/" + path + ".txt", at, false, func(ctx context.Context) ([]byte, bool, error) { return b.Fetch(ctx, at, maxLogBytes) }}
}

// rank sorts pods by their interest.
func rank(pod *corev1.Pod) int {
	restarts := slices.ContainsFunc(pod.Status.ContainerStatuses, func(c corev1.ContainerStatus) bool { return c.RestartCount > 0 || !c.Ready })
	switch {
	case pod.Labels["app.kubernetes.io/component"] == "controller":
		return 0
	case restarts:
		return 1
	}
	return 2
}

func (b *bundle) log(pod, container string, previous bool) source {
	path := fmt.Sprintf("/api/v1/namespaces/%s/pods/%s/log", b.system, url.PathEscape(pod))
	query := []string{"container", container, "timestamps", "true", "tailLines", fmt.Sprint(maxLogLines), "limitBytes", fmt.Sprint(maxLogBytes)}
	file := "logs/" + pod + "/" + container
	if previous {
		query, file = append(query, "previous", "true"), file+"-previous"
	}
	return source{file + ".log", path + "?" + "container=" + container, false, func(ctx context.Context) ([]byte, bool, error) {
		text, more, err := b.Fetch(ctx, path, maxLogBytes, query...)
		return text, more || len(text) == maxLogBytes, err
	}}
}
