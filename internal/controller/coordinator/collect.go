package coordinator

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

// kubeadm keeps its configuration in kubeadmConfigMap, and control planes run as
// static pods, both in systemNamespace.
const (
	systemNamespace  = "kube-system"
	kubeadmConfigMap = "kubeadm-config"
)

var (
	calicoPool = schema.GroupVersionKind{Group: "crd.projectcalico.org", Version: "v1", Kind: "IPPool"}
	ciliumPool = schema.GroupVersionKind{Group: "cilium.io", Version: "v2alpha1", Kind: "CiliumPodIPPool"}
)

// collect reads what the cluster says about its networks. What is not there is
// left out; an error is one of reading.
func (r *Reconciler) collect(ctx context.Context) (facts, error) {
	var f facts
	kubeadmServices, kubeadmPods, err := r.kubeadm(ctx)
	if err != nil {
		return f, err
	}
	objects, err := r.serviceCIDRs(ctx)
	if err != nil {
		return f, err
	}
	nodes, err := r.nodeNetworks(ctx)
	if err != nil {
		return f, err
	}
	f.services = []origin{objects, kubeadmServices}
	f.cluster = []origin{kubeadmPods}
	if len(objects.networks)+len(kubeadmServices.networks) == 0 {
		argument, err := r.podArgument(ctx, "kube-apiserver", "--service-cluster-ip-range")
		if err != nil {
			return f, err
		}
		f.services = append(f.services, argument)
	}
	if len(kubeadmPods.networks) == 0 {
		argument, err := r.podArgument(ctx, "kube-controller-manager", "--cluster-cidr")
		if err != nil {
			return f, err
		}
		f.cluster = append(f.cluster, argument)
	}
	f.cluster = append(f.cluster, nodes)
	if f.calico, err = r.calico(ctx); err != nil {
		return f, err
	}
	f.cilium, err = r.cilium(ctx, nodes)
	return f, err
}

func (r *Reconciler) serviceCIDRs(ctx context.Context) (origin, error) {
	out := origin{name: "ServiceCIDR objects"}
	var list networkingv1.ServiceCIDRList
	if err := r.client.List(ctx, &list); err != nil {
		// Kubernetes before 1.33 has no such kind.
		if meta.IsNoMatchError(err) {
			return out, nil
		}
		return out, fmt.Errorf("list ServiceCIDRs: %w", err)
	}
	for i := range list.Items {
		out.networks = append(out.networks, list.Items[i].Spec.CIDRs...)
	}
	return out, nil
}

func (r *Reconciler) kubeadm(ctx context.Context) (services, pods origin, err error) {
	services.name = "serviceSubnet in ConfigMap kube-system/kubeadm-config"
	pods.name = "podSubnet in ConfigMap kube-system/kubeadm-config"
	var configMap corev1.ConfigMap
	err = r.kubeadmConfig.Get(ctx, client.ObjectKey{Namespace: systemNamespace, Name: kubeadmConfigMap}, &configMap)
	if apierrors.IsNotFound(err) {
		return services, pods, nil
	}
	if err != nil {
		return services, pods, fmt.Errorf("read the configuration of kubeadm: %w", err)
	}
	var cluster struct {
		Networking struct {
			ServiceSubnet string `json:"serviceSubnet"`
			PodSubnet     string `json:"podSubnet"`
		} `json:"networking"`
	}
	if err := yaml.Unmarshal([]byte(configMap.Data["ClusterConfiguration"]), &cluster); err != nil {
		return services, pods, fmt.Errorf("parse ClusterConfiguration in ConfigMap %s/%s: %w", systemNamespace, kubeadmConfigMap, err)
	}
	services.networks = split(cluster.Networking.ServiceSubnet)
	pods.networks = split(cluster.Networking.PodSubnet)
	return services, pods, nil
}

func (r *Reconciler) nodeNetworks(ctx context.Context) (origin, error) {
	out := origin{name: "spec.podCIDRs of nodes"}
	var nodes corev1.NodeList
	if err := r.client.List(ctx, &nodes, client.UnsafeDisableDeepCopy); err != nil {
		return out, fmt.Errorf("list nodes: %w", err)
	}
	for i := range nodes.Items {
		out.networks = append(out.networks, nodes.Items[i].Spec.PodCIDRs...)
	}
	return out, nil
}

// podArgument reads an argument from the static pods of a component. They are
// read live: nothing else here needs them, and few clusters get this far.
func (r *Reconciler) podArgument(ctx context.Context, component, argument string) (origin, error) {
	out := origin{name: fmt.Sprintf("%s of the pods with label component=%s", argument, component)}
	var pods corev1.PodList
	if err := r.live.List(ctx, &pods, client.InNamespace(systemNamespace), client.MatchingLabels{"component": component}); err != nil {
		return out, fmt.Errorf("list the pods of %s: %w", component, err)
	}
	for _, pod := range pods.Items {
		for _, container := range pod.Spec.Containers {
			for _, word := range append(container.Command, container.Args...) {
				if value, found := strings.CutPrefix(word, argument+"="); found {
					out.networks = split(value)
					return out, nil
				}
			}
		}
	}
	return out, nil
}

func (r *Reconciler) calico(ctx context.Context) (*origin, error) {
	pools, err := r.listOptional(ctx, calicoPool)
	if err != nil || len(pools) == 0 {
		return nil, err
	}
	out := &origin{name: "IPPools of Calico"}
	for _, pool := range pools {
		cidr, _, _ := unstructured.NestedString(pool.Object, "spec", "cidr")
		disabled, _, _ := unstructured.NestedBool(pool.Object, "spec", "disabled")
		if cidr != "" && !disabled {
			out.networks = append(out.networks, cidr)
		}
	}
	return out, nil
}

func (r *Reconciler) cilium(ctx context.Context, nodes origin) (*origin, error) {
	var configMap corev1.ConfigMap
	err := r.ciliumConfig.Get(ctx, r.ciliumConfigMap, &configMap)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the configuration of Cilium: %w", err)
	}
	mode := configMap.Data["ipam"]
	out := &origin{name: fmt.Sprintf("Cilium with ipam %q", mode)}
	switch mode {
	case "cluster-pool", "cluster-pool-v2beta":
		out.networks = append(words(configMap.Data["cluster-pool-ipv4-cidr"]), words(configMap.Data["cluster-pool-ipv6-cidr"])...)
	case "multi-pool":
		pools, err := r.listOptional(ctx, ciliumPool)
		if err != nil {
			return nil, err
		}
		for _, pool := range pools {
			for _, family := range []string{"ipv4", "ipv6"} {
				cidrs, _, _ := unstructured.NestedStringSlice(pool.Object, "spec", family, "cidrs")
				out.networks = append(out.networks, cidrs...)
			}
		}
	case "kubernetes":
		out.networks = nodes.networks
	}
	return out, nil
}

// listOptional lists objects of a kind that the cluster need not have.
func (r *Reconciler) listOptional(ctx context.Context, kind schema.GroupVersionKind) ([]unstructured.Unstructured, error) {
	if !r.watches(kind) {
		return nil, nil
	}
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
	if err := r.client.List(ctx, list); err != nil {
		return nil, fmt.Errorf("list %s of %s: %w", kind.Kind, kind.Group, err)
	}
	return list.Items, nil
}

// split separates a list by commas.
func split(list string) []string {
	var out []string
	for part := range strings.SplitSeq(list, ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}

// words separates a list by spaces or commas, both of which Cilium accepts.
func words(list string) []string { return split(strings.ReplaceAll(list, " ", ",")) }
