//go:build apiserver

package charts

import (
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"spiderpool.dev/spiderpool/internal/config"
)

// configuration parses the configuration file in a manifest the way the programs do.
func configuration(t *testing.T, manifest []byte) *config.File {
	t.Helper()
	file, err := config.Parse([]byte(objectsOf[corev1.ConfigMap](t, manifest, "ConfigMap")["spiderpool-conf"].Data["config.yaml"]))
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func TestChartAndProgramDefaultsAgree(t *testing.T) {
	file := configuration(t, render(t))
	// Accepted for compatibility and passed on by the chart.
	file.Coordinator.Spec.DetectGateway, file.Coordinator.Spec.DetectIPConflict = nil, nil
	if len(file.Coordinator.Spec.PolicyRoutes) == 0 {
		file.Coordinator.Spec.PolicyRoutes = nil
	}
	want := config.Default()
	want.AgentProcess.SysctlDir = "/host/proc/sys" // the mount in the agent's container
	want.Service.Mode = config.ServiceAuto         // an agent outside of the chart, e.g. in a test, leaves the node's sockets alone
	want.ControllerProcess.Resources.NamespacesExclude = file.ControllerProcess.Resources.NamespacesExclude
	got, wanted := marshal(t, file), marshal(t, want)
	// An empty list equals nil.
	lists := strings.NewReplacer(": []", ": null")
	got, wanted = lists.Replace(got), lists.Replace(wanted)
	if got != wanted {
		t.Error(firstDifference(wanted, got))
	}
}

func marshal(t *testing.T, file *config.File) string {
	t.Helper()
	out, err := yaml.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestValuesReachTheConfiguration(t *testing.T) {
	file := configuration(t, render(t, append(guide,
		"--set", "ipam.enableStatefulSet=false",
		"--set", "ipam.gc.gcAll.intervalInSecond=30",
		"--set", "spiderpoolAgent.httpPort=6000",
		"--set-string", "spiderpoolController.webhookPort=6001",
		"--set", "spiderpoolController.debug.logLevel=fatal",
		"--set", "global.ciliumConfigMap=cilium/cfg",
		"--set", "coordinator.policyRoutes[0].dst=10.0.0.0/8,coordinator.policyRoutes[0].gw=10.0.0.1",
		"--set", "clusterDefaultPool.installIPv4IPPool=true,clusterDefaultPool.ipv4Subnet=10.1.0.0/16,clusterDefaultPool.ipv4IPRanges={10.1.0.5-10.1.0.9}",
	)...))
	for name, pair := range map[string][2]any{
		"enableStatefulSet": {file.IPAM.EnableStatefulSet, false},
		"interval":          {file.IPAM.GC.GCAll.IntervalInSecond, 30},
		"health port":       {file.AgentProcess.HealthPort, 6000},
		"webhook port":      {file.ControllerProcess.Webhook.Port, 6001},
		"log level":         {file.ControllerProcess.LogLevel.String(), "ERROR"},
		"default network":   {file.Multus.DefaultNetwork, "kube-system/ipvlan-ens5"},
		"attachment":        {file.InstallJob.DefaultCNICRName, "ipvlan-ens5"},
		"cilium":            {file.Coordinator.CiliumConfigMap, config.ObjectName{Namespace: "cilium", Name: "cfg"}},
		"policy route":      {file.Coordinator.Spec.PolicyRoutes[0].Gw, "10.0.0.1"},
		"pool":              {file.InstallJob.DefaultPools[0].IPRanges[0], "10.1.0.5-10.1.0.9"},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: got %v, want %v", name, pair[0], pair[1])
		}
	}
}

// TestPathsReachPlugins: agent and plugins must agree on the socket and the releases.
func TestPathsReachPlugins(t *testing.T) {
	const socket, state = "/run/other/agent.sock", "/srv/spiderpool"
	manifest := render(t, append(guide, "--set", "global.ipamUNIXSocketHostPath="+socket, "--set", "spiderpoolAgent.stateHostPath="+state)...)
	if agent := configuration(t, manifest).AgentProcess; agent.SocketPath != socket || agent.StateDir != state {
		t.Errorf("the agent has the socket %s and the state in %s", agent.SocketPath, agent.StateDir)
	}
	spec := objectsOf[appsv1.DaemonSet](t, manifest, "DaemonSet")["spiderpool-agent"].Spec.Template.Spec
	var installer []string
	for _, c := range spec.InitContainers {
		if c.Name == "install-plugins" {
			installer = c.Args
		}
	}
	for _, want := range []string{"--socket=" + socket, "--state-dir=" + state} {
		if !slices.Contains(installer, want) {
			t.Errorf("the installer of the plugins has %q, want %s", installer, want)
		}
	}
	mounted := map[string]string{}
	for _, m := range spec.Containers[0].VolumeMounts {
		mounted[m.Name] = m.MountPath
	}
	for _, v := range spec.Volumes {
		if v.HostPath == nil || v.Name != "socket" && v.Name != "state" {
			continue
		}
		if v.HostPath.Path != mounted[v.Name] {
			t.Errorf("volume %s has the path %s on the node and %s in the agent", v.Name, v.HostPath.Path, mounted[v.Name])
		}
		delete(mounted, v.Name)
	}
	if mounted["socket"] != "" || mounted["state"] != "" {
		t.Errorf("no volume of the node for %v", mounted)
	}
}
