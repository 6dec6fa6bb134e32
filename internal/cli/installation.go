package cli

import (
	"context"
	"errors"
	"strings"

	"golang.org/x/sync/errgroup"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/ipam"
	"spiderpool.dev/spiderpool/internal/kube/definitions"
	"spiderpool.dev/spiderpool/internal/service"
	"spiderpool.dev/spiderpool/internal/view"
)

// readInstallation reads the objects of the installation in a namespace.
func readInstallation(ctx context.Context, r reader, system string) (*view.Installation, error) {
	in := &view.Installation{Release: config.Version, Namespace: system, Config: config.Default(), HasConfig: true}
	text, err := r.ReadConfigMap(ctx, system, configMap, configKey)
	switch {
	case apierrors.IsNotFound(err):
		in.HasConfig = false
	case err != nil:
		return nil, err
	default:
		if file, err := config.Parse([]byte(text)); err != nil {
			in.ConfigFault = err.Error()
		} else {
			in.Config = file
		}
	}
	var group errgroup.Group
	for _, read := range []func(context.Context, reader, *view.Installation) error{
		readDefinitionsOf, readController, readAgents, readConsole, readWebhooks, readCoordinator, readAttachments, readClouds,
		func(ctx context.Context, r reader, in *view.Installation) (err error) {
			in.Multus, err = readMultus(ctx, r)
			return err
		},
		func(ctx context.Context, r reader, in *view.Installation) (err error) {
			in.Events, err = readEvents(ctx, r)
			return err
		},
		func(ctx context.Context, r reader, in *view.Installation) error {
			return r.EachNode(ctx, func(node *corev1.Node) { in.Nodes = append(in.Nodes, node) })
		},
	} {
		group.Go(func() error { return read(ctx, r, in) })
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return in, readPods(ctx, r, in)
}

// readOne reads one object, and returns nil if there is none.
func readOne[T any](ctx context.Context, r reader, path string) (*T, error) {
	object := new(T)
	if found, err := r.Lookup(ctx, object, path); err != nil || !found {
		return nil, err
	}
	return object, nil
}

func readDefinitionsOf(ctx context.Context, r reader, in *view.Installation) (err error) {
	in.Definitions, err = readDefinitions(ctx, r)
	return err
}

// readDefinitions compares the definitions of this release with the cluster.
func readDefinitions(ctx context.Context, r reader) ([]view.Definition, error) {
	wanted, err := definitions.All()
	if err != nil {
		return nil, err
	}
	served, err := r.Served(ctx, v2beta1.GroupVersion.String())
	if err != nil {
		return nil, err
	}
	all := make([]view.Definition, len(wanted))
	var group errgroup.Group
	for i, definition := range wanted {
		group.Go(func() error {
			stamp, exists, err := r.DefinitionAnnotation(ctx, definition.GetName(), names.AnnotationRelease)
			resource, _, _ := strings.Cut(definition.GetName(), ".")
			all[i] = view.Definition{Name: definition.GetName(), Exists: exists, Served: served[resource], Stamp: stamp}
			return err
		})
	}
	return all, group.Wait()
}

func readController(ctx context.Context, r reader, in *view.Installation) (err error) {
	process := in.Config.ControllerProcess
	if in.Controller, err = readOne[appsv1.Deployment](ctx, r, "/apis/apps/v1/namespaces/"+in.Namespace+"/deployments/"+process.Webhook.ServiceName); err != nil {
		return err
	}
	in.Leader, err = readOne[coordinationv1.Lease](ctx, r, "/apis/coordination.k8s.io/v1/namespaces/"+in.Namespace+"/leases/"+process.LeaderElection.LeaseName)
	return err
}

func readAgents(ctx context.Context, r reader, in *view.Installation) (err error) {
	in.Agents, err = readOne[appsv1.DaemonSet](ctx, r, agentsPath(in.Config, in.Namespace))
	return err
}

func readConsole(ctx context.Context, r reader, in *view.Installation) (err error) {
	if console := in.Config.ConsoleProcess; console.Enabled {
		in.Console, err = readOne[appsv1.Deployment](ctx, r, "/apis/apps/v1/namespaces/"+in.Namespace+"/deployments/"+console.TLS.ServiceName)
	}
	return err
}

// readPods reads the pods of the controller, of the agents and of the console.
func readPods(ctx context.Context, r reader, in *view.Installation) error {
	var selectors []*metav1.LabelSelector
	if in.Controller != nil {
		selectors = append(selectors, in.Controller.Spec.Selector)
	}
	if in.Agents != nil {
		selectors = append(selectors, in.Agents.Spec.Selector)
	}
	if in.Console != nil {
		selectors = append(selectors, in.Console.Spec.Selector)
	}
	for _, selector := range selectors {
		options := metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(selector)}
		if err := r.EachPodOf(ctx, in.Namespace, options, func(pod *corev1.Pod) { in.Pods = append(in.Pods, pod) }); err != nil {
			return err
		}
	}
	return nil
}

