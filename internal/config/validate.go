package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"spiderpool.dev/spiderpool/internal/observe"
)

// Validate returns one error that names every value out of range. It leaves to the
// API server what only the API server can judge: the SpiderCoordinator and the
// default pools.
func (f *File) Validate() error {
	v := &violations{}
	if f.APIVersion != APIVersion || f.Kind != Kind {
		v.add("apiVersion, kind", f.APIVersion+", "+f.Kind, "write "+APIVersion+", "+Kind)
	}
	if f.ClusterDNSDomain == "" || len(validation.IsDNS1123Subdomain(f.ClusterDNSDomain)) > 0 {
		v.add("clusterDNSDomain", f.ClusterDNSDomain, "write a DNS domain such as cluster.local")
	}
	v.ipam(f.IPAM)
	v.network(f)
	v.service(f.Service)
	v.agent(f.AgentProcess)
	v.observability(f.Observability, f.AgentProcess)
	v.controller(f.ControllerProcess)
	v.install(f.InstallJob)
	v.console(f.ConsoleProcess)
	return field.ErrorList(*v).ToAggregate()
}

// violations collects errors that name the field, the value and the way out.
type violations field.ErrorList

func (v *violations) add(path string, value any, remedy string) {
	*v = append(*v, field.Invalid(field.NewPath(path), value, remedy))
}

func (v *violations) ipam(c IPAM) {
	if !c.EnableIPv4 && !c.EnableIPv6 {
		v.add("ipam.enableIPv4, ipam.enableIPv6", "false, false", "enable at least one")
	}
	if n := c.SpiderSubnet.AutoPool.DefaultRedundantIPNumber; n < 0 {
		v.add("ipam.spiderSubnet.autoPool.defaultRedundantIPNumber", n, "write 0 or more")
	}
	if c.SpiderSubnet.AutoPool.Enable && !c.SpiderSubnet.Enable {
		v.add("ipam.spiderSubnet.autoPool.enable", true, "it needs ipam.spiderSubnet.enable: true; enable or disable both")
	}
	if n := c.GC.GCAll.IntervalInSecond; n < 1 {
		v.add("ipam.gc.gcAll.intervalInSecond", n, "write 1 or more seconds")
	}
	if n := c.GC.GCDeletingTimeOutPodDelay; n < 0 {
		v.add("ipam.gc.gcDeletingTimeOutPodDelay", n, "write 0 or more seconds")
	}
}

func (v *violations) network(f *File) {
	if f.Coordinator.Enabled {
		v.objectName("coordinator.name", f.Coordinator.Name)
		v.namespace("coordinator.ciliumConfigMap.namespace", f.Coordinator.CiliumConfigMap.Namespace)
		v.objectName("coordinator.ciliumConfigMap.name", f.Coordinator.CiliumConfigMap.Name)
	}
	if ref := f.Multus.DefaultNetwork; ref != "" {
		v.attachment("multus.defaultNetwork", ref)
	}
	for i, ref := range f.Multus.DefaultNetworks {
		v.attachment(fmt.Sprintf("multus.defaultNetworks[%d]", i), ref)
	}
	if raw := f.IaaS.ServerURL; raw != "" {
		if u, err := url.Parse(raw); err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			v.add("iaasNetworkProvider.serverUrl", raw, "write an http:// or https:// URL, or leave it empty")
		}
	}
	if d := f.IaaS.HTTPRequestTimeout.Duration; d <= 0 {
		v.add("iaasNetworkProvider.httpRequestTimeout", d, "write a positive duration such as 50s")
	}
	if s := f.IaaS.TLSSecret; (s.Name == "") != (s.Namespace == "") {
		v.add("iaasNetworkProvider.tlsSecret", s.Namespace+"/"+s.Name, "give both namespace and name, or neither")
	}
}

func (v *violations) service(s Service) {
	if s.Mode != ServiceAuto && s.Mode != ServiceEBPF && s.Mode != ServiceKubeProxy {
		v.add("service.mode", s.Mode, "write auto, ebpf or kubeproxy")
	}
	if s.Cgroup != "" && !filepath.IsLocal(s.Cgroup) {
		v.add("service.cgroup", s.Cgroup, "write a path below the mount point of the control groups, without a leading slash, e.g. kubepods.slice")
	}
}

