package view

import (
	"fmt"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/config"
)

func (i *Installation) agents(r *Report) {
	const subject = "agents"
	name := i.Config.AgentProcess.TLS.ServiceName
	if i.Agents == nil {
		r.fail(subject, fmt.Sprintf("there is no DaemonSet %s/%s", i.Namespace, name), upgrade)
		return
	}
	on := map[string]*corev1.Pod{} // by node
	for _, pod := range i.podsOf(i.Agents.Spec.Selector.MatchLabels) {
		if former := on[pod.Spec.NodeName]; former == nil || notReady(former) != "" {
			on[pod.Spec.NodeName] = pod
		}
	}
	faulty := 0
	fault := func(finding, remedy string) {
		if faulty++; faulty <= maxNamed {
			r.fail(subject, finding, remedy)
		}
	}
	var without []string
	ready := 0
	for _, node := range i.Nodes {
		pod := on[node.Name]
		switch {
		case pod == nil:
			without = append(without, node.Name)
		case notReady(pod) == "":
			ready++
		case !isReady(node):
			r.warn(subject, fmt.Sprintf("node %s is not Ready, nor is its agent", node.Name), "kubectl describe node "+node.Name)
		default:
			fault(fmt.Sprintf("node %s: the agent %s is not ready: %s; new pods wait there", node.Name, pod.Name, notReady(pod)),
				inspect(pod))
		}
	}
	if more := faulty - maxNamed; more > 0 {
		r.fail(subject, fmt.Sprintf("%d more nodes have an agent that is not ready", more), fmt.Sprintf("kubectl -n %s get pods -o wide", i.Namespace))
	}
	if len(without) > 0 && int32(len(i.Nodes)) > i.Agents.Status.DesiredNumberScheduled {
		r.warn(subject, fmt.Sprintf("%s without an agent, by the node selector or the tolerations of the DaemonSet: %s", plural(len(without), "node"), some(without)),
			"if pods with our addresses run there, change the Helm values spiderpoolAgent.nodeSelector and spiderpoolAgent.tolerations")
	} else if len(without) > 0 {
		r.fail(subject, fmt.Sprintf("%s without an agent yet: %s", plural(len(without), "node"), some(without)), fmt.Sprintf("kubectl -n %s describe daemonset %s", i.Namespace, name))
	}
	if old := i.Agents.Status.DesiredNumberScheduled - i.Agents.Status.UpdatedNumberScheduled; old > 0 {
		r.warn(subject, fmt.Sprintf("%s not updated yet", plural(int(old), "agent")), fmt.Sprintf("kubectl -n %s rollout status daemonset/%s", i.Namespace, name))
	}
	if len(i.Nodes) == 0 {
		r.warn(subject, "the cluster has no node", "join one")
	}
	if faulty == 0 && ready > 0 {
		r.ok(subject, "ready on %d of %s", ready, plural(len(i.Nodes), "node"))
	}
}

