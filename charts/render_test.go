//go:build apiserver

package charts

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"

	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/kube/definitions"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

// guide holds the Helm arguments of the AWS guide.
var guide = []string{"--set", "ipam.enableStatefulSet=false", "--set", "multus.multusCNI.defaultCniCRName=ipvlan-ens5"}

// helm runs helm with args and returns its output, or its error message in failure.
func helm(t *testing.T, args ...string) (stdout []byte, failure string) {
	t.Helper()
	return helmIn(t, "", args...)
}

// helmIn is helm in a directory.
func helmIn(t *testing.T, dir string, args ...string) (stdout []byte, failure string) {
	t.Helper()
	program := filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "helm")
	if _, err := os.Stat(program); err != nil {
		if program, err = exec.LookPath("helm"); err != nil {
			t.Fatal("helm is neither in KUBEBUILDER_ASSETS nor in PATH: make lab-tools builds it")
		}
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir = dir
	home := t.TempDir()
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return nil, err.Error() + ": " + errOut.String()
	}
	return out.Bytes(), ""
}

// render renders the chart for namespace kube-system.
func render(t *testing.T, args ...string) []byte {
	t.Helper()
	out, failure := helm(t, append([]string{"template", "spiderpool", "spiderpool", "--namespace", "kube-system"}, args...)...)
	if failure != "" {
		t.Fatal(failure)
	}
	return out
}

func TestChartIsWellFormed(t *testing.T) {
	out, failure := helm(t, "lint", "--strict", "spiderpool")
	if failure != "" {
		t.Errorf("%s\n%s", failure, out)
	}
}

func TestRenderedManifests(t *testing.T) {
	tests := map[string][]string{
		"default":    nil,
		"guide":      guide,
		"everything": {"-f", "testdata/everything.values.yaml"},
		"nothing":    {"-f", "testdata/nothing.values.yaml"},
		"provided":   {"-f", "testdata/provided.values.yaml"},
		"secure":     {"-f", "testdata/secure.values.yaml"},
	}
	for name, args := range tests {
		t.Run(name, func(t *testing.T) {
			golden(t, "testdata/"+name+".golden.yaml", render(t, args...))
		})
	}
}

// objectsOf decodes the objects of one kind.
func objectsOf[T any](t *testing.T, manifest []byte, kind string) map[string]T {
	t.Helper()
	found := map[string]T{}
	for document := range bytes.SplitSeq(manifest, []byte("\n---\n")) {
		var head struct {
			Kind     string
			Metadata struct{ Name string }
		}
		if err := yaml.Unmarshal(document, &head); err != nil {
			t.Fatal(err)
		}
		if head.Kind != kind {
			continue
		}
		var object T
		if err := yaml.UnmarshalStrict(document, &object); err != nil {
			t.Fatalf("%s %s: %v", kind, head.Metadata.Name, err)
		}
		found[head.Metadata.Name] = object
	}
	return found
}

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

func TestImagesComeFromMirror(t *testing.T) {
	manifest := render(t, append(guide, "--set", "global.imageRegistryOverride=mirror.example:5000",
		"--set", "spiderpoolController.image.digest=sha256:0000000000000000000000000000000000000000000000000000000000000000",
		"--set", "spiderpoolAgent.image.tag=v9")...)
	var images []string
	for _, ds := range objectsOf[appsv1.DaemonSet](t, manifest, "DaemonSet") {
		for _, c := range append(ds.Spec.Template.Spec.InitContainers, ds.Spec.Template.Spec.Containers...) {
			images = append(images, c.Image)
		}
	}
	for _, d := range objectsOf[appsv1.Deployment](t, manifest, "Deployment") {
		images = append(images, d.Spec.Template.Spec.Containers[0].Image)
	}
	wanted := map[string]bool{
		"mirror.example:5000/spiderpool-agent:v9":                                                                           true,
		"mirror.example:5000/k8snetworkplumbingwg/multus-cni:v4.2.3":                                                        true,
		"mirror.example:5000/spiderpool-controller@sha256:0000000000000000000000000000000000000000000000000000000000000000": true,
	}
	for _, image := range images {
		if !wanted[image] {
			t.Errorf("image %s", image)
		}
	}
	if len(images) != 7 {
		t.Errorf("images %q, want 7", images)
	}
}