func (v *violations) agent(p AgentProcess) {
	v.socket("agent.socketPath", p.SocketPath)
	v.absolute("agent.stateDir", p.StateDir)
	v.absolute("agent.sysctlDir", p.SysctlDir)
	for i, socket := range p.CRISockets {
		v.absolute(fmt.Sprintf("agent.criSockets[%d]", i), socket)
	}
	v.objectName("agent.tls.secretName", p.TLS.SecretName)
	v.objectName("agent.tls.serviceName", p.TLS.ServiceName)
	v.absolute("agent.tls.certDir", p.TLS.CertDir)
	ports := []port{{"agent.healthPort", p.HealthPort}}
	if p.Metrics.Enabled {
		ports = append(ports, port{"agent.metrics.port", p.Metrics.Port})
	}
	v.ports(ports)
}

func (v *violations) socket(path, value string) {
	v.absolute(path, value)
	// The kernel's sockaddr_un holds 107 bytes and the terminating zero, unix(7).
	if len(value) > 107 {
		v.add(path, value, fmt.Sprintf("the path has %d bytes, but a unix socket's path has at most 107; choose a shorter one", len(value)))
	}
}

// maxFlows bounds the memory of an agent: a flow takes about half a kilobyte.
const maxFlows = 65535

func (v *violations) observability(o Observability, p AgentProcess) {
	if o.Flows < 1 || o.Flows > maxFlows {
		v.add("observability.flows", o.Flows, fmt.Sprintf("write a number of flows from 1 to %d, e.g. 4095", maxFlows))
	}
	if o.Sample < 1 {
		v.add("observability.sample", o.Sample, "write 1 to observe all connections, or n to observe one of n")
	}
	if _, err := observe.ParseFlowMetrics(o.Metrics); err != nil {
		v.add("observability.metrics", o.Metrics, err.Error())
	}
	v.socket("observability.socketPath", o.SocketPath)
	v.objectName("observability.tls.secretName", o.TLS.SecretName)
	v.objectName("observability.tls.relaySecretName", o.TLS.RelaySecretName)
	v.objectName("observability.tls.clientSecretName", o.TLS.ClientSecretName)
	v.objectName("observability.tls.serverName", o.TLS.ServerName)
	v.objectName("observability.tls.relayName", o.TLS.RelayName)
	v.absolute("observability.tls.certDir", o.TLS.CertDir)
	if o.Port == 0 {
		return
	}
	ports := []port{{"observability.port", o.Port}, {"agent.healthPort", p.HealthPort}}
	if p.Metrics.Enabled {
		ports = append(ports, port{"agent.metrics.port", p.Metrics.Port})
	}
	v.ports(ports)
}

func (v *violations) controller(p ControllerProcess) {
	ports := []port{{"controller.healthPort", p.HealthPort}, {"controller.webhook.port", p.Webhook.Port}}
	if p.Metrics.Enabled {
		ports = append(ports, port{"controller.metrics.port", p.Metrics.Port})
	}
	v.ports(ports)

	v.objectName("controller.leaderElection.leaseName", p.LeaderElection.LeaseName)
	e := p.LeaderElection
	if e.RetryPeriod.Duration <= 0 || e.RenewDeadline.Duration <= e.RetryPeriod.Duration || e.LeaseDuration.Duration <= e.RenewDeadline.Duration {
		v.add("controller.leaderElection", fmt.Sprintf("leaseDuration %s, renewDeadline %s, retryPeriod %s",
			e.LeaseDuration.Duration, e.RenewDeadline.Duration, e.RetryPeriod.Duration),
			"each must be positive and longer than the next")
	}

	v.objectName("controller.webhook.serviceName", p.Webhook.ServiceName)
	v.objectName("controller.webhook.mutatingWebhookConfiguration", p.Webhook.MutatingName)
	v.objectName("controller.webhook.validatingWebhookConfiguration", p.Webhook.ValidatingName)
	v.tls(p.Webhook.TLS)
	for i, ns := range p.Resources.NamespacesExclude {
		v.namespace(fmt.Sprintf("controller.podResourceInject.namespacesExclude[%d]", i), ns)
	}
	for i, ns := range p.Resources.NamespacesInclude {
		v.namespace(fmt.Sprintf("controller.podResourceInject.namespacesInclude[%d]", i), ns)
	}
}

