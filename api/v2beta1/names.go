package v2beta1

// Finalizer keeps a deleted object until no other object depends on it.
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

// Annotations defined by the Network Plumbing Working Group and used by Spiderpool.
const (
	AnnotationMultusDefaultNetwork = "v1.multus-cni.io/default-network"
	AnnotationMultusNetworks       = "k8s.v1.cni.cncf.io/networks"
	AnnotationMultusNetworkStatus  = "k8s.v1.cni.cncf.io/network-status"
	AnnotationMultusResourceName   = "k8s.v1.cni.cncf.io/resourceName"
)

// LabelPoolNode marks a SpiderIPPool bound to exactly one node (spec.nodeName has
// one entry); its value is the node's name. LabelPoolUnbound ("true") marks every
// other pool. Admission and the controller set them. An agent watches only the
// pools of its own node and the unbound ones.
const (
	LabelPoolNode    = "ipam.spidernet.io/node"
	LabelPoolUnbound = "ipam.spidernet.io/unbound"
)

// LabelOwnerSubnet marks an automatic pool; its value is the name of the pool's SpiderSubnet.
const LabelOwnerSubnet = "ipam.spidernet.io/owner-spider-subnet"

// LabelAppNamespace is the key in an automatic pool's podAffinity for the
// namespace of its application.
const LabelAppNamespace = "ipam.spidernet.io/app-namespace"

// LabelManagedBy has the value ManagedByInit on objects created by the
// installation, to distinguish them from the administrator's.
const (
	LabelManagedBy = "app.kubernetes.io/managed-by"
	ManagedByInit  = "spiderpool-init"
)

// CoordinatorName is the name of a cluster's only SpiderCoordinator.
const CoordinatorName = "default"
