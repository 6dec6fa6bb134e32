package v2beta1

// Finalizer keeps an object until nothing depends on it any more.
const Finalizer = "spiderpool.spidernet.io"

// Annotations of pods.
const (
	AnnotationPodIPPool          = "ipam.spidernet.io/ippool"
	AnnotationPodIPPools         = "ipam.spidernet.io/ippools"
	AnnotationPodSubnet          = "ipam.spidernet.io/subnet"
	AnnotationPodSubnets         = "ipam.spidernet.io/subnets"
	AnnotationPodIPPoolIPNumber  = "ipam.spidernet.io/ippool-ip-number"
	AnnotationPodIPPoolReclaim   = "ipam.spidernet.io/ippool-reclaim"
	AnnotationPodRoutes          = "ipam.spidernet.io/routes"
	AnnotationPodDNS             = "ipam.spidernet.io/dns"
	AnnotationPodDefaultRouteNIC = "ipam.spidernet.io/default-route-nic"

	AnnotationPodRDMAResourceInject    = "cni.spidernet.io/rdma-resource-inject"
	AnnotationPodNetworkResourceInject = "cni.spidernet.io/network-resource-inject"
)

// Annotations of namespaces: JSON lists of pool names.
const (
	AnnotationNamespaceDefaultIPv4Pool = "ipam.spidernet.io/default-ipv4-ippool"
	AnnotationNamespaceDefaultIPv6Pool = "ipam.spidernet.io/default-ipv6-ippool"
)

// Annotations of SpiderMultusConfigs.
const (
	AnnotationMultusConfigCRName     = "multus.spidernet.io/cr-name"
	AnnotationMultusConfigCNIVersion = "multus.spidernet.io/cni-version"
	AnnotationCNIConfigName          = "cni.spidernet.io/cniconfig-name"
)

// Annotations of the Network Plumbing Working Group that Spiderpool reads and
// writes.
const (
	AnnotationMultusDefaultNetwork = "v1.multus-cni.io/default-network"
	AnnotationMultusNetworks       = "k8s.v1.cni.cncf.io/networks"
	AnnotationMultusNetworkStatus  = "k8s.v1.cni.cncf.io/network-status"
	AnnotationMultusResourceName   = "k8s.v1.cni.cncf.io/resourceName"
)

// LabelPoolNode is set by the controller on a SpiderIPPool that is bound to
// exactly one node (spec.nodeName has one entry), with the node's name as its
// value; LabelPoolUnbound ("true") is set on every other pool. An agent watches
// the pools of its own node and the unbound ones, and no others.
const (
	LabelPoolNode    = "ipam.spidernet.io/node"
	LabelPoolUnbound = "ipam.spidernet.io/unbound"
)

// LabelOwnerSubnet is on an automatic pool, with the name of the SpiderSubnet
// that its addresses are of.
const LabelOwnerSubnet = "ipam.spidernet.io/owner-spider-subnet"

// LabelAppNamespace is the podAffinity key that automatic pools carry for the
// namespace of their application.
const LabelAppNamespace = "ipam.spidernet.io/app-namespace"

// LabelManagedBy has the value ManagedByInit on objects that the installation
// created, so that they can be told from the administrator's.
const (
	LabelManagedBy = "app.kubernetes.io/managed-by"
	ManagedByInit  = "spiderpool-init"
)

// CoordinatorName is the name of the one SpiderCoordinator of a cluster.
const CoordinatorName = "default"