func TestOurImagesComeFromOneRegistry(t *testing.T) {
	manifest := render(t, "--set", "global.imageRegistry=registry.example/team,plugins.installCNI=true")
	got := map[string]bool{}
	for image := range images(manifest) {
		got[image] = true
	}
	want := map[string]bool{
		"registry.example/team/spiderpool-agent:v0.1.0": true, "registry.example/team/spiderpool-controller:v0.1.0": true,
		"registry.example/team/spiderpool-plugins:v0.1.0": true, "ghcr.io/k8snetworkplumbingwg/multus-cni:v4.2.3": true,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("images (-want +got):\n%s", diff)
	}
}

// images yields the image of each container, also those of hooks.
func images(manifest []byte) func(func(string) bool) {
	return func(yield func(string) bool) {
		for line := range strings.Lines(string(manifest)) {
			if image, ok := strings.CutPrefix(strings.TrimLeft(line, " -"), "image: "); ok && !yield(strings.TrimSpace(image)) {
				return
			}
		}
	}
}

// The guides install the packaged chart.
func TestPackageRendersLikeDirectory(t *testing.T) {
	dir := t.TempDir()
	if _, failure := helm(t, "package", "spiderpool", "--destination", dir); failure != "" {
		t.Fatal(failure)
	}
	packages, err := filepath.Glob(filepath.Join(dir, "*.tgz"))
	if err != nil || len(packages) != 1 {
		t.Fatalf("packages %q, %v", packages, err)
	}
	out, failure := helm(t, append([]string{"template", "spiderpool", packages[0], "--namespace", "kube-system"}, guide...)...)
	if failure != "" {
		t.Fatal(failure)
	}
	golden(t, "testdata/guide.golden.yaml", out)
	if name := "dist/" + filepath.Base(packages[0]); !strings.Contains(read(t, "../docs/guides/install.md"), name) {
		t.Errorf("docs/guides/install.md does not install %s", name)
	}
}

func TestHookMayWriteEveryDefinition(t *testing.T) {
	var want []string
	wanted, err := definitions.All()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range wanted {
		want = append(want, d.GetName())
	}
	want = append(want, "network-attachment-definitions.k8s.cni.cncf.io") // if it is missing
	for _, rule := range objectsOf[rbacv1.ClusterRole](t, render(t), "ClusterRole")["spiderpool-init-definitions"].Rules {
		if slices.Contains(rule.Resources, "customresourcedefinitions") {
			if diff := cmp.Diff(want, rule.ResourceNames); diff != "" {
				t.Errorf("definitions of the role (-want +got):\n%s", diff)
			}
			return
		}
	}
	t.Error("the role has no rule for definitions")
}

func TestNoWorkloadNeedsPodNetwork(t *testing.T) {
	manifest := render(t, guide...)
	specs := map[string]corev1.PodSpec{}
	for name, ds := range objectsOf[appsv1.DaemonSet](t, manifest, "DaemonSet") {
		specs[name] = ds.Spec.Template.Spec
	}
	for name, d := range objectsOf[appsv1.Deployment](t, manifest, "Deployment") {
		specs[name] = d.Spec.Template.Spec
	}
	if len(specs) != 4 {
		t.Fatalf("%d workloads, want agent, multus, controller and the cleaner of the removal", len(specs))
	}
	notReady := corev1.Taint{Key: "node.kubernetes.io/not-ready", Effect: corev1.TaintEffectNoSchedule}
	for name, spec := range specs {
		if !spec.HostNetwork {
			t.Errorf("%s needs a pod network", name)
		}
		tolerated := false
		for _, toleration := range spec.Tolerations {
			tolerated = tolerated || toleration.Operator == corev1.TolerationOpExists &&
				(toleration.Key == "" || toleration.Key == notReady.Key) && (toleration.Effect == "" || toleration.Effect == notReady.Effect)
		}
		if !tolerated {
			t.Errorf("%s does not start on a NotReady node: %+v", name, spec.Tolerations)
		}
	}
}

