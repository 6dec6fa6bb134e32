package view

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/version"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/config"
)

// Installation are the objects that tell the health of an installation. A nil pointer means that there is no such object.
type Installation struct {
	// Release is that of the program that asks.
	Release   string
	Namespace string
	// Config is the configuration of the cluster, or the default one. HasConfig is whether the cluster has a ConfigMap, and
	// ConfigFault why this program cannot read it.
	Config      *config.File
	HasConfig   bool
	ConfigFault string

	// Definitions are the custom resource definitions of this release.
	Definitions []Definition

	Controller *appsv1.Deployment
	Leader     *coordinationv1.Lease
	Agents     *appsv1.DaemonSet
	Console    *appsv1.Deployment // read if Config enables the console
	// Pods are those of Controller, Agents and Console.
	Pods  []*corev1.Pod
	Nodes []*corev1.Node

	Mutating   *admissionv1.MutatingWebhookConfiguration
	Validating *admissionv1.ValidatingWebhookConfiguration
	// WebhookSlices are the EndpointSlices of the Service of the webhooks.
	WebhookSlices []discoveryv1.EndpointSlice

	Coordinator *v2beta1.SpiderCoordinator
	Multus      Multus
	// Attachments are all SpiderMultusConfigs.
	Attachments []*v2beta1.SpiderMultusConfig
	// Clouds are all SpiderCloudNetworks.
	Clouds []v2beta1.SpiderCloudNetwork
	// Events are the warnings of agents about nodes and pods.
	Events []corev1.Event
}

// Definition is a custom resource definition in the cluster.
type Definition struct {
	Name string
	// Exists is whether the cluster has the definition, and Served whether the API server serves its kind.
	Exists, Served bool
	// Stamp is the release of the definition, e.g. "v0.1.0"; "" if it has no stamp.
	Stamp string
}

// Multus are the objects of Multus.
type Multus struct {
	// Served is whether the API server serves NetworkAttachmentDefinitions.
	Served bool
	// DaemonSets are those of all namespaces.
	DaemonSets []appsv1.DaemonSet
}

// Health checks an installation at the time now.
func (i *Installation) Health(now time.Time) Report {
	r := Report{Release: i.Release}
	switch {
	case !i.HasConfig:
		r.fail("configuration", fmt.Sprintf("there is no ConfigMap %s/spiderpool-conf: Spiderpool is not installed in this namespace", i.Namespace),
			"name its namespace with --system-namespace, or install it with helm install; spiderpoolctl preflight checks the cluster before")
	case i.ConfigFault != "":
		r.warn("configuration", "this program assumes the default one, because it cannot read that of the cluster: "+i.ConfigFault, "use the spiderpoolctl of the cluster's release")
	}
	i.definitions(&r)
	i.controller(&r)
	i.leader(&r, now)
	i.agents(&r)
	i.webhooks(&r)
	i.coordinator(&r)
	i.Multus.check(&r)
	i.attachments(&r)
	i.clouds(&r)
	i.console(&r)
	i.events(&r, now)
	return r
}

// upgrade is the way out for missing parts of an installation.
const upgrade = "helm upgrade --reset-then-reuse-values with the chart of this release creates it again"

// runs returns the release of the controller in the cluster, "" if it is unknown.
func (i *Installation) runs() string {
	if i.Controller == nil || i.Controller.Labels["app.kubernetes.io/version"] == "" {
		return ""
	}
	return "v" + strings.TrimPrefix(i.Controller.Labels["app.kubernetes.io/version"], "v")
}

func (i *Installation) definitions(r *Report) {
	const subject = "definitions"
	var missing, unserved, unstamped, older, later []string
	ours, _ := version.ParseSemantic(cmp.Or(i.runs(), i.Release))
	for _, d := range i.Definitions {
		d.Name, _, _ = strings.Cut(d.Name, ".")
		stamp, err := version.ParseSemantic(d.Stamp)
		switch {
		case !d.Exists:
			missing = append(missing, d.Name)
		case !d.Served:
			unserved = append(unserved, d.Name)
		case err != nil:
			unstamped = append(unstamped, d.Name)
		case ours != nil && stamp.LessThan(ours):
			older = append(older, d.Name+" ("+d.Stamp+")")
		case ours != nil && ours.LessThan(stamp):
			later = append(later, d.Name+" ("+d.Stamp+")")
		}
	}
	write := fmt.Sprintf("the hook of the chart writes them: helm upgrade --reset-then-reuse-values; if it fails, kubectl -n %s logs job/spiderpool-init-definitions tells why", i.Namespace)
	if len(missing) > 0 {
		r.fail(subject, "the cluster lacks "+some(missing), write)
	}
	if len(unserved) > 0 {
		r.fail(subject, "the API server does not serve v2beta1 of "+some(unserved), "kubectl describe crd NAME.spiderpool.spidernet.io has the reason in its conditions")
	}
	if len(older) > 0 {
		r.fail(subject, fmt.Sprintf("of an earlier release than the controller (%s), so the API server drops new fields: %s", cmp.Or(i.runs(), i.Release), some(older)), write)
	}
	if len(unstamped) > 0 {
		r.warn(subject, "without the release in the annotation ipam.spidernet.io/release, so their fields are unknown: "+some(unstamped), write)
	}
	if len(later) > 0 {
		r.ok(subject, "of a later release, which has all fields: %s", some(later))
	}
	if len(missing)+len(unserved)+len(older)+len(unstamped)+len(later) == 0 {
		r.ok(subject, "all %d are served, as of %s", len(i.Definitions), cmp.Or(i.runs(), i.Release))
	}
}