func readWebhooks(ctx context.Context, r reader, in *view.Installation) (err error) {
	const group = "/apis/admissionregistration.k8s.io/v1/"
	w := in.Config.ControllerProcess.Webhook
	if in.Mutating, err = readOne[admissionv1.MutatingWebhookConfiguration](ctx, r, group+"mutatingwebhookconfigurations/"+w.MutatingName); err != nil {
		return err
	}
	if in.Validating, err = readOne[admissionv1.ValidatingWebhookConfiguration](ctx, r, group+"validatingwebhookconfigurations/"+w.ValidatingName); err != nil {
		return err
	}
	return r.EachEndpointSlice(ctx, service.Name{Namespace: in.Namespace, Name: w.ServiceName}, func(slice *discoveryv1.EndpointSlice) {
		in.WebhookSlices = append(in.WebhookSlices, *slice)
	})
}

func readCoordinator(ctx context.Context, r reader, in *view.Installation) error {
	object, err := r.Coordinator(ctx, in.Config.Coordinator.Name)
	if errors.Is(err, ipam.ErrNotFound) {
		return nil
	}
	in.Coordinator = object
	return err
}

func readAttachments(ctx context.Context, r reader, in *view.Installation) error {
	var list v2beta1.SpiderMultusConfigList
	_, err := r.Lookup(ctx, &list, "/apis/"+v2beta1.GroupVersion.String()+"/spidermultusconfigs")
	for i := range list.Items {
		in.Attachments = append(in.Attachments, &list.Items[i])
	}
	return err
}

func readClouds(ctx context.Context, r reader, in *view.Installation) error {
	var list v2beta1.SpiderCloudNetworkList
	_, err := r.Lookup(ctx, &list, "/apis/"+v2beta1.GroupVersion.String()+"/spidercloudnetworks")
	in.Clouds = list.Items
	return err
}

func readMultus(ctx context.Context, r reader) (m view.Multus, err error) {
	served, err := r.Served(ctx, "k8s.cni.cncf.io/v1")
	if err != nil {
		return m, err
	}
	m.Served = served["network-attachment-definitions"]
	var list appsv1.DaemonSetList
	_, err = r.Lookup(ctx, &list, "/apis/apps/v1/daemonsets")
	m.DaemonSets = list.Items
	return m, err
}

// readEvents reads the warnings of the agents about nodes and pods.
func readEvents(ctx context.Context, r reader) ([]corev1.Event, error) {
	reasons := view.EventReasons()
	lists := make([]corev1.EventList, len(reasons))
	var group errgroup.Group
	for i, reason := range reasons {
		group.Go(func() error {
			_, err := r.Lookup(ctx, &lists[i], "/api/v1/events", "fieldSelector", "reason="+reason)
			return err
		})
	}
	var all []corev1.Event
	err := group.Wait()
	for i := range lists {
		all = append(all, lists[i].Items...)
	}
	return all, err
}