func TestBadValuesAreRejected(t *testing.T) {
	tests := map[string]struct {
		set, want string
	}{
		"unknown key":           {"ipam.enableIPv5=true", "enableIPv5"},
		"unknown group":         {"spiderpoolAgnet.httpPort=1", "spiderpoolAgnet"},
		"unknown key of image":  {"spiderpoolAgent.image.repo=x", "repo"},
		"address provider":      {"iaasNetworkProvider.serverUrl=https://iaas.example", "set cloud.enabled to true, or leave the URL empty"},
		"wrong type":            {"ipam.enableIPv4=yes", "enableIPv4"},
		"mode":                  {"coordinator.mode=fast", "mode"},
		"pool without subnet":   {"clusterDefaultPool.installIPv4IPPool=true", "clusterDefaultPool.ipv4Subnet is empty, but clusterDefaultPool.installIPv4IPPool is true: set the subnet"},
		"tls without files":     {"spiderpoolController.tls.method=provided", "spiderpoolController.tls.provided.tlsC"},
		"monitor but no metric": {"spiderpoolAgent.prometheus.serviceMonitor.install=true", "spiderpoolAgent.prometheus.enabled is false"},
		"monitor far from its CA": {
			"spiderpoolAgent.prometheus.enabled=true,spiderpoolAgent.prometheus.secure=true,spiderpoolAgent.prometheus.serviceMonitor.install=true,spiderpoolAgent.prometheus.serviceMonitor.namespace=monitoring",
			"spiderpoolAgent.prometheus.serviceMonitor.namespace is monitoring",
		},
		"console without certificate": {"console.enabled=true,spiderpoolController.tls.method=certmanager", "console.tls.secretName is empty, but spiderpoolController.tls.method is certmanager"},
		"foreign plugin":              {"plugins.installOvsCNI=true", "it lacks these plugins: ovs. Set plugins.image"},
		"sriov":                       {"sriov.install=true", "does not contain the SR-IOV network operator"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, failure := helm(t, "template", "spiderpool", "spiderpool", "--set", test.set)
			if !strings.Contains(failure, test.want) {
				t.Errorf("failure %q does not say %q", failure, test.want)
			}
		})
	}
}

// kubeconfig writes a kubeconfig file with administrator access to the test's API server.
func kubeconfig(t *testing.T) string {
	t.Helper()
	rest := kubetest.Config(t)
	const name = "test"
	access := clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{name: {Server: rest.Host, CertificateAuthorityData: rest.CAData}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{name: {ClientCertificateData: rest.CertData, ClientKeyData: rest.KeyData, Token: rest.BearerToken}},
		Contexts:       map[string]*clientcmdapi.Context{name: {Cluster: name, AuthInfo: name}},
		CurrentContext: name,
	}
	if !strings.Contains(access.Clusters[name].Server, "://") {
		access.Clusters[name].Server = "https://" + access.Clusters[name].Server
	}
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(access, file); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestAPIServerAcceptsEveryObject(t *testing.T) {
	access := kubeconfig(t)
	for name, args := range map[string][]string{
		"guide": guide,
		// Without the objects of kinds that cert-manager and the Prometheus operator define.
		"most": {"-f", "testdata/everything.values.yaml",
			"--set", "spiderpoolController.tls.method=auto",
			"--set", "spiderpoolAgent.prometheus.serviceMonitor.install=false,spiderpoolAgent.prometheus.prometheusRule.install=false",
			"--set", "spiderpoolController.prometheus.serviceMonitor.install=false,spiderpoolController.prometheus.prometheusRule.install=false"},
	} {
		t.Run(name, func(t *testing.T) {
			_, failure := helm(t, append([]string{"install", "spiderpool", "spiderpool", "--namespace", "kube-system",
				"--kubeconfig", access, "--dry-run=server"}, args...)...)
			if failure != "" {
				t.Error(failure)
			}
		})
	}
}

// Helm must not take over the Secret created by the controller.
func TestUpgradeToProvidedCertificate(t *testing.T) {
	base := []string{"spiderpool", "--namespace", "kube-system", "--kubeconfig", kubeconfig(t), "--no-hooks"}
	if _, failure := helm(t, append([]string{"install", "spiderpool"}, base...)...); failure != "" {
		t.Fatal(failure)
	}
	kubetest.Create(t, kubetest.Client(t), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "spiderpool-controller-server-certs"},
		Type:       corev1.SecretTypeTLS, Data: map[string][]byte{corev1.TLSCertKey: {}, corev1.TLSPrivateKeyKey: {}},
	})
	provided := []string{"-f", "testdata/provided.values.yaml", "--set", "spiderpoolController.tls.secretName="}
	if _, failure := helm(t, append(append([]string{"upgrade", "spiderpool"}, base...), provided...)...); failure != "" {
		t.Error(failure)
	}
	if _, failure := helm(t, append([]string{"uninstall"}, base...)...); failure != "" {
		t.Error(failure)
	}
}

