// Package names holds the keys of the annotations and labels that Spiderpool
// reads and writes, each in one place. It imports nothing, so every package and
// every client may use it.
//
// hack/reference generates docs/reference/annotations.md from the comments. The
// comment of a group becomes a heading. A line "Example: " at the end of a
// comment becomes the column of that name.
package names

// Annotations of pods
const (
	// AnnotationPodIPPool names the pools of every interface of the pod. It has no
	// effect on a pod with AnnotationPodIPPools. A name may contain the wildcards
	// '*', '?' and '[a-c]'. A pod with pools of one IP version gets no address of the
	// other.
	// Example: {"ipv4":["pool-v4"],"ipv6":["pool-v6"]}
	AnnotationPodIPPool = "ipam.spidernet.io/ippool"

	// AnnotationPodIPPools names the pools of each interface of the pod. Either
	// every entry names its interface, or none does and the first is for eth0. With
	// cleangateway, the interface gets no default route. An interface without an
	// entry uses the pools of its namespace or CNI configuration, but no default
	// pool. An entry for an interface that the pod does not have is an error.
	// Example: [{"interface":"eth0","ipv4":["pool-v4"],"cleangateway":false},{"interface":"net1","ipv4":["storage-v4"]}]
	AnnotationPodIPPools = "ipam.spidernet.io/ippools"

	// AnnotationPodRoutes adds routes to the pod. They replace routes of the pool to
	// the same destination.
	// Example: [{"dst":"10.0.0.0/8","gw":"172.31.16.1"}]
	AnnotationPodRoutes = "ipam.spidernet.io/routes"

	// AnnotationPodDNS sets the name servers in the result of the IPAM plugin.
	// Example: {"nameservers":["10.0.0.10"],"search":["example.org"],"options":["ndots:2"]}
	AnnotationPodDNS = "ipam.spidernet.io/dns"

	// AnnotationPodDefaultRouteNIC names the interface of the pod's default route.
	// Example: net1
	AnnotationPodDefaultRouteNIC = "ipam.spidernet.io/default-route-nic"

	// AnnotationPodSources lists the networks or addresses that the pod may send from
	// besides its own addresses, although antiSpoof of the coordinator is on, e.g. the
	// virtual address of keepalived. The pod keeps its MAC address. The label
	// LabelNamespaceSources must permit it.
	// Example: ["172.31.16.50","10.9.0.0/16"]
	AnnotationPodSources = "ipam.spidernet.io/source-addresses"

	// AnnotationPodBandwidth limits the bandwidth of interfaces of the pod, in bits per
	// second, seen from the pod. An entry replaces the annotations of Kubernetes for its
	// interface and directions. A change applies to the running pod.
	// Example: [{"interface":"net1","ingress":"100M","egress":"50M"}]
	AnnotationPodBandwidth = "ipam.spidernet.io/bandwidth"

	// AnnotationPodIngressBandwidth is the annotation of Kubernetes that limits the
	// traffic to the pod's first interface, in bits per second from 1k to 1P.
	// Example: 10M
	AnnotationPodIngressBandwidth = "kubernetes.io/ingress-bandwidth"

	// AnnotationPodEgressBandwidth limits the traffic from the pod's first interface, like
	// AnnotationPodIngressBandwidth.
	// Example: 10M
	AnnotationPodEgressBandwidth = "kubernetes.io/egress-bandwidth"
)