func isReady(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

func (i *Installation) webhooks(r *Report) {
	const subject = "webhooks"
	w := i.Config.ControllerProcess.Webhook
	var clients []admissionv1.WebhookClientConfig
	if i.Mutating != nil {
		for _, hook := range i.Mutating.Webhooks {
			clients = append(clients, hook.ClientConfig)
		}
	} else {
		r.fail(subject, "there is no MutatingWebhookConfiguration "+w.MutatingName, upgrade)
	}
	if i.Validating != nil {
		for _, hook := range i.Validating.Webhooks {
			clients = append(clients, hook.ClientConfig)
		}
	} else {
		r.fail(subject, "there is no ValidatingWebhookConfiguration "+w.ValidatingName, upgrade)
	}
	blank := slices.ContainsFunc(clients, func(c admissionv1.WebhookClientConfig) bool { return len(c.CABundle) == 0 })
	if blank && w.TLS.Method == config.TLSCertManager {
		r.fail(subject, "a webhook has no CA bundle, so the API server refuses every change of our objects", fmt.Sprintf("cert-manager writes it: kubectl -n %s get certificate", i.Namespace))
	} else if blank {
		r.fail(subject, "a webhook has no CA bundle, so the API server refuses every change of our objects", fmt.Sprintf("the controller writes it: kubectl -n %s logs deployment/%s", i.Namespace, w.ServiceName))
	}
	endpoints := 0
	for s := range i.WebhookSlices {
		for _, endpoint := range i.WebhookSlices[s].Endpoints {
			if endpoint.Conditions.Ready == nil || *endpoint.Conditions.Ready {
				endpoints++
			}
		}
	}
	if endpoints == 0 {
		r.fail(subject, fmt.Sprintf("Service %s/%s has no ready endpoint, so the API server refuses every change of our objects", i.Namespace, w.ServiceName), "each ready replica of the controller is one; see the check of the controller")
	}
	if i.Mutating != nil && i.Validating != nil && !blank && endpoints > 0 {
		r.ok(subject, "%d with a CA bundle, %s", len(clients), plural(endpoints, "endpoint"))
	}
}

func (i *Installation) coordinator(r *Report) {
	const subject = "coordinator"
	c := i.Config.Coordinator
	switch {
	case !c.Enabled:
		r.ok(subject, "off (Helm value coordinator.enabled)")
		return
	case i.Coordinator == nil:
		r.fail(subject, fmt.Sprintf("there is no SpiderCoordinator %s, so pods with the coordinator do not start", c.Name), fmt.Sprintf("the job spiderpool-init creates it: kubectl -n %s logs job/spiderpool-init; helm upgrade runs it again", i.Namespace))
		return
	}
	status := i.Coordinator.Status
	describe := "kubectl describe spidercoordinator " + i.Coordinator.Name
	ready := meta.FindStatusCondition(status.Conditions, "Ready")
	switch {
	case ready != nil && ready.Reason == "Stale":
		r.warn(subject, "pods use the last known networks: "+oneSentence(ready.Message), describe)
	case status.Phase == v2beta1.CoordinatorSynced:
		r.ok(subject, "networks of services %s, of overlay pods %s", orNone(status.ServiceCIDR), orNone(status.OverlayPodCIDR))
	case ready != nil:
		r.fail(subject, oneSentence(ready.Message), "write the networks in spec.serviceCIDR and spec.overlayPodCIDR: kubectl edit spidercoordinator "+i.Coordinator.Name)
	default:
		r.fail(subject, "the controller has not found the networks of the cluster yet", describe+"; a ready controller with a leader writes its status")
	}
}

func orNone(networks []string) string {
	if len(networks) == 0 {
		return "none"
	}
	return strings.Join(networks, ", ")
}

// oneSentence returns a message without its last period, on one line.
func oneSentence(message string) string {
	return strings.TrimSuffix(strings.ReplaceAll(strings.TrimSpace(message), "\n", "; "), ".")
}

// check adds the findings about Multus.
func (m Multus) check(r *Report) {
	const subject = "Multus"
	if !m.Served {
		r.fail(subject, "the API server serves no NetworkAttachmentDefinitions", "helm upgrade with multus.multusCNI.install=true installs Multus, or install it yourself")
		return
	}
	var found []string
	for _, set := range m.DaemonSets {
		if !strings.Contains(set.Name, "multus") && !slices.ContainsFunc(set.Spec.Template.Spec.Containers, func(c corev1.Container) bool { return strings.Contains(c.Image, "multus") }) {
			continue
		}
		name := set.Namespace + "/" + set.Name
		found = append(found, name)
		if ready, want := set.Status.NumberReady, set.Status.DesiredNumberScheduled; ready < want {
			r.fail(subject, fmt.Sprintf("DaemonSet %s is ready on %d of %s", name, ready, plural(int(want), "node")), fmt.Sprintf("kubectl -n %s describe daemonset %s", set.Namespace, set.Name))
		} else {
			r.ok(subject, "DaemonSet %s is ready on %s", name, plural(int(ready), "node"))
		}
	}
	if len(found) == 0 {
		r.warn(subject, "no DaemonSet has multus in its name or image", "if no other way installs Multus on the nodes: helm upgrade with multus.multusCNI.install=true")
	}
}

func (i *Installation) attachments(r *Report) {
	const subject = "networks"
	bad := 0
	for _, a := range i.Attachments {
		ready := meta.FindStatusCondition(a.Status.Conditions, "Ready")
		if ready == nil || ready.Status == "True" {
			continue
		}
		if bad++; bad <= maxNamed {
			r.warn(subject, fmt.Sprintf("SpiderMultusConfig %s/%s: %s", a.Namespace, a.Name, oneSentence(ready.Message)), fmt.Sprintf("kubectl -n %s edit spidermultusconfig %s", a.Namespace, a.Name))
		}
	}
	if more := bad - maxNamed; more > 0 {
		r.warn(subject, fmt.Sprintf("%d more SpiderMultusConfigs are not ready", more), "kubectl get spidermultusconfigs -A")
	}
	if bad == 0 {
		r.ok(subject, "%s", plural(len(i.Attachments), "SpiderMultusConfig"))
	}
}

// clouds adds the findings about SpiderCloudNetworks, if there are any.
func (i *Installation) clouds(r *Report) {
	const subject = "clouds"
	bad := 0
	for k := range i.Clouds {
		c := &i.Clouds[k]
		for _, condition := range c.Status.Conditions {
			if condition.Type == "Ready" && condition.Status != "True" || condition.Type == "Degraded" && condition.Status == "True" {
				bad++
				r.warn(subject, fmt.Sprintf("SpiderCloudNetwork %s: %s", c.Name, oneSentence(condition.Message)), "kubectl describe spidercloudnetwork "+c.Name)
			}
		}
	}
	if bad == 0 && len(i.Clouds) > 0 {
		r.ok(subject, "%s", plural(len(i.Clouds), "SpiderCloudNetwork"))
	}
}