func (i *Installation) controller(r *Report) {
	const subject = "controller"
	name := i.Config.ControllerProcess.Webhook.ServiceName
	if i.Controller == nil {
		r.fail(subject, fmt.Sprintf("there is no Deployment %s/%s", i.Namespace, name), upgrade)
		return
	}
	i.replicas(r, subject, i.Controller, 2, ", release "+cmp.Or(i.runs(), "unknown"))
	if runs := i.runs(); runs != "" && runs != i.Release {
		r.warn("spiderpoolctl", fmt.Sprintf("this program is %s, the installation %s", i.Release, runs), "use the same release; its findings may be wrong otherwise")
	}
}

// console adds the findings about the web page, if the chart installs it.
func (i *Installation) console(r *Report) {
	const subject = "console"
	c := i.Config.ConsoleProcess
	switch {
	case !c.Enabled:
	case i.Console == nil:
		r.fail(subject, fmt.Sprintf("there is no Deployment %s/%s", i.Namespace, c.TLS.ServiceName), upgrade)
	default:
		i.replicas(r, subject, i.Console, 1, "")
	}
}

// replicas adds the finding about the replicas of a Deployment. usual is their number for a Deployment with none, and more
// follows the number of ready ones.
func (i *Installation) replicas(r *Report, subject string, d *appsv1.Deployment, usual int, more string) {
	want, ready := int32(1), d.Status.ReadyReplicas
	if d.Spec.Replicas != nil {
		want = *d.Spec.Replicas
	}
	reason, remedy := i.whyNot(i.podsOf(d.Spec.Selector.MatchLabels))
	if reason == "" {
		remedy = fmt.Sprintf("kubectl -n %s describe deployment %s", i.Namespace, d.Name)
	}
	switch {
	case want == 0:
		r.fail(subject, "the Deployment has 0 replicas", fmt.Sprintf("kubectl -n %s scale deployment/%s --replicas=%d", i.Namespace, d.Name, usual))
	case ready == 0:
		r.fail(subject, fmt.Sprintf("none of %s is ready%s", plural(int(want), "replica"), reason), remedy)
	case ready < want:
		r.warn(subject, fmt.Sprintf("%d of %d replicas are ready%s", ready, want, reason), remedy)
	default:
		r.ok(subject, "%s ready%s", plural(int(ready), "replica"), more)
	}
}

// podsOf returns the pods with these labels.
func (i *Installation) podsOf(labels map[string]string) (pods []*corev1.Pod) {
	for _, pod := range i.Pods {
		if hasLabels(pod, labels) {
			pods = append(pods, pod)
		}
	}
	return pods
}

func hasLabels(pod *corev1.Pod, labels map[string]string) bool {
	for key, value := range labels {
		if pod.Labels[key] != value {
			return false
		}
	}
	return true
}

// whyNot returns the reason of the first pod that is not ready, e.g. ": pod web-0: ImagePullBackOff", and the way out.
func (i *Installation) whyNot(pods []*corev1.Pod) (reason, remedy string) {
	for _, pod := range pods {
		if reason := notReady(pod); reason != "" {
			return fmt.Sprintf(": pod %s: %s", pod.Name, reason), inspect(pod)
		}
	}
	return "", ""
}

// inspect returns the commands that tell why a pod is not ready.
func inspect(pod *corev1.Pod) string {
	return fmt.Sprintf("kubectl -n %[1]s describe pod %[2]s; kubectl -n %[1]s logs %[2]s --all-containers", pod.Namespace, pod.Name)
}

// notReady returns why a pod is not ready, "" if it is.
func notReady(pod *corev1.Pod) string {
	reason := ""
	for _, c := range pod.Status.Conditions {
		switch {
		case c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue:
			return ""
		case c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse:
			reason = "on no node: " + c.Message
		}
	}
	for _, c := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		switch {
		case c.State.Waiting != nil && c.State.Waiting.Reason != "" && c.State.Waiting.Reason != "PodInitializing":
			return c.State.Waiting.Reason
		case c.State.Terminated != nil && c.State.Terminated.ExitCode != 0:
			return fmt.Sprintf("container %s ended with code %d", c.Name, c.State.Terminated.ExitCode)
		}
	}
	return cmp.Or(reason, "its readiness probe fails")
}

// leaseSlack is the permitted age of a lease beyond its duration: the clock of the user may differ.
const leaseSlack = 30 * time.Second

func (i *Installation) leader(r *Report, now time.Time) {
	const subject = "leader"
	name := i.Config.ControllerProcess.LeaderElection.LeaseName
	remedy := fmt.Sprintf("kubectl -n %s logs deployment/%s names the reason; without a leader, no status is written and nothing is reclaimed", i.Namespace, i.Config.ControllerProcess.Webhook.ServiceName)
	if i.Leader == nil || i.Leader.Spec.HolderIdentity == nil || *i.Leader.Spec.HolderIdentity == "" || i.Leader.Spec.RenewTime == nil {
		r.fail(subject, fmt.Sprintf("no replica holds the Lease %s/%s", i.Namespace, name), remedy)
		return
	}
	holder, _, _ := strings.Cut(*i.Leader.Spec.HolderIdentity, "_")
	limit := leaseSlack
	if i.Leader.Spec.LeaseDurationSeconds != nil {
		limit += time.Duration(*i.Leader.Spec.LeaseDurationSeconds) * time.Second
	}
	if age := now.Sub(i.Leader.Spec.RenewTime.Time); age > limit {
		r.fail(subject, fmt.Sprintf("%s renewed the Lease %s/%s %s ago", holder, i.Namespace, name, age.Round(time.Second)), remedy)
		return
	}
	r.ok(subject, "%s", holder)
}