// Annotations of pods for automatic pools
//
// This release makes no automatic pools, and refuses pods with one of these: such a
// pod would get an address of another pool.
const (
	// AnnotationPodSubnet asks for a pool of a SpiderSubnet. Refused: create a
	// SpiderIPPool and name it in ipam.spidernet.io/ippool.
	// Example: {"ipv4":["subnet-a"]}
	AnnotationPodSubnet = "ipam.spidernet.io/subnet"

	// AnnotationPodSubnets asks for a pool of each interface. Refused, like
	// AnnotationPodSubnet.
	// Example: [{"interface":"eth0","ipv4":["subnet-a"]}]
	AnnotationPodSubnets = "ipam.spidernet.io/subnets"

	// AnnotationPodPoolIPNumber is the size of the automatic pool. Refused.
	// Example: +1
	AnnotationPodPoolIPNumber = "ipam.spidernet.io/ippool-ip-number"

	// AnnotationPodPoolReclaim deletes the automatic pool with its application. Refused.
	// Example: true
	AnnotationPodPoolReclaim = "ipam.spidernet.io/ippool-reclaim"
)

// Annotations of pods and SpiderMultusConfigs
const (
	// AnnotationPodRDMAResourceInject adds every SpiderMultusConfig with the same
	// annotation and value to the pod's networks, unless it is one of them, and one SR-IOV or RDMA device of
	// each to the resources of its first container. It needs the Helm value
	// spiderpoolController.podResourceInject.enabled.
	// Example: rdma-network
	AnnotationPodRDMAResourceInject = "cni.spidernet.io/rdma-resource-inject"

	// AnnotationPodNetworkResourceInject works like
	// AnnotationPodRDMAResourceInject, by a name without "rdma".
	// Example: sriov-network
	AnnotationPodNetworkResourceInject = "cni.spidernet.io/network-resource-inject"
)

// Annotations of namespaces
const (
	// AnnotationNamespaceDefaultIPv4Pool names the IPv4 pools of pods whose own
	// annotations name none.
	// Example: ["pool-a","pool-b"]
	AnnotationNamespaceDefaultIPv4Pool = "ipam.spidernet.io/default-ipv4-ippool"

	// AnnotationNamespaceDefaultIPv6Pool does the same for IPv6.
	// Example: ["pool-v6"]
	AnnotationNamespaceDefaultIPv6Pool = "ipam.spidernet.io/default-ipv6-ippool"
)

// Labels of namespaces
const (
	// LabelNamespaceSources permits the pods of the namespace to use
	// AnnotationPodSources, with the value true.
	// Example: true
	LabelNamespaceSources = "ipam.spidernet.io/allow-source-addresses"
)

// Annotations of SpiderMultusConfigs
const (
	// AnnotationMultusConfigCRName is the name of the
	// NetworkAttachmentDefinition, instead of the name of the SpiderMultusConfig.
	// Example: ipvlan-ens5
	AnnotationMultusConfigCRName = "multus.spidernet.io/cr-name"

	// AnnotationMultusConfigCNIVersion is the cniVersion of the CNI configuration;
	// the default is 0.3.1.
	// Example: 1.0.0
	AnnotationMultusConfigCNIVersion = "multus.spidernet.io/cni-version"

	// AnnotationCNIConfigName is the name of the network in the CNI configuration,
	// instead of the name of the NetworkAttachmentDefinition.
	// Example: storage
	AnnotationCNIConfigName = "cni.spidernet.io/cniconfig-name"
)

// Annotations of SpiderIPBlocks and of their CustomResourceDefinition
const (
	// AnnotationOverride lets a user write or delete a SpiderIPBlock, or delete the
	// CustomResourceDefinition, in spite of the Helm value ipam.protectBlocks. The value is the
	// reason. Warning: an address without its lease goes to the next pod, even if a
	// running pod uses it. The next write of an agent or the controller removes the annotation.
	// Example: repair of a corrupt block
	AnnotationOverride = "ipam.spidernet.io/override"

	// AnnotationReleaseAddress asks the controller to release an address of the SpiderIPBlock,
	// as spiderpoolctl release does. The controller releases an address that is retained
	// for an owner without need for it or, with the word force, for any owner. It refuses an address in
	// use, and removes the annotation with its answer, an event.
	// Example: 172.31.16.5 force
	AnnotationReleaseAddress = "ipam.spidernet.io/release-address"
)

