package clustercidr

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

// systemNamespace holds kubeadm's configuration (kubeadmConfigMap) and the static
// pods of the control plane.
const (
	systemNamespace  = "kube-system"
	kubeadmConfigMap = "kubeadm-config"
)

var (
	calicoPool = schema.GroupVersionKind{Group: "crd.projectcalico.org", Version: "v1", Kind: "IPPool"}
	ciliumPool = schema.GroupVersionKind{Group: "cilium.io", Version: "v2alpha1", Kind: "CiliumPodIPPool"}
)

// overlayDefinitions are the names of the kinds' CustomResourceDefinitions.
var overlayDefinitions = map[schema.GroupVersionKind]string{
	calicoPool: "ippools.crd.projectcalico.org",
	ciliumPool: "ciliumpodippools.cilium.io",
}

// collect reads the sources. It leaves out sources that do not exist; a source that
// cannot be read carries its error.
func (r *Reconciler) collect(ctx context.Context) facts {
	var f facts
	objects, nodes := r.serviceCIDRs(ctx), r.nodeNetworks(ctx)
	kubeadmServices, kubeadmPods := r.kubeadm(ctx)
	f.services = []origin{objects, kubeadmServices}
	f.cluster = []origin{kubeadmPods}
	if len(objects.networks)+len(kubeadmServices.networks) == 0 {
		f.services = append(f.services, r.podArgument(ctx, "kube-apiserver", "--service-cluster-ip-range"))
	}
	if len(kubeadmPods.networks) == 0 {
		f.cluster = append(f.cluster, r.podArgument(ctx, "kube-controller-manager", "--cluster-cidr"))
	}
	f.cluster = append(f.cluster, nodes)
	f.calico = r.calico(ctx)
	f.cilium = r.cilium(ctx, nodes)
	return f
}

func (r *Reconciler) serviceCIDRs(ctx context.Context) origin {
	out := origin{name: "ServiceCIDR objects"}
	var list networkingv1.ServiceCIDRList
	// Kubernetes before 1.33 has no such kind.
	if err := r.client.List(ctx, &list); err != nil && !meta.IsNoMatchError(err) {
		out.err = err
	}
	for i := range list.Items {
		out.networks = append(out.networks, list.Items[i].Spec.CIDRs...)
	}
	return out
}

func (r *Reconciler) kubeadm(ctx context.Context) (services, pods origin) {
	services.name = "serviceSubnet in ConfigMap kube-system/kubeadm-config"
	pods.name = "podSubnet in ConfigMap kube-system/kubeadm-config"
	var configMap corev1.ConfigMap
	err := r.kubeadmConfig.Get(ctx, client.ObjectKey{Namespace: systemNamespace, Name: kubeadmConfigMap}, &configMap)
	if apierrors.IsNotFound(err) {
		return services, pods
	}
	var cluster struct {
		Networking struct {
			ServiceSubnet string `json:"serviceSubnet"`
			PodSubnet     string `json:"podSubnet"`
		} `json:"networking"`
	}
	if err == nil {
		err = yaml.Unmarshal([]byte(configMap.Data["ClusterConfiguration"]), &cluster)
	}
	services.networks, services.err = split(cluster.Networking.ServiceSubnet), err
	pods.networks, pods.err = split(cluster.Networking.PodSubnet), err
	return services, pods
}

func (r *Reconciler) nodeNetworks(ctx context.Context) origin {
	var nodes corev1.NodeList
	out := origin{name: "spec.podCIDRs of nodes", err: r.client.List(ctx, &nodes, client.UnsafeDisableDeepCopy)}
	for i := range nodes.Items {
		out.networks = append(out.networks, nodes.Items[i].Spec.PodCIDRs...)
	}
	return out
}

// podArgument reads an argument of a component's static pods, e.g. --cluster-cidr. It
// reads them live: nothing else here needs these pods, and few clusters lack all
// better sources.
func (r *Reconciler) podArgument(ctx context.Context, component, argument string) origin {
	out := origin{name: fmt.Sprintf("%s of the pods with label component=%s", argument, component)}
	var pods corev1.PodList
	out.err = r.live.List(ctx, &pods, client.InNamespace(systemNamespace), client.MatchingLabels{"component": component})
	for _, pod := range pods.Items {
		for _, container := range pod.Spec.Containers {
			for _, word := range append(container.Command, container.Args...) {
				if value, found := strings.CutPrefix(word, argument+"="); found {
					out.networks = split(value)
					return out
				}
			}
		}
	}
	return out
}

// calico returns nil if the cluster has no IPPool of Calico.
func (r *Reconciler) calico(ctx context.Context) *origin {
	pools, err := r.listOptional(ctx, calicoPool)
	if err == nil && len(pools) == 0 {
		return nil
	}
	out := &origin{name: "IPPools of Calico", err: err}
	for _, pool := range pools {
		cidr, _, _ := unstructured.NestedString(pool.Object, "spec", "cidr")
		disabled, _, _ := unstructured.NestedBool(pool.Object, "spec", "disabled")
		if cidr != "" && !disabled {
			out.networks = append(out.networks, cidr)
		}
	}
	return out
}

// cilium returns nil if the cluster has no ConfigMap of Cilium.
func (r *Reconciler) cilium(ctx context.Context, nodes origin) *origin {
	var configMap corev1.ConfigMap
	err := r.ciliumConfig.Get(ctx, r.ciliumConfigMap, &configMap)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return &origin{name: fmt.Sprintf("ConfigMap %s of Cilium", r.ciliumConfigMap), err: err}
	}
	mode := configMap.Data["ipam"]
	out := &origin{name: fmt.Sprintf("Cilium with ipam %q", mode)}
	switch mode {
	case "cluster-pool", "cluster-pool-v2beta":
		out.networks = append(words(configMap.Data["cluster-pool-ipv4-cidr"]), words(configMap.Data["cluster-pool-ipv6-cidr"])...)
	case "multi-pool":
		var pools []unstructured.Unstructured
		pools, out.err = r.listOptional(ctx, ciliumPool)
		for _, pool := range pools {
			for _, family := range []string{"ipv4", "ipv6"} {
				cidrs, _, _ := unstructured.NestedStringSlice(pool.Object, "spec", family, "cidrs")
				out.networks = append(out.networks, cidrs...)
			}
		}
	case "kubernetes":
		out.networks, out.err = nodes.networks, nodes.err
	}
	return out
}

// listOptional lists the objects of a kind. It returns none if the cluster does not
// have the kind.
func (r *Reconciler) listOptional(ctx context.Context, kind schema.GroupVersionKind) ([]unstructured.Unstructured, error) {
	if served, err := r.watches(ctx, kind); err != nil || !served {
		return nil, err
	}
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
	err := r.client.List(ctx, list)
	return list.Items, err
}

// split splits a list at commas and drops empty parts.
func split(list string) []string {
	var out []string
	for part := range strings.SplitSeq(list, ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}

// words splits a list at spaces and commas; Cilium accepts both.
func words(list string) []string { return split(strings.ReplaceAll(list, " ", ",")) }
