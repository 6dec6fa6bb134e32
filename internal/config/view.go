package config

import (
	"fmt"
	"log/slog"
	"time"

	"spiderpool.dev/spiderpool/internal/inet"
)

// Environment variables, which the chart sets from the downward API.
const (
	EnvNodeName     = "SPIDERPOOL_NODE_NAME"
	EnvPodName      = "SPIDERPOOL_POD_NAME"
	EnvPodNamespace = "SPIDERPOOL_POD_NAMESPACE"
)

// Environment is the place of a process in the cluster.
type Environment struct {
	NodeName     string // EnvNodeName
	PodName      string // EnvPodName
	PodNamespace string // EnvPodNamespace, the namespace of the installation
}

// Agent is the configuration of one agent.
type Agent struct {
	Environment
	LogLevel         slog.Level
	ClusterDNSDomain string
	IPAM             IPAM
	// CoordinatorName is the SpiderCoordinator with the defaults of CNI configurations;
	// empty if the coordinator is disabled.
	CoordinatorName string
	Multus          Multus
	Service         Service
	Policy          Policy
	Observability   Observability
	Cloud           Cloud
	SocketPath      string
	StateDir        string
	HealthPort      int
	HealthAddress   string
	Metrics         Metrics
	CertDir         string
	TuneSysctl      bool
	SysctlDir       string
	CRISockets      []string
}

// Controller is the configuration of one replica of the controller.
type Controller struct {
	Environment
	LogLevel         slog.Level
	ClusterDNSDomain string
	IPAM             IPAM
	// CoordinatorName is the SpiderCoordinator whose status the controller writes;
	// empty if the coordinator is disabled.
	CoordinatorName string
	CiliumConfigMap ObjectName
	Multus          Multus
	Policy          Policy
	HealthPort      int
	HealthAddress   string
	Metrics         Metrics
	LeaderElection  LeaderElection
	Webhook         Webhook
	// AgentTLS is the certificate that the controller issues for the agents; nil for none.
	AgentTLS *AgentTLS
	// ConsoleTLS is the certificate that it issues for the console; nil for none.
	ConsoleTLS *ConsoleTLS
	// FlowTLS are the certificates that it issues for the agents' port for flows and its clients; nil for none.
	FlowTLS      *FlowTLS
	PodResources PodResources
	Cloud        Cloud
	StartupTaint StartupTaint
	// AddressResource offers the addresses of nodes to the scheduler.
	AddressResource AddressResource
	IaaS            IaaS
}

// Families returns the IP versions of the pods.
func (c IPAM) Families() (families []inet.Family) {
	if c.EnableIPv4 {
		families = append(families, inet.IPv4)
	}
	if c.EnableIPv6 {
		families = append(families, inet.IPv6)
	}
	return families
}

// Install is the configuration of spiderpool-init.
type Install struct {
	Environment
	LogLevel         slog.Level
	Timeout          time.Duration
	Coordinator      Coordinator
	InstallMultus    bool
	DefaultCNICRName string
	DefaultNetwork   string
	CNIConfDir       string
	DefaultPools     []DefaultPool
	SpiderSubnet     SpiderSubnet
}

// Agent returns the view of an agent. getenv is os.Getenv; it must return the names
// of node, pod and namespace.
func (f *File) Agent(getenv func(string) string) (Agent, error) {
	env, err := environment(getenv, EnvNodeName, EnvPodName, EnvPodNamespace)
	if err != nil {
		return Agent{}, err
	}
	p := f.AgentProcess
	return Agent{
		Environment:      env,
		LogLevel:         p.LogLevel,
		ClusterDNSDomain: f.ClusterDNSDomain,
		IPAM:             f.IPAM,
		CoordinatorName:  f.Coordinator.activeName(),
		Multus:           f.Multus,
		Service:          f.Service,
		Policy:           f.Policy,
		Observability:    f.Observability,
		Cloud:            f.Cloud,
		SocketPath:       p.SocketPath,
		StateDir:         p.StateDir,
		HealthPort:       p.HealthPort,
		HealthAddress:    p.HealthAddress,
		Metrics:          p.Metrics,
		CertDir:          p.TLS.CertDir,
		TuneSysctl:       p.TuneSysctl,
		SysctlDir:        p.SysctlDir,
		CRISockets:       p.CRISockets,
	}, nil
}

// Controller returns the view of a controller. getenv is os.Getenv; it must return
// the names of pod and namespace.
func (f *File) Controller(getenv func(string) string) (Controller, error) {
	env, err := environment(getenv, EnvPodName, EnvPodNamespace)
	if err != nil {
		return Controller{}, err
	}
	p := f.ControllerProcess
	var agentTLS *AgentTLS
	if m := f.AgentProcess.Metrics; m.Enabled && m.Secure && p.Webhook.TLS.Method == TLSAuto {
		agentTLS = &f.AgentProcess.TLS
	}
	var flowTLS *FlowTLS
	if o := f.Observability; o.Enabled && o.Port != 0 && p.Webhook.TLS.Method == TLSAuto {
		flowTLS = &f.Observability.TLS
	}
	var consoleTLS *ConsoleTLS
	if f.ConsoleProcess.issues(p.Webhook.TLS.Method) {
		consoleTLS = &f.ConsoleProcess.TLS
	}
	return Controller{
		AgentTLS:         agentTLS,
		ConsoleTLS:       consoleTLS,
		FlowTLS:          flowTLS,
		Environment:      env,
		LogLevel:         p.LogLevel,
		ClusterDNSDomain: f.ClusterDNSDomain,
		IPAM:             f.IPAM,
		CoordinatorName:  f.Coordinator.activeName(),
		CiliumConfigMap:  f.Coordinator.CiliumConfigMap,
		Multus:           f.Multus,
		Policy:           f.Policy,
		HealthPort:       p.HealthPort,
		HealthAddress:    p.HealthAddress,
		Metrics:          p.Metrics,
		LeaderElection:   p.LeaderElection,
		Webhook:          p.Webhook,
		PodResources:     p.Resources,
		Cloud:            f.Cloud,
		StartupTaint:     p.StartupTaint,
		AddressResource:  p.AddressResource,
		IaaS:             f.IaaS,
	}, nil
}

// Install returns the view of spiderpool-init. getenv is os.Getenv; it must return
// the name of the namespace.
func (f *File) Install(getenv func(string) string) (Install, error) {
	env, err := environment(getenv, EnvPodNamespace)
	if err != nil {
		return Install{}, err
	}
	j := f.InstallJob
	return Install{
		Environment:      env,
		LogLevel:         j.LogLevel,
		Timeout:          j.Timeout.Duration,
		Coordinator:      f.Coordinator,
		InstallMultus:    j.InstallMultus,
		DefaultCNICRName: j.DefaultCNICRName,
		DefaultNetwork:   f.Multus.DefaultNetwork,
		CNIConfDir:       j.CNIConfDir,
		DefaultPools:     j.DefaultPools,
		SpiderSubnet:     f.IPAM.SpiderSubnet,
	}, nil
}

func (c Coordinator) activeName() string {
	if !c.Enabled {
		return ""
	}
	return c.Name
}

func environment(getenv func(string) string, required ...string) (Environment, error) {
	for _, name := range required {
		if getenv(name) == "" {
			return Environment{}, fmt.Errorf("environment variable %s is empty: set it from the downward API, like the chart does", name)
		}
	}
	return Environment{
		NodeName:     getenv(EnvNodeName),
		PodName:      getenv(EnvPodName),
		PodNamespace: getenv(EnvPodNamespace),
	}, nil
}
