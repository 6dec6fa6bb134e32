package cluster

import (
	"context"
	"fmt"
	"path/filepath"

	"spiderpool.dev/spiderpool/test/lab/internal/build"
	"spiderpool.dev/spiderpool/test/lab/internal/controlplane"
	"spiderpool.dev/spiderpool/test/lab/internal/daemon"
	"spiderpool.dev/spiderpool/test/lab/internal/registry"
	"spiderpool.dev/spiderpool/test/lab/internal/topology"
)

const (
	// etc is the directory of a node's Kubernetes configuration.
	etc              = "/etc/kubernetes"
	containerdSocket = "/run/containerd/containerd.sock"
	containerdConfig = "/etc/containerd/config.toml"
	kubeletConfig    = "/var/lib/kubelet-config.yaml"
	proxyConfig      = "/var/lib/kube-proxy-config.yaml"
)

// environment is the environment of every daemon. The lab's programs come first in
// PATH, so that containerd finds its shim.
func (c *Cluster) environment() []string {
	env := []string{"PATH=" + c.Programs + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
	if c.Processor != "" {
		// In User Mode Linux, each first touch of a page and each signal cost as much as
		// thousands of instructions. So programs keep their pages and are not preempted.
		env = append(env, "GODEBUG=madvdontneed=0,asyncpreemptoff=1")
	}
	return env
}

// runtimeFiles are the configuration files of a node's daemons.
func (c *Cluster) runtimeFiles(node topology.Host) map[string]string {
	return map[string]string{
		containerdConfig: fmt.Sprintf(containerdTOML, containerdSocket, build.PauseImage),
		"/etc/containerd/certs.d/_default/hosts.toml": registry.Hosts(c.Topology.RegistryAddress().String()),
		kubeletConfig: fmt.Sprintf(kubeletYAML, "/"+c.group(node), containerdSocket, controlplane.DNSAddress, controlplane.DNSDomain, c.providerID(node)),
		proxyConfig:   fmt.Sprintf(proxyYAML, c.KubeProxyMode, node.Name),
	}
}

// containerdTOML takes the socket and the pause image. containerd discards layers once
// they are unpacked, because they are in memory. restrict_oom_score_adj is set because
// root may lack the capability to lower the score.
const containerdTOML = `version = 3
root = "/var/lib/containerd"
state = "/run/containerd"

[grpc]
  address = %q

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  discard_unpacked_layers = true
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = %q
  [plugins."io.containerd.cri.v1.images".registry]
    config_path = "/etc/containerd/certs.d"

[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/opt/cni/bin"]
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
`

// kubeletYAML takes the control group, the runtime's socket, the DNS address and
// domain, and the provider ID. A full node evicts no pods: the lab's file systems are in
// memory and shared with the machine's. A pod beyond its own limit is evicted.
const kubeletYAML = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: /etc/kubernetes/ca.crt}
authorization: {mode: Webhook}
tlsCertFile: /etc/kubernetes/kubelet.crt
tlsPrivateKeyFile: /etc/kubernetes/kubelet.key
rotateCertificates: false
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: %s
enforceNodeAllocatable: []
failSwapOn: false
containerRuntimeEndpoint: unix://%s
serializeImagePulls: false
clusterDNS: [%s]
clusterDomain: %s
providerID: %q
evictionHard: {memory.available: "1Mi", nodefs.available: "0%%", nodefs.inodesFree: "0%%", imagefs.available: "0%%", imagefs.inodesFree: "0%%"}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
`

// proxyYAML takes the mode and the node name. Zeros mean that kube-proxy does not set
// sysctls that a network namespace does not have. The timeouts are the defaults.
const proxyYAML = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: %q
hostnameOverride: %q
clientConnection: {kubeconfig: /etc/kubernetes/kube-proxy.conf}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 24h, tcpCloseWaitTimeout: 1h}
metricsBindAddress: 127.0.0.1:10249
healthzBindAddress: 127.0.0.1:10256
`

func (c *Cluster) containerd() ([]daemon.Spec, error) {
	return c.perNode(func(topology.Host) [][]string {
		return [][]string{{c.program("containerd"), "--config", containerdConfig}}
	})
}

func (c *Cluster) nodeAgents() ([]daemon.Spec, error) {
	return c.perNode(func(node topology.Host) [][]string {
		kubelet := []string{c.program("kubelet"), "--config=" + kubeletConfig, "--kubeconfig=" + etc + "/kubelet.conf",
			"--hostname-override=" + node.Name, "--node-ip=" + joined(node.Addresses())}
		if zone := c.zone(node); zone != "" {
			kubelet = append(kubelet, "--node-labels=topology.kubernetes.io/zone="+zone)
		}
		return [][]string{kubelet, {c.program("kube-proxy"), "--config=" + proxyConfig}}
	})
}

// perNode turns command lines into daemons for every node.
func (c *Cluster) perNode(commands func(topology.Host) [][]string) ([]daemon.Spec, error) {
	var specs []daemon.Spec
	for _, node := range c.Topology.Nodes {
		target, err := c.target(node.Name)
		if err != nil {
			return nil, err
		}
		for _, args := range commands(node) {
			specs = append(specs, daemon.Spec{Name: node.Name + "/" + filepath.Base(args[0]), Target: target, Args: args, Env: c.environment()})
		}
	}
	return specs, nil
}

// waitContainerd waits until containerd listens on every node.
func (c *Cluster) waitContainerd(ctx context.Context) error {
	return c.eachNode(func(node topology.Host) error {
		target, err := c.target(node.Name)
		if err != nil {
			return err
		}
		return c.daemons.Await(ctx, func(ctx context.Context) error {
			conn, err := target.Dial(ctx, "unix", containerdSocket)
			if err != nil {
				return err
			}
			return conn.Close()
		}, node.Name+"/containerd")
	})
}

// zone returns the availability zone of the node's first subnet, or "" on a layer-2
// network.
func (c *Cluster) zone(node topology.Host) string {
	subnet, _ := c.Topology.Subnet(node.Interfaces[0].Subnet)
	return subnet.Zone
}

// providerID returns the node's ID in the simulated cloud.
func (c *Cluster) providerID(node topology.Host) string {
	if c.Topology.Kind != topology.KindAWS {
		return "lab:///" + node.Name
	}
	return fmt.Sprintf("aws:///%s/%s", c.zone(node), node.InstanceID())
}
