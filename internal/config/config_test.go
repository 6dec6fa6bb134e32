package config

import (
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/pool"
)

const header = "apiVersion: " + APIVersion + "\nkind: " + Kind + "\n"

func TestAbsentKeysHaveTheDefault(t *testing.T) {
	got, err := Parse([]byte(header))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), got); diff != "" {
		t.Errorf("want (-), got (+):\n%s", diff)
	}
}

func TestDefaultNamesEveryKey(t *testing.T) {
	var written map[string]any
	if err := yaml.Unmarshal(defaults, &written); err != nil {
		t.Fatal(err)
	}
	raw, err := yaml.Marshal(Default())
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]any
	if err := yaml.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	for _, key := range missing("", all, written) {
		t.Errorf("default.yaml lacks %s", key)
	}
}

// missing returns the keys of want that got lacks.
func missing(path string, want, got map[string]any) (keys []string) {
	for key, value := range want {
		inner, ok := got[key]
		if !ok {
			keys = append(keys, path+key)
		}
		if value, ok := value.(map[string]any); ok {
			below, _ := inner.(map[string]any)
			keys = append(keys, missing(path+key+".", value, below)...)
		}
	}
	return keys
}

func TestDefaultSurvivesRoundTrip(t *testing.T) {
	raw, err := yaml.Marshal(Default())
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), got); diff != "" {
		t.Errorf("parsed from its own text:\n%s\nwant (-), got (+):\n%s", raw, diff)
	}
}

func TestKeysOverwriteDefaults(t *testing.T) {
	file, err := Parse([]byte(header + `
ipam: {enableStatefulSet: false, gc: {statelessPod: {zombieOnReadyNode: false}}}
coordinator: {spec: {mode: underlay, hijackCIDR: ["10.0.0.0/8"]}}
multus: {defaultNetwork: kube-system/ipvlan-ens5, defaultNetworks: [net/storage]}
iaasNetworkProvider: {httpRequestTimeout: 3s}
agent: {logLevel: debug, criSockets: [/run/a.sock]}
`))
	if err != nil {
		t.Fatal(err)
	}
	agent, err := file.Agent(environ{EnvNodeName: "n1", EnvPodName: "p", EnvPodNamespace: "kube-system"}.get)
	if err != nil {
		t.Fatal(err)
	}
	if agent.NodeName != "n1" || agent.PodNamespace != "kube-system" {
		t.Errorf("environment = %+v", agent.Environment)
	}
	if agent.IPAM.EnableStatefulSet || !agent.IPAM.EnableKubevirtStaticIP {
		t.Errorf("fixed addresses: StatefulSet %t, KubeVirt %t, want false, true", agent.IPAM.EnableStatefulSet, agent.IPAM.EnableKubevirtStaticIP)
	}
	if agent.IPAM.GC.Pods.ZombieOnReadyNode || !agent.IPAM.GC.Pods.ZombieOnNotReadyNode {
		t.Errorf("gc = %+v", agent.IPAM.GC)
	}
	if agent.LogLevel != slog.LevelDebug {
		t.Errorf("log level %s, want DEBUG", agent.LogLevel)
	}
	if want := []string{"/run/a.sock"}; !slices.Equal(agent.CRISockets, want) {
		t.Errorf("criSockets = %q, want %q: a list replaces the default", agent.CRISockets, want)
	}
	network := pool.ClusterNetwork{
		Default: pool.NetworkAttachment{Namespace: "kube-system", Name: "ipvlan-ens5"}, Namespace: "kube-system",
		Additional: []pool.NetworkAttachment{{Namespace: "net", Name: "storage"}}, SystemNamespaces: []string{"kube-system"},
	}
	if diff := cmp.Diff(network, agent.Multus.ClusterNetwork(agent.PodNamespace)); diff != "" {
		t.Errorf("networks of a pod (-want +got):\n%s", diff)
	}
	spec := file.Coordinator.Spec
	if *spec.Mode != v2beta1.ModeUnderlay || *spec.VethMTU != 1500 || !slices.Equal(spec.HijackCIDR, []string{"10.0.0.0/8"}) {
		t.Errorf("coordinator spec = %+v", spec)
	}
	if file.IaaS.HTTPRequestTimeout.Duration != 3*time.Second {
		t.Errorf("httpRequestTimeout = %s", file.IaaS.HTTPRequestTimeout.Duration)
	}
}