// Annotations of SpiderIPBlocks, SpiderIPPools and SpiderEndpoints
const (
	// AnnotationCheck makes the controller look at the object again; spiderpoolctl check --repair
	// sets it to the time.
	// Example: 2026-11-29T03:00:00Z
	AnnotationCheck = "ipam.spidernet.io/check"
)

// Annotations of our CustomResourceDefinitions
const (
	// AnnotationRelease is the release that wrote the definition. An older release
	// leaves the definition alone.
	// Example: v0.1.0
	AnnotationRelease = "ipam.spidernet.io/release"
)

// Annotations of the Network Plumbing Working Group
//
// Spiderpool reads the annotations of the multi-network specification from pods and
// MultiNetworkPolicies, and writes resourceName to NetworkAttachmentDefinitions.
const (
	// AnnotationMultusDefaultNetwork names the NetworkAttachmentDefinition of the
	// pod's first interface.
	// Example: kube-system/ipvlan-ens5
	AnnotationMultusDefaultNetwork = "v1.multus-cni.io/default-network"

	// AnnotationMultusNetworks names the NetworkAttachmentDefinitions of the
	// further interfaces. The nth is named net<n> unless the entry says otherwise.
	// Example: net-a,ns/net-b@net2
	AnnotationMultusNetworks = "k8s.v1.cni.cncf.io/networks"

	// AnnotationMultusNetworkStatus lists the interfaces and addresses of a
	// running pod; Multus writes it.
	// Example: [{"name":"kube-system/ipvlan-ens5","interface":"eth0","ips":["172.31.16.20"]}]
	AnnotationMultusNetworkStatus = "k8s.v1.cni.cncf.io/network-status"

	// AnnotationPolicyFor lists the NetworkAttachmentDefinitions of a
	// MultiNetworkPolicy, which has no effect without it. A name without a namespace is
	// in the namespace of the policy.
	// Example: net-a,ns/net-b
	AnnotationPolicyFor = "k8s.v1.cni.cncf.io/policy-for"

	// AnnotationMultusResourceName is the extended resource of the devices of a
	// NetworkAttachmentDefinition.
	// Example: spidernet.io/sriov
	AnnotationMultusResourceName = "k8s.v1.cni.cncf.io/resourceName"
)

// Labels of SpiderIPPools
//
// Admission and the controller set the first two. An agent watches only the
// pools of its own node and the unbound ones.
const (
	// LabelPoolNode marks a pool with exactly one entry in spec.nodeName; its
	// value is the name of the node.
	// Example: node-1
	LabelPoolNode = "ipam.spidernet.io/node"

	// LabelPoolUnbound marks every other pool.
	// Example: true
	LabelPoolUnbound = "ipam.spidernet.io/unbound"

	// LabelOwnerSubnet marks a pool made from a SpiderSubnet; its value is the
	// name of the subnet.
	// Example: subnet-a
	LabelOwnerSubnet = "ipam.spidernet.io/owner-spider-subnet"
)

// Labels of the SpiderIPPools that follow a cloud
const (
	// LabelCloudNetwork marks a pool that the controller made for a SpiderCloudNetwork; its
	// value is the name of that.
	// Example: aws
	LabelCloudNetwork = "ipam.spidernet.io/cloud-network"

	// LabelCloudInterface is the ID of the network interface whose addresses the pool has.
	// Example: eni-0123456789abcdef0
	LabelCloudInterface = "ipam.spidernet.io/cloud-interface"

	// LabelCloudZone marks a pool of fixed addresses, which move between the nodes of a zone; its value is the zone. A pod with an
	// address of the pool starts when status.placements says that the address is on its node.
	// Example: eu-central-1a
	LabelCloudZone = "ipam.spidernet.io/cloud-zone"
)

// Annotations of the SpiderIPPools that follow a cloud
const (
	// AnnotationPoolAssignable is the number of addresses that the controller would still assign to the interface of the pool, in
	// the mode Manage. The scheduler counts them as free.
	// Example: 112
	AnnotationPoolAssignable = "ipam.spidernet.io/assignable"
)