func (v *violations) tls(t TLS) {
	const field = "controller.webhook.tls."
	v.objectName(field+"secretName", t.SecretName)
	switch t.Method {
	case TLSAuto:
		if t.CertLifetime.Duration <= 0 || t.CALifetime.Duration < t.CertLifetime.Duration {
			v.add(field+"caLifetime, certLifetime", fmt.Sprintf("%s, %s", t.CALifetime.Duration, t.CertLifetime.Duration),
				"both must be positive, and the CA must not expire before its certificate")
		}
		for i, ip := range t.ExtraIPs {
			if _, err := netip.ParseAddr(ip); err != nil {
				v.add(fmt.Sprintf("%sextraIPs[%d]", field, i), ip, "write an IP address")
			}
		}
		for i, name := range t.ExtraDNSNames {
			if len(validation.IsDNS1123Subdomain(name)) > 0 && len(validation.IsWildcardDNS1123Subdomain(name)) > 0 {
				v.add(fmt.Sprintf("%sextraDNSNames[%d]", field, i), name, "write a DNS name")
			}
		}
	case TLSProvided, TLSCertManager:
		v.absolute(field+"certDir", t.CertDir)
	default:
		v.add(field+"method", string(t.Method), "write auto, provided or certmanager")
	}
}

func (v *violations) attachment(field, ref string) {
	namespace, name, ok := strings.Cut(ref, "/")
	if !ok || len(validation.IsDNS1123Label(namespace)) > 0 || len(validation.IsDNS1123Subdomain(name)) > 0 {
		v.add(field, ref, "write namespace/name of a NetworkAttachmentDefinition")
	}
}

func (v *violations) install(j InstallJob) {
	if j.Timeout.Duration <= 0 {
		v.add("install.timeout", j.Timeout.Duration, "write a positive duration such as 5m")
	}
	if j.InstallMultus {
		v.absolute("install.cniConfDir", j.CNIConfDir)
	}
	if j.DefaultCNICRName != "" {
		v.objectName("install.defaultCNICRName", j.DefaultCNICRName)
	}
	for i, p := range j.DefaultPools {
		v.defaultPool(fmt.Sprintf("install.defaultPools[%d].", i), p)
	}
}

func (v *violations) defaultPool(field string, p DefaultPool) {
	v.objectName(field+"name", p.Name)
	if p.SubnetName != "" {
		v.objectName(field+"subnetName", p.SubnetName)
	}
	prefix, err := netip.ParsePrefix(p.Subnet)
	switch {
	case err != nil:
		v.add(field+"subnet", p.Subnet, "write the CIDR of the subnet, such as 172.31.16.0/20 (clusterDefaultPool.ipv4Subnet or ipv6Subnet of the chart)")
	case p.IPVersion == 4 && !prefix.Addr().Is4(), p.IPVersion == 6 && !prefix.Addr().Is6():
		v.add(field+"subnet", p.Subnet, fmt.Sprintf("ipVersion is %d; write a subnet of that IP version", p.IPVersion))
	}
	if p.IPVersion != 4 && p.IPVersion != 6 {
		v.add(field+"ipVersion", p.IPVersion, "write 4 or 6")
	}
	if p.Gateway != "" && net.ParseIP(p.Gateway) == nil {
		v.add(field+"gateway", p.Gateway, "write an IP address, or leave it empty")
	}
}

// port is a port and its field.
type port struct {
	field  string
	number int
}

// ports checks the listening ports of one process.
func (v *violations) ports(list []port) {
	seen := map[int]string{}
	for _, p := range list {
		if p.number < 1 || p.number > 65535 {
			v.add(p.field, p.number, "write a port between 1 and 65535")
			continue
		}
		if other, taken := seen[p.number]; taken {
			v.add(p.field, p.number, "it is also the value of "+other+"; choose different ports")
		}
		seen[p.number] = p.field
	}
}

func (v *violations) absolute(field, path string) {
	if !filepath.IsAbs(path) {
		v.add(field, path, "write an absolute path")
	}
}

func (v *violations) objectName(field, name string) {
	if name == "" || len(validation.IsDNS1123Subdomain(name)) > 0 {
		v.add(field, name, "write the name of a Kubernetes object: lower case letters, digits, '-' and '.'")
	}
}

func (v *violations) namespace(field, name string) {
	if len(validation.IsDNS1123Label(name)) > 0 {
		v.add(field, name, "write the name of a namespace")
	}
}