func TestParseRejectsBadConfiguration(t *testing.T) {
	tests := map[string]struct{ text, want string }{
		"unknown key":        {header + "ipam: {enableIPv5: true}", `unknown field "ipam.enableIPv5"`},
		"wrong case":         {header + "ipam: {enableipv4: true}", `unknown field "ipam.enableipv4"`},
		"repeated key":       {header + "ipam: {enableIPv4: true, enableIPv4: false}", `key "enableIPv4" already set in map`},
		"wrong type":         {header + "agent: {healthPort: many}", "healthPort"},
		"not ours":           {"apiVersion: v1\nkind: ConfigMap\n", `apiVersion, kind: Invalid value: "v1, ConfigMap": write ` + APIVersion},
		"no version":         {"ipam: {}", "apiVersion, kind"},
		"no family":          {header + "ipam: {enableIPv4: false, enableIPv6: false}", "enable at least one"},
		"log level":          {header + "agent: {logLevel: loud}", `unknown name`},
		"auto pools alone":   {header + "ipam: {spiderSubnet: {enable: false}}", "ipam.spiderSubnet.autoPool.enable: Invalid value: true: it needs ipam.spiderSubnet.enable"},
		"scan interval":      {header + "ipam: {gc: {gcAll: {intervalInSecond: 0}}}", "ipam.gc.gcAll.intervalInSecond: Invalid value: 0: write 1 or more seconds"},
		"deletion delay":     {header + "ipam: {gc: {gcDeletingTimeOutPodDelay: -1}}", "ipam.gc.gcDeletingTimeOutPodDelay: Invalid value: -1"},
		"default network":    {header + "multus: {defaultNetwork: ipvlan-ens5}", `multus.defaultNetwork: Invalid value: "ipvlan-ens5": write namespace/name`},
		"default networks":   {header + "multus: {defaultNetworks: [a/b, c]}", `multus.defaultNetworks[1]: Invalid value: "c": write namespace/name`},
		"service mode":       {header + "service: {mode: ipvs}", `service.mode: Invalid value: "ipvs": write auto, ebpf or kubeproxy`},
		"control group":      {header + "service: {cgroup: /kubepods}", `service.cgroup: Invalid value: "/kubepods": write a path below`},
		"relative socket":    {header + "agent: {socketPath: spiderpool.sock}", `agent.socketPath: Invalid value: "spiderpool.sock": write an absolute path`},
		"long socket":        {header + "agent: {socketPath: /" + strings.Repeat("a", 107) + "}", "has at most 107"},
		"port out of range":  {header + "agent: {healthPort: 70000}", "agent.healthPort: Invalid value: 70000"},
		"port taken twice":   {header + "controller: {webhook: {port: 5720}}", "controller.webhook.port: Invalid value: 5720: it is also the value of controller.healthPort"},
		"tls method":         {header + "controller: {webhook: {tls: {method: acme}}}", `controller.webhook.tls.method: Invalid value: "acme": write auto, provided or certmanager`},
		"tls address":        {header + "controller: {webhook: {tls: {extraIPs: [host]}}}", "controller.webhook.tls.extraIPs[0]"},
		"CA before its leaf": {header + "controller: {webhook: {tls: {caLifetime: 1h}}}", "must not expire before"},
		"lease timing":       {header + "controller: {leaderElection: {leaseDuration: 5s}}", "controller.leaderElection: Invalid value: \"leaseDuration 5s"},
		"server URL":         {header + "iaasNetworkProvider: {serverUrl: 'ftp://x'}", "iaasNetworkProvider.serverUrl"},
		"half a secret":      {header + "iaasNetworkProvider: {tlsSecret: {name: x}}", "give both namespace and name"},
		"pool subnet":        {header + "install: {defaultPools: [{name: p, ipVersion: 4}]}", `install.defaultPools[0].subnet: Invalid value: ""`},
		"pool family":        {header + "install: {defaultPools: [{name: p, ipVersion: 4, subnet: 'fd00::/64'}]}", "ipVersion is 4; write a subnet of that IP version"},
		"console port":       {header + "console: {port: 5730}", "console.healthPort: Invalid value: 5730: it is also the value of console.port"},
		"flows of console":   {header + "console: {flows: {server: relay}}", `console.flows.server: Invalid value: "relay": write HOST:PORT`},
		"attachment name":    {header + "install: {defaultCNICRName: ipvlan_ens5}", `install.defaultCNICRName: Invalid value: "ipvlan_ens5"`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(test.text))
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %q does not say %q", err, test.want)
			}
		})
	}
}