// Labels of SpiderIPBlocks
//
// They follow from the name and the leases of a block and are written together
// with them, so selectors may rely on them.
const (
	// LabelBlockRegion is the region of the block, 256 blocks that follow each other.
	// Example: 172.31.16.0-20
	LabelBlockRegion = "ipam.spidernet.io/region"

	// LabelBlockNodePrefix is a prefix; the name of a node follows. The label marks
	// every block that the node created (value "creator") or holds a lease in
	// ("holder").
	// Example: node.ipam.spidernet.io/node-1=creator
	LabelBlockNodePrefix = "node.ipam.spidernet.io/"

	// LabelBlockFixedPrefix is a prefix; a hash of an owner (lease.Holder.FixedFor)
	// follows. The label marks every block with an address fixed for that owner.
	LabelBlockFixedPrefix = "fixed.ipam.spidernet.io/"

	// LabelBlockWithheld marks every block with a withheld address. Its value is empty.
	LabelBlockWithheld = "ipam.spidernet.io/withheld"
)

// Labels of SpiderPeerGroups
const (
	// LabelPeerGroup marks every object of a group but the first; its value is the name
	// of the first.
	// Example: 3f2c51cb0f5b8d34ac1a53e3a4ab83ba62c3b1b5
	LabelPeerGroup = "ipam.spidernet.io/peer-group"
)

// Keys in the podAffinity of SpiderIPPools
//
// They select pods by their top controller, e.g. a Deployment. Labels of the pod
// with these keys have no effect: a pod cannot claim to belong to an application.
const (
	// AffinityAppPrefix is the prefix of the keys below.
	AffinityAppPrefix = "ipam.spidernet.io/app-"

	// AffinityAppAPIGroup is the API group of the top controller.
	// Example: apps
	AffinityAppAPIGroup = AffinityAppPrefix + "api-group"

	// AffinityAppAPIVersion is the API version of the top controller.
	// Example: v1
	AffinityAppAPIVersion = AffinityAppPrefix + "api-version"

	// AffinityAppKind is the kind of the top controller.
	// Example: Deployment
	AffinityAppKind = AffinityAppPrefix + "kind"

	// AffinityAppNamespace is the namespace of the top controller.
	// Example: default
	AffinityAppNamespace = AffinityAppPrefix + "namespace"

	// AffinityAppName is the name of the top controller.
	// Example: nginx-lb
	AffinityAppName = AffinityAppPrefix + "name"
)

// Labels of objects created by the installation
const (
	// LabelManagedBy has the value ManagedByInit on objects created by
	// spiderpool-init, to distinguish them from the administrator's.
	// Example: spiderpool-init
	LabelManagedBy = "app.kubernetes.io/managed-by"
)

// ManagedByInit is the value of LabelManagedBy.
const ManagedByInit = "spiderpool-init"

// Taints of nodes
const (
	// TaintAgentNotReady keeps pods from a new node until its agent is ready and, if a
	// SpiderCloudNetwork selects the node, its first pool is. The kubelet sets it
	// (--register-with-taints), and the controller removes it if the Helm value
	// startupTaint.enabled is true.
	// Example: spiderpool.spidernet.io/agent-not-ready=true:NoSchedule
	TaintAgentNotReady = "spiderpool.spidernet.io/agent-not-ready"
)

// Extended resources of nodes
const (
	// ResourceAddressesDomain is the domain of the extended resources that count the
	// interfaces with addresses for pods on a node, one resource for each network
	// attachment. A slash, its namespace, a dot and its name follow. The controller writes
	// them, and adds requests to pods, if the Helm value addressResource.enabled is true.
	// Example: addresses.ipam.spidernet.io/kube-system.ipvlan-ens5
	ResourceAddressesDomain = "addresses.ipam.spidernet.io"
)
