// Package config is the configuration file of all installed programs, and each
// program's view of it.
//
// The file is YAML with an apiVersion and a kind. The Helm chart writes it into a
// ConfigMap, mounted in every pod. Parsing is strict: an unknown or repeated key, a
// wrong type or a value out of range is an error, which names the key, the value and
// the remedy, and the program does not start. An absent key has the default in
// default.yaml, which is also the default of the chart.
//
// The names of node, pod and namespace differ between pods, so they come from the
// environment; see [Environment].
//
//	file, err := config.Load(path)
//	cfg, err := file.Agent(os.Getenv)   // or Controller, or Install
package config

import (
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/pool"
)

// APIVersion and Kind are the apiVersion and kind of the file.
const (
	APIVersion = "config.spiderpool.spidernet.io/v1"
	Kind       = "SpiderpoolConfiguration"
)

// DefaultPath is the mount path of the file in the chart.
const DefaultPath = "/etc/spiderpool/config.yaml"

// File is the configuration file. A key with the same meaning as a Helm value has
// the same name.
type File struct {
	// APIVersion and Kind are required; a file of another kind or version is an error.
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`

	// ClusterDNSDomain is the DNS domain of the cluster's Services, e.g. cluster.local.
	ClusterDNSDomain string        `json:"clusterDNSDomain"`
	IPAM             IPAM          `json:"ipam"`
	Coordinator      Coordinator   `json:"coordinator"`
	Multus           Multus        `json:"multus"`
	Service          Service       `json:"service"`
	Policy           Policy        `json:"policy"`
	Observability    Observability `json:"observability"`
	Cloud            Cloud         `json:"cloud"`
	IaaS             IaaS          `json:"iaasNetworkProvider"`

	AgentProcess      AgentProcess      `json:"agent"`
	ControllerProcess ControllerProcess `json:"controller"`
	InstallJob        InstallJob        `json:"install"`
	ConsoleProcess    ConsoleProcess    `json:"console"`
}

// IPAM configures the allocation and the reclaim of addresses.
type IPAM struct {
	// EnableIPv4 and EnableIPv6 select the IP families of pods.
	EnableIPv4 bool `json:"enableIPv4"`
	EnableIPv6 bool `json:"enableIPv6"`
	// EnableStatefulSet gives a recreated pod of a StatefulSet its old addresses. The
	// StatefulSet must exist, with the UID in the pod's owner reference and the pod's ordinal.
	EnableStatefulSet bool `json:"enableStatefulSet"`
	// EnableKubevirtStaticIP gives a recreated pod of a virtual machine its old addresses.
	// status.activePods of its VirtualMachineInstance must list the pod.
	EnableKubevirtStaticIP bool `json:"enableKubevirtStaticIP"`
	// EnableIPConflictDetection probes an address before a pod uses it.
	EnableIPConflictDetection bool `json:"enableIPConflictDetection"`
	// EnableGatewayDetection probes the gateway before a pod starts.
	EnableGatewayDetection bool `json:"enableGatewayDetection"`
	// EnableCleanOutdatedEndpoint has no effect: we always remove the SpiderEndpoint
	// of a deleted pod.
	EnableCleanOutdatedEndpoint bool         `json:"enableCleanOutdatedEndpoint"`
	SpiderSubnet                SpiderSubnet `json:"spiderSubnet"`
	GC                          GC           `json:"gc"`
}

// SpiderSubnet enables the pools created from SpiderSubnets.
type SpiderSubnet struct {
	// Enable turns on SpiderSubnets.
	Enable   bool     `json:"enable"`
	AutoPool AutoPool `json:"autoPool"`
}

// AutoPool configures the pools created for applications.
type AutoPool struct {
	// Enable has no effect: this release makes no automatic pools.
	Enable bool `json:"enable"`
	// DefaultRedundantIPNumber has no effect.
	DefaultRedundantIPNumber int `json:"defaultRedundantIPNumber"`
}

// GC configures the reclaim of addresses.
type GC struct {
	// Enabled turns on the reclaim of addresses without a CNI DEL.
	Enabled bool         `json:"enabled"`
	GCAll   GCAll        `json:"gcAll"`
	Pods    StatelessPod `json:"statelessPod"`
	// GCDeletingTimeOutPodDelay is the time in seconds, after the grace period of a
	// terminating pod, until its addresses may be reclaimed.
	GCDeletingTimeOutPodDelay int `json:"gcDeletingTimeOutPodDelay"`
}

// GCAll is the full scan over all leases.
type GCAll struct {
	// IntervalInSecond is the time between two scans, in seconds.
	IntervalInSecond int `json:"intervalInSecond"`
}

// StatelessPod selects the unfinished pods whose addresses may be reclaimed.
type StatelessPod struct {
	// ZombieOnReadyNode covers pods stuck terminating on a ready node.
	ZombieOnReadyNode bool `json:"zombieOnReadyNode"`
	// ZombieOnNotReadyNode covers pods stuck terminating on a NotReady node.
	ZombieOnNotReadyNode bool `json:"zombieOnNotReadyNode"`
	// RunningPodOnEmptyPodStatusIPs covers running pods without an address in their
	// status.
	RunningPodOnEmptyPodStatusIPs bool `json:"enableGcRunningPodOnEmptyPodStatusIPs"`
}

// Coordinator is the SpiderCoordinator of the cluster.
type Coordinator struct {
	// Enabled turns on the SpiderCoordinator.
	Enabled bool `json:"enabled"`
	// Name is the name of the SpiderCoordinator.
	Name string `json:"name"`
	// CiliumConfigMap is the ConfigMap with Cilium's configuration.
	CiliumConfigMap ObjectName `json:"ciliumConfigMap"`
	// Spec is the spec of the SpiderCoordinator at installation.
	Spec v2beta1.CoordinatorSpec `json:"spec"`
}

// Multus configures the cooperation with Multus.
type Multus struct {
	// EnableMultusConfig creates NetworkAttachmentDefinitions from SpiderMultusConfigs.
	EnableMultusConfig bool `json:"enableMultusConfig"`
	// DefaultNetwork is the default NetworkAttachmentDefinition of pods, as
	// "namespace/name"; empty if the chart does not install Multus.
	DefaultNetwork string `json:"defaultNetwork"`
	// DefaultNetworks are the additional attachments of every pod, as
	// "namespace/name": the key of the same name in the configuration of a Multus that
	// the chart does not install. They come before a pod's own, so the first of those
	// is net2 if there is one here.
	DefaultNetworks []string `json:"defaultNetworks"`
	// SystemNamespaces are the namespaces without defaultNetworks, as in the
	// configuration of Multus.
	SystemNamespaces []string `json:"systemNamespaces"`
}

// Service configures the translation of service addresses, e.g. ClusterIPs.
type Service struct {
	// Mode is one of auto, ebpf and kubeproxy. With auto, eBPF programs translate on each
	// node that can run them, and kube-proxy does on the others. With ebpf, a node that
	// cannot also gets an event. With kubeproxy, the agent does nothing.
	Mode ServiceMode `json:"mode"`
	// Cgroup is the control group v2 of the node's pods, below the mount point, e.g.
	// kubepods.slice; empty to find it.
	Cgroup string `json:"cgroup"`
	// ExternalIPs lets eBPF translate the externalIPs of Services. Their authors may name any
	// address, and so take what all pods send to it (CVE-2020-8554).
	ExternalIPs bool `json:"externalIPs"`
}

// Policy configures the enforcement of network policies.
type Policy struct {
	// Enabled has the agents enforce NetworkPolicies and ClusterNetworkPolicies on the default interfaces of pods that
	// Spiderpool gives addresses to. With false, they remove all packet filters that are left.
	Enabled bool `json:"enabled"`
}

// Cloud configures the pools that follow a cloud.
type Cloud struct {
	// Enabled has the controller make pools for SpiderCloudNetworks, and the agents tell it about changes.
	Enabled bool `json:"enabled"`
}

// Observability configures the flows of pods: which connections opened, ended or were dropped.
type Observability struct {
	// Enabled has the agents collect the flows of their pods, and serve them with Hubble's API.
	Enabled bool `json:"enabled"`
	// Sample makes the agents observe one of so many connections, the same ones at both ends; 1 for all. Dropped packets are always observed.
	Sample uint32 `json:"sample"`
	// Flows is the number of flows that an agent keeps.
	Flows int `json:"flows"`
	// Metrics are the metrics about flows, with options as in Hubble's configuration, e.g. drop:sourceContext=namespace.
	Metrics []string `json:"metrics"`
	// SocketPath is the unix socket of an agent for root of its node.
	SocketPath string `json:"socketPath"`
	// Port is the TCP port of an agent for clients with a certificate, e.g. hubble-relay; 0 for none.
	Port int `json:"port"`
	// Address is the IP address of that port; empty for all addresses.
	Address string  `json:"address"`
	TLS     FlowTLS `json:"tls"`
}

// FlowTLS configures the certificates of the agents' port for flows, and of its clients.
type FlowTLS struct {
	// SecretName is the Secret with tls.crt, tls.key and ca.crt of the agents. With the webhooks' method auto, the controller
	// creates and renews this and the following two, with one authority.
	SecretName string `json:"secretName"`
	// RelaySecretName is the Secret of hubble-relay.
	RelaySecretName string `json:"relaySecretName"`
	// ClientSecretName is the Secret of other clients.
	ClientSecretName string `json:"clientSecretName"`
	// ServerName is the Service of the agents, the subject of their certificate.
	ServerName string `json:"serverName"`
	// RelayName is the Service of hubble-relay, the subject of its certificate.
	RelayName string `json:"relayName"`
	// CertDir is the mount path of SecretName.
	CertDir string `json:"certDir"`
}

// ServiceMode names the translator of service addresses.
type ServiceMode string

// The modes.
const (
	ServiceAuto      ServiceMode = "auto"
	ServiceEBPF      ServiceMode = "ebpf"
	ServiceKubeProxy ServiceMode = "kubeproxy"
)

// ClusterNetwork returns the networks of a pod without annotations. Multus looks up
// names without a namespace in namespace, which is also ours.
func (m Multus) ClusterNetwork(namespace string) pool.ClusterNetwork {
	network := pool.ClusterNetwork{Namespace: namespace, Default: attachmentOf(m.DefaultNetwork), SystemNamespaces: m.SystemNamespaces}
	for _, ref := range m.DefaultNetworks {
		network.Additional = append(network.Additional, attachmentOf(ref))
	}
	return network
}

// attachmentOf converts "namespace/name", and "" to the zero value.
func attachmentOf(ref string) pool.NetworkAttachment {
	namespace, name, _ := strings.Cut(ref, "/")
	return pool.NetworkAttachment{Namespace: namespace, Name: name}
}

// IaaS is an HTTP service that describes a cloud: the provider iaas of SpiderCloudNetworks.
type IaaS struct {
	// ServerURL is the URL of the service; empty for none.
	ServerURL string `json:"serverUrl"`
	// HTTPRequestTimeout limits one request.
	HTTPRequestTimeout metav1.Duration `json:"httpRequestTimeout"`
	// TLSSecret is the Secret with the client certificate: tls.crt, tls.key and ca.crt.
	TLSSecret ObjectName `json:"tlsSecret"`
}

// ObjectName names a namespaced object.
type ObjectName struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// Metrics configures the Prometheus endpoint of a program.
type Metrics struct {
	// Enabled and Port configure the endpoint /metrics.
	Enabled bool `json:"enabled"`
	Port    int  `json:"port"`
	// Address is the IP address of the endpoint, e.g. that of the node in a management
	// network; empty for all addresses.
	Address string `json:"address"`
	// Secure serves HTTPS instead of HTTP, and only to clients with a bearer token whose user
	// may get the URL /metrics.
	Secure bool `json:"secure"`
	// Debug adds the metrics with one time series per pool or subnet.
	Debug bool `json:"debug"`
}

// AgentProcess configures the process of an agent.
type AgentProcess struct {
	// LogLevel is one of debug, info, warn and error.
	LogLevel slog.Level `json:"logLevel"`
	// SocketPath is the unix socket for the CNI plugins.
	SocketPath string `json:"socketPath"`
	// StateDir is the directory of uncommitted releases and of the trusted runtime.
	StateDir string `json:"stateDir"`
	// HealthPort serves /healthz and /readyz.
	HealthPort int `json:"healthPort"`
	// HealthAddress is the IP address of that port; empty for all addresses.
	HealthAddress string  `json:"healthAddress"`
	Metrics       Metrics `json:"metrics"`
	// TLS is the certificate of the metrics, if metrics.secure is true.
	TLS AgentTLS `json:"tls"`
	// TuneSysctl lets the agent raise the node's sysctls to the needs of the datapath.
	TuneSysctl bool `json:"tuneSysctl"`
	// SysctlDir is a writable mount of /proc/sys with the directory net, e.g.
	// /host/proc/sys: /proc/sys of a container without privileges is read-only.
	SysctlDir string `json:"sysctlDir"`
	// CRISockets are the possible unix sockets of the container runtime. The agent uses the
	// one that answers as the kubelet's runtime, and lists a sandbox with an address.
	CRISockets []string `json:"criSockets"`
}

// AgentTLS configures the certificate of the agents' metrics.
type AgentTLS struct {
	// SecretName is the Secret with tls.crt, tls.key and ca.crt. With the webhooks' method
	// auto, the controller creates and renews it, too.
	SecretName string `json:"secretName"`
	// ServiceName is the Service in front of the metrics, the subject of the certificate.
	ServiceName string `json:"serviceName"`
	// CertDir is the mount path of that Secret.
	CertDir string `json:"certDir"`
}

// ControllerProcess configures the process of a controller.
type ControllerProcess struct {
	// LogLevel is one of debug, info, warn and error.
	LogLevel slog.Level `json:"logLevel"`
	// HealthPort serves /healthz and /readyz.
	HealthPort int `json:"healthPort"`
	// HealthAddress is the IP address of that port; empty for all addresses.
	HealthAddress  string         `json:"healthAddress"`
	Metrics        Metrics        `json:"metrics"`
	LeaderElection LeaderElection `json:"leaderElection"`
	Webhook        Webhook        `json:"webhook"`
	Resources      PodResources   `json:"podResourceInject"`
	StartupTaint   StartupTaint   `json:"startupTaint"`
	// AddressResource offers the addresses of nodes to the scheduler.
	AddressResource AddressResource `json:"addressResource"`
}

// AddressResource configures the extended resources addresses.ipam.spidernet.io/NAMESPACE.NAME.
type AddressResource struct {
	// Enabled has the controller write the free addresses of each node to its status as extended resources, and request them for pods.
	Enabled bool `json:"enabled"`
}

// StartupTaint configures the removal of the taint spiderpool.spidernet.io/agent-not-ready.
type StartupTaint struct {
	// Enabled lets the controller remove the taint from a node once its agent is ready and, if a
	// SpiderCloudNetwork selects the node, its first pool is.
	Enabled bool `json:"enabled"`
	// DaemonSet is the name of the agents' DaemonSet.
	DaemonSet string `json:"daemonSet"`
}

// LeaderElection configures the Lease for electing the leader among the controller's
// replicas.
type LeaderElection struct {
	// LeaseName is the name of the Lease.
	LeaseName string `json:"leaseName"`
	// LeaseDuration is how long a Lease lives without renewal. Then another replica may
	// take over.
	LeaseDuration metav1.Duration `json:"leaseDuration"`
	// RenewDeadline is the time for the leader to renew the Lease before it gives up.
	RenewDeadline metav1.Duration `json:"renewDeadline"`
	// RetryPeriod is the time between two attempts to get or renew the Lease.
	RetryPeriod metav1.Duration `json:"retryPeriod"`
}

// PodResources configures the webhook that adds the resources of a pod's attachments
// to the pod. It is our only webhook on the path of pod creation.
type PodResources struct {
	// Enabled turns on the webhook.
	Enabled bool `json:"enabled"`
	// NamespacesExclude and NamespacesInclude select the namespaces of the webhook. The
	// chart writes them into the webhook configuration; the controller ignores them.
	NamespacesExclude []string `json:"namespacesExclude"`
	NamespacesInclude []string `json:"namespacesInclude"`
}

// TLSMethod is the source of the webhooks' certificate.
type TLSMethod string

const (
	TLSAuto        TLSMethod = "auto"        // issued and rotated by the controller
	TLSProvided    TLSMethod = "provided"    // given at installation
	TLSCertManager TLSMethod = "certmanager" // from cert-manager
)

// Webhook configures the admission webhook server.
type Webhook struct {
	// Port is the port of the webhook server.
	Port int `json:"port"`
	// ServiceName is the Service in front of the webhooks.
	ServiceName string `json:"serviceName"`
	// MutatingName and ValidatingName are the names of the webhook configurations.
	// With the method auto, the controller writes the CA bundle into them.
	MutatingName   string `json:"mutatingWebhookConfiguration"`
	ValidatingName string `json:"validatingWebhookConfiguration"`
	TLS            TLS    `json:"tls"`
}

// TLS configures the certificate of the webhooks.
type TLS struct {
	// Method is one of auto, provided and certmanager.
	Method TLSMethod `json:"method"`
	// SecretName is the Secret with tls.crt, tls.key and ca.crt. With the method
	// auto, the controller creates and rotates it.
	SecretName string `json:"secretName"`
	// CertDir is the mount path of that Secret, for the methods provided and certmanager.
	CertDir string `json:"certDir"`
	// CALifetime and CertLifetime are for the method auto.
	CALifetime   metav1.Duration `json:"caLifetime"`
	CertLifetime metav1.Duration `json:"certLifetime"`
	// ExtraIPs and ExtraDNSNames are additional subjects of the certificate, for the method auto.
	ExtraIPs      []string `json:"extraIPs"`
	ExtraDNSNames []string `json:"extraDNSNames"`
}

// InstallJob configures spiderpool-init.
type InstallJob struct {
	// LogLevel is one of debug, info, warn and error.
	LogLevel slog.Level `json:"logLevel"`
	// Timeout limits the whole run.
	Timeout metav1.Duration `json:"timeout"`
	// CNIConfDir is the node's directory of CNI configurations. spiderpool-init reads
	// it if DefaultCNICRName is empty.
	CNIConfDir string `json:"cniConfDir"`
	// InstallMultus creates the default NetworkAttachmentDefinition, for the Multus of
	// the chart.
	InstallMultus bool `json:"installMultus"`
	// DefaultCNICRName is the name of that NetworkAttachmentDefinition; empty for the
	// network of the node's first CNI configuration.
	DefaultCNICRName string `json:"defaultCNICRName"`
	// DefaultPools are the SpiderIPPools to create.
	DefaultPools []DefaultPool `json:"defaultPools"`
}

// DefaultPool describes a SpiderIPPool with "default: true" and, if SubnetName is set,
// its SpiderSubnet.
type DefaultPool struct {
	Name       string   `json:"name"`
	SubnetName string   `json:"subnetName"`
	IPVersion  int      `json:"ipVersion"`
	Subnet     string   `json:"subnet"`
	IPRanges   []string `json:"ipRanges"`
	Gateway    string   `json:"gateway"`
}

//go:embed default.yaml
var defaults []byte

// Default returns the configuration with all defaults.
func Default() *File {
	file := &File{}
	if err := decode(defaults, file); err != nil {
		panic("config: default.yaml: " + err.Error())
	}
	return file
}

// Load reads, parses and validates the file at path.
func Load(path string) (*File, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	file, err := Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	return file, nil
}

// Parse parses and validates a configuration. The error names every unknown or
// repeated key or, if there is none, every value out of range.
func Parse(raw []byte) (*File, error) {
	file := Default()
	// A file without these keys is not ours, so they have no default.
	file.APIVersion, file.Kind = "", ""
	if err := decode(raw, file); err != nil {
		return nil, err
	}
	if err := file.Validate(); err != nil {
		return nil, err
	}
	return file, nil
}

// decode sets those fields of file whose keys are in raw.
func decode(raw []byte, file *File) error {
	asJSON, err := yaml.YAMLToJSONStrict(raw)
	if err != nil {
		return err
	}
	strict, err := kjson.UnmarshalStrict(asJSON, file)
	if err != nil {
		return err
	}
	return errors.Join(strict...)
}
