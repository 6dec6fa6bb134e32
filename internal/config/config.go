// Package config is the one configuration file of the installed programs, and
// what each program sees of it.
//
// The file is YAML with an apiVersion and a kind, written by the Helm chart into
// a ConfigMap and mounted into every pod. It is strict: an unknown or repeated
// key, a wrong type and a value out of range are errors that name the key, the
// value and the way out, and the program does not start. A key that is left out
// has the default of [Default], which is the default of the chart.
//
// What differs between nodes and pods (the names of node, pod and namespace)
// does not stand in the file but in the environment, see [Environment].
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

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"spiderpool.dev/spiderpool/api/v2beta1"
)

// APIVersion and Kind are those of the only version of the file.
const (
	APIVersion = "config.spiderpool.spidernet.io/v1"
	Kind       = "SpiderpoolConfiguration"
)

// DefaultPath is where the chart mounts the file.
const DefaultPath = "/etc/spiderpool/config.yaml"

// File is the configuration file. Names follow the Helm values where there is
// one of the same meaning.
type File struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`

	// ClusterDNSDomain is the domain of the cluster's services.
	ClusterDNSDomain string      `json:"clusterDNSDomain"`
	IPAM             IPAM        `json:"ipam"`
	Coordinator      Coordinator `json:"coordinator"`
	Multus           Multus      `json:"multus"`
	IaaS             IaaS        `json:"iaasNetworkProvider"`

	AgentProcess      AgentProcess      `json:"agent"`
	ControllerProcess ControllerProcess `json:"controller"`
	InstallJob        InstallJob        `json:"install"`
}

// IPAM says which addresses are given to whom, and when they are taken back.
type IPAM struct {
	EnableIPv4 bool `json:"enableIPv4"`
	EnableIPv6 bool `json:"enableIPv6"`
	// EnableStatefulSet gives the pods of a StatefulSet their former addresses.
	EnableStatefulSet bool `json:"enableStatefulSet"`
	// EnableKubevirtStaticIP gives the pods of a virtual machine their former addresses.
	EnableKubevirtStaticIP bool `json:"enableKubevirtStaticIP"`
	// EnableIPConflictDetection probes an address before a pod uses it.
	EnableIPConflictDetection bool `json:"enableIPConflictDetection"`
	// EnableGatewayDetection probes the gateway before a pod starts.
	EnableGatewayDetection bool `json:"enableGatewayDetection"`
	// EnableCleanOutdatedEndpoint is accepted and has no effect: the SpiderEndpoint
	// of a pod that no longer exists is always removed.
	EnableCleanOutdatedEndpoint bool         `json:"enableCleanOutdatedEndpoint"`
	SpiderSubnet                SpiderSubnet `json:"spiderSubnet"`
	GC                          GC           `json:"gc"`
}

// SpiderSubnet switches the pools that are made from subnets.
type SpiderSubnet struct {
	Enable   bool     `json:"enable"`
	AutoPool AutoPool `json:"autoPool"`
}

// AutoPool configures the pools that are made for an application.
type AutoPool struct {
	Enable bool `json:"enable"`
	// DefaultRedundantIPNumber is the number of addresses beyond the replicas
	// of an application that does not say how many it wants.
	DefaultRedundantIPNumber int `json:"defaultRedundantIPNumber"`
}

// GC says when the controller takes addresses back.
type GC struct {
	Enabled bool         `json:"enabled"`
	GCAll   GCAll        `json:"gcAll"`
	Pods    StatelessPod `json:"statelessPod"`
	// GCDeletingTimeOutPodDelay is the time in seconds that a pod may stay
	// terminating beyond its grace period before its addresses may be freed.
	GCDeletingTimeOutPodDelay int `json:"gcDeletingTimeOutPodDelay"`
}

// GCAll is the full scan over all leases.
type GCAll struct {
	// IntervalInSecond is the time between two scans.
	IntervalInSecond int `json:"intervalInSecond"`
}

// StatelessPod says which pods that no longer need addresses lose them.
type StatelessPod struct {
	// ZombieOnReadyNode covers pods stuck terminating on a node that is ready.
	ZombieOnReadyNode bool `json:"zombieOnReadyNode"`
	// ZombieOnNotReadyNode covers pods stuck terminating on a node that is not.
	ZombieOnNotReadyNode bool `json:"zombieOnNotReadyNode"`
	// RunningPodOnEmptyPodStatusIPs covers pods that run without an address in
	// their status.
	RunningPodOnEmptyPodStatusIPs bool `json:"enableGcRunningPodOnEmptyPodStatusIPs"`
}

// Coordinator is the SpiderCoordinator of the cluster.
type Coordinator struct {
	Enabled bool `json:"enabled"`
	// Name of the SpiderCoordinator.
	Name string `json:"name"`
	// CiliumConfigMap is the ConfigMap with Cilium's configuration.
	CiliumConfigMap ObjectName `json:"ciliumConfigMap"`
	// Spec is what the installation creates it with.
	Spec v2beta1.CoordinatorSpec `json:"spec"`
}

// Multus is how Spiderpool and Multus work together.
type Multus struct {
	// EnableMultusConfig makes NetworkAttachmentDefinitions from SpiderMultusConfigs.
	EnableMultusConfig bool `json:"enableMultusConfig"`
	// DefaultNetwork, "namespace/name", is the NetworkAttachmentDefinition of
	// pods that do not name one; empty where the chart does not install Multus.
	DefaultNetwork string `json:"defaultNetwork"`
}

// IaaS is the HTTP provider of addresses of clouds without a provider of their own.
type IaaS struct {
	ServerURL          string          `json:"serverUrl"`
	HTTPRequestTimeout metav1.Duration `json:"httpRequestTimeout"`
	TLSSecret          ObjectName      `json:"tlsSecret"`
}

// ObjectName names a namespaced object.
type ObjectName struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// Metrics is where a program serves its Prometheus metrics.
type Metrics struct {
	Enabled bool `json:"enabled"`
	Port    int  `json:"port"`
	// Debug adds the metrics whose number grows with the number of pools.
	Debug bool `json:"debug"`
}

// AgentProcess is how an agent runs.
type AgentProcess struct {
	LogLevel slog.Level `json:"logLevel"`
	// SocketPath is the unix socket that the CNI plugins talk to.
	SocketPath string `json:"socketPath"`
	// StateDir keeps releases that could not be committed yet.
	StateDir string `json:"stateDir"`
	// HealthPort serves /healthz and /readyz.
	HealthPort int     `json:"healthPort"`
	Metrics    Metrics `json:"metrics"`
	// TuneSysctl lets the agent set the sysctls of the node that the datapath needs.
	TuneSysctl bool `json:"tuneSysctl"`
	// CRISockets are the unix sockets of container runtimes; the first that exists is asked.
	CRISockets []string `json:"criSockets"`
}

// ControllerProcess is how a controller runs.
type ControllerProcess struct {
	LogLevel slog.Level `json:"logLevel"`
	// HealthPort serves /healthz and /readyz.
	HealthPort     int            `json:"healthPort"`
	Metrics        Metrics        `json:"metrics"`
	LeaderElection LeaderElection `json:"leaderElection"`
	Webhook        Webhook        `json:"webhook"`
	Resources      PodResources   `json:"podResourceInject"`
}

// LeaderElection configures the Lease by which the replicas of the controller
// elect their leader.
type LeaderElection struct {
	LeaseName     string          `json:"leaseName"`
	LeaseDuration metav1.Duration `json:"leaseDuration"`
	RenewDeadline metav1.Duration `json:"renewDeadline"`
	RetryPeriod   metav1.Duration `json:"retryPeriod"`
}

// PodResources is the webhook that adds the resources of a pod's attachments to
// the pod. It alone of all webhooks stands in the way of pods.
type PodResources struct {
	Enabled           bool     `json:"enabled"`
	NamespacesExclude []string `json:"namespacesExclude"`
	NamespacesInclude []string `json:"namespacesInclude"`
}

// TLSMethod says where the certificate of the webhooks comes from.
type TLSMethod string

const (
	TLSAuto        TLSMethod = "auto"        // made and rotated by the controller
	TLSProvided    TLSMethod = "provided"    // given at installation
	TLSCertManager TLSMethod = "certmanager" // from cert-manager
)

// Webhook is where and as whom the controller serves admission.
type Webhook struct {
	Port int `json:"port"`
	// ServiceName is the Service by which the API server reaches the webhooks.
	ServiceName string `json:"serviceName"`
	// MutatingName and ValidatingName are the webhook configurations; with the
	// method auto the controller writes the CA bundle into them.
	MutatingName   string `json:"mutatingWebhookConfiguration"`
	ValidatingName string `json:"validatingWebhookConfiguration"`
	TLS            TLS    `json:"tls"`
}

// TLS is the certificate of the webhooks.
type TLS struct {
	Method TLSMethod `json:"method"`
	// SecretName is the Secret with tls.crt, tls.key and ca.crt. With the
	// method auto the controller creates and rotates it.
	SecretName string `json:"secretName"`
	// CertDir is where that Secret is mounted for the methods provided and certmanager.
	CertDir string `json:"certDir"`
	// CALifetime and CertLifetime apply to the method auto.
	CALifetime   metav1.Duration `json:"caLifetime"`
	CertLifetime metav1.Duration `json:"certLifetime"`
	// ExtraIPs and ExtraDNSNames are added to the certificate, method auto.
	ExtraIPs      []string `json:"extraIPs"`
	ExtraDNSNames []string `json:"extraDNSNames"`
}

// InstallJob is what spiderpool-init creates besides the SpiderCoordinator.
type InstallJob struct {
	LogLevel slog.Level `json:"logLevel"`
	// Timeout bounds the whole run.
	Timeout metav1.Duration `json:"timeout"`
	// CNIConfDir is the node's directory of CNI configurations, read when
	// DefaultCNICRName is empty.
	CNIConfDir string `json:"cniConfDir"`
	// InstallMultus says that the chart installs Multus, so that a default
	// NetworkAttachmentDefinition is needed.
	InstallMultus bool `json:"installMultus"`
	// DefaultCNICRName is the name of the empty NetworkAttachmentDefinition to
	// create; empty takes the node's first CNI configuration.
	DefaultCNICRName string        `json:"defaultCNICRName"`
	DefaultPools     []DefaultPool `json:"defaultPools"`
}

// DefaultPool is a SpiderIPPool with default: true, and its SpiderSubnet where
// SubnetName is set.
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

// Default returns the configuration of a file in which every key is left out.
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
		return nil, fmt.Errorf("configuration: %w", err)
	}
	file, err := Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	return file, nil
}

// Parse parses and validates a configuration. The error joins one error for
// each key that is unknown, repeated or out of range.
func Parse(raw []byte) (*File, error) {
	file := Default()
	// Without these keys in the text, a file of another kind must not pass as ours.
	file.APIVersion, file.Kind = "", ""
	if err := decode(raw, file); err != nil {
		return nil, err
	}
	if err := file.Validate(); err != nil {
		return nil, err
	}
	return file, nil
}

// decode overwrites the fields of file that raw has keys for.
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