func TestAllErrorsAreReportedTogether(t *testing.T) {
	_, err := Parse([]byte(header + "agent: {healthPort: 0, stateDir: x}\nipam: {gc: {gcAll: {intervalInSecond: 0}}}"))
	for _, want := range []string{"agent.healthPort", "agent.stateDir", "ipam.gc.gcAll.intervalInSecond"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not name %s", err, want)
		}
	}
}

func TestViewsRequireTheirEnvironment(t *testing.T) {
	all := environ{EnvNodeName: "n", EnvPodName: "p", EnvPodNamespace: "ns"}
	tests := map[string]struct {
		view  func(func(string) string) error
		needs []string
	}{
		"agent":      {func(g func(string) string) error { _, err := Default().Agent(g); return err }, []string{EnvNodeName, EnvPodName, EnvPodNamespace}},
		"controller": {func(g func(string) string) error { _, err := Default().Controller(g); return err }, []string{EnvPodName, EnvPodNamespace}},
		"install":    {func(g func(string) string) error { _, err := Default().Install(g); return err }, []string{EnvPodNamespace}},
		"console":    {func(g func(string) string) error { _, err := Default().Console(g); return err }, []string{EnvPodNamespace}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if err := test.view(all.get); err != nil {
				t.Errorf("complete environment: %v", err)
			}
			for _, missing := range test.needs {
				err := test.view(func(key string) string {
					if key == missing {
						return ""
					}
					return all.get(key)
				})
				if err == nil || !strings.Contains(err.Error(), missing) {
					t.Errorf("without %s: %v", missing, err)
				}
			}
		})
	}
}

// docs/reference/differences.md says that the environment variables of the original have no effect.
func TestEnvironmentNamesThePodOnly(t *testing.T) {
	asked := map[string]bool{}
	getenv := func(name string) string { asked[name] = true; return "false" }
	controller, err := Default().Controller(getenv)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Default().Agent(getenv); err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{EnvNodeName: true, EnvPodName: true, EnvPodNamespace: true}
	if !maps.Equal(asked, want) || !controller.IPAM.GC.Enabled {
		t.Errorf("asked for %v, want %v", asked, want)
	}
}

func TestDisabledCoordinatorHasNoName(t *testing.T) {
	file, err := Parse([]byte(header + "coordinator: {enabled: false}"))
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := file.Controller(environ{EnvPodName: "p", EnvPodNamespace: "ns"}.get)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.CoordinatorName != "" {
		t.Errorf("coordinator name %q, want none", cfg.CoordinatorName)
	}
}

func TestControllerIssuesCertificateOfConsole(t *testing.T) {
	for text, want := range map[string]bool{
		"console: {enabled: false}":                                                     false,
		"console: {enabled: true}":                                                      true,
		"console: {enabled: true, tls: {enabled: false}}":                               false,
		"console: {enabled: true, tls: {issued: false}}":                                false,
		"console: {enabled: true}\ncontroller: {webhook: {tls: {method: certmanager}}}": false,
	} {
		file, err := Parse([]byte(header + text))
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := file.Controller(environ{EnvPodName: "p", EnvPodNamespace: "ns"}.get)
		if got := cfg.ConsoleTLS != nil; got != want || err != nil {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
}

type environ map[string]string

func (e environ) get(key string) string { return e[key] }