func TestInstallAndUninstallWithoutHooks(t *testing.T) {
	access := kubeconfig(t)
	base := []string{"spiderpool", "--namespace", "kube-system", "--kubeconfig", access, "--no-hooks"}
	if _, failure := helm(t, append(append([]string{"install", "spiderpool"}, base...), guide...)...); failure != "" {
		t.Fatal(failure)
	}
	if _, failure := helm(t, append(append([]string{"upgrade", "spiderpool"}, base...), "--set", "spiderpoolController.replicas=2")...); failure != "" {
		t.Error(failure)
	}
	if _, failure := helm(t, append([]string{"uninstall"}, base...)...); failure != "" {
		t.Error(failure)
	}
}

func TestAgentHasTwoCapabilities(t *testing.T) {
	agent := func(args ...string) corev1.Container {
		return objectsOf[appsv1.DaemonSet](t, render(t, args...), "DaemonSet")["spiderpool-agent"].Spec.Template.Spec.Containers[0]
	}
	c := agent()
	want := &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"NET_ADMIN", "SYS_ADMIN"}}
	if sc := c.SecurityContext; sc.Privileged != nil || !reflect.DeepEqual(sc.Capabilities, want) || !*sc.ReadOnlyRootFilesystem ||
		*sc.AllowPrivilegeEscalation || sc.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("the agent has %+v", sc)
	}
	for _, mount := range c.VolumeMounts {
		if writable := slices.Contains([]string{"socket", "state", "sysctls", "bpffs"}, mount.Name); mount.ReadOnly == writable {
			t.Errorf("mount %s: read-only is %v", mount.Name, mount.ReadOnly)
		}
	}
	// AppArmor's default profile denies the programs and maps of services.
	if p := c.SecurityContext.AppArmorProfile; p == nil || p.Type != corev1.AppArmorProfileTypeUnconfined {
		t.Errorf("the agent has the AppArmor profile %v", p)
	}
	if p := agent("--set", "service.mode=kubeproxy").SecurityContext.AppArmorProfile; p != nil {
		t.Errorf("with service.mode=kubeproxy, the agent has the AppArmor profile %v", p)
	}
	// The API server refuses privileged together with allowPrivilegeEscalation: false.
	if sc := agent("--set", "spiderpoolAgent.securityContext.privileged=true").SecurityContext; !*sc.Privileged || sc.AllowPrivilegeEscalation != nil {
		t.Errorf("a privileged agent has %+v", sc)
	}
}

func TestInstallersAreNotPrivileged(t *testing.T) {
	manifest := render(t, "-f", "testdata/everything.values.yaml")
	for name, ds := range objectsOf[appsv1.DaemonSet](t, manifest, "DaemonSet") {
		containers := ds.Spec.Template.Spec.InitContainers
		if name == "spiderpool-multus" {
			containers = append(containers, ds.Spec.Template.Spec.Containers...)
		}
		add := []corev1.Capability{"DAC_OVERRIDE"}
		if name == "spiderpool-init-clean" {
			add = append(add, "NET_ADMIN", "SYS_ADMIN")
		}
		for _, c := range containers {
			sc := c.SecurityContext
			if sc == nil || sc.Privileged != nil && *sc.Privileged || sc.Capabilities == nil ||
				!slices.Equal(sc.Capabilities.Drop, []corev1.Capability{"ALL"}) || !slices.Equal(sc.Capabilities.Add, add) {
				t.Errorf("%s/%s has %+v", name, c.Name, sc)
			}
		}
		for _, c := range ds.Spec.Template.Spec.Containers {
			for _, mount := range c.VolumeMounts {
				if strings.HasPrefix(mount.Name, "cri-") && !mount.ReadOnly {
					t.Errorf("%s/%s may write to the directory of the runtime's socket", name, c.Name)
				}
			}
		}
	}
}
