package charts

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// anything marks a default that we may change.
var anything = struct{}{}

// published lists the values that users have in their files and scripts. No key
// may disappear, and no default may change.
var published = map[string]any{
	"global.imageRegistryOverride":                               "",
	"global.nameOverride":                                        "",
	"global.clusterDnsDomain":                                    "cluster.local",
	"global.commonAnnotations":                                   map[string]any{},
	"global.commonLabels":                                        map[string]any{},
	"global.cniBinHostPath":                                      "/opt/cni/bin",
	"global.cniConfHostPath":                                     "/etc/cni/net.d",
	"global.ipamUNIXSocketHostPath":                              "/var/run/spidernet/spiderpool.sock",
	"global.configName":                                          "spiderpool-conf",
	"global.ciliumConfigMap":                                     anything,
	"ipam.enableIPv4":                                            true,
	"ipam.enableIPv6":                                            true,
	"ipam.enableStatefulSet":                                     true,
	"ipam.enableKubevirtStaticIP":                                true,
	"ipam.enableIPConflictDetection":                             false,
	"ipam.enableGatewayDetection":                                false,
	"ipam.enableCleanOutdatedEndpoint":                           false,
	"ipam.spiderSubnet.enable":                                   true,
	"ipam.spiderSubnet.autoPool.enable":                          true,
	"ipam.spiderSubnet.autoPool.defaultRedundantIPNumber":        1.0,
	"ipam.gc.enabled":                                            true,
	"ipam.gc.gcAll.intervalInSecond":                             600.0,
	"ipam.gc.statelessPod.zombieOnReadyNode":                     true,
	"ipam.gc.statelessPod.zombieOnNotReadyNode":                  true,
	"ipam.gc.statelessPod.enableGcRunningPodOnEmptyPodStatusIPs": false,
	"ipam.gc.gcDeletingTimeOutPodDelay":                          0.0,
	"coordinator.enabled":                                        true,
	"coordinator.name":                                           "default",
	"coordinator.mode":                                           "auto",
	"coordinator.podCIDRType":                                    "auto",
	"coordinator.detectGateway":                                  anything,
	"coordinator.detectIPConflict":                               anything,
	"coordinator.tunePodRoutes":                                  true,
	"coordinator.hijackCIDR":                                     []any{"169.254.0.0/16"},
	"coordinator.policyRoutes":                                   []any{},
	"coordinator.vethLinkAddress":                                anything,
	"coordinator.vethMTU":                                        1500.0,
	"multus.enableMultusConfig":                                  true,
	"multus.multusCNI.install":                                   true,
	"multus.multusCNI.uninstall":                                 false,
	"multus.multusCNI.name":                                      anything,
	"multus.multusCNI.defaultCniCRName":                          "",
	"multus.multusCNI.extraEnv":                                  anything,
	"multus.multusCNI.extraVolumes":                              anything,
	"multus.multusCNI.extraVolumeMounts":                         anything,
	"multus.multusCNI.log":                                       anything,
	"plugins.installCNI":                                         false,
	"plugins.installRdmaCNI":                                     anything,
	"plugins.installOvsCNI":                                      anything,
	"plugins.installSriovCNI":                                    anything,
	"plugins.installibSriovCNI":                                  anything,
	"plugins.installIpoibCNI":                                    anything,
	"plugins.installVlanCNI":                                     anything,
	"clusterDefaultPool.installIPv4IPPool":                       false,
	"clusterDefaultPool.installIPv6IPPool":                       false,
	"clusterDefaultPool.ipv4IPPoolName":                          "default-v4-ippool",
	"clusterDefaultPool.ipv6IPPoolName":                          "default-v6-ippool",
	"clusterDefaultPool.ipv4SubnetName":                          anything,
	"clusterDefaultPool.ipv6SubnetName":                          anything,
	"clusterDefaultPool.ipv4Subnet":                              anything,
	"clusterDefaultPool.ipv6Subnet":                              anything,
	"clusterDefaultPool.ipv4IPRanges":                            anything,
	"clusterDefaultPool.ipv6IPRanges":                            anything,
	"clusterDefaultPool.ipv4Gateway":                             anything,
	"clusterDefaultPool.ipv6Gateway":                             anything,
	"spiderpoolAgent.tuneSysctlConfig":                           anything,
	"spiderpoolController.replicas":                              anything,
	"spiderpoolController.hostnetwork":                           true,
	"spiderpoolController.webhookPort":                           anything,
	"spiderpoolController.podResourceInject.enabled":             anything,
	"spiderpoolController.podResourceInject.namespacesExclude":   anything,
	"spiderpoolController.podResourceInject.namespacesInclude":   anything,
	"spiderpoolController.podDisruptionBudget":                   anything,
	"spiderpoolController.tls.method":                            "auto",
	"spiderpoolController.cleanup.enable":                        anything,
	"grafanaDashboard.install":                                   anything,
	"rdma":                                                       anything,
	"sriov":                                                      anything,
	"iaasNetworkProvider.serverUrl":                              "",
	"iaasNetworkProvider.httpRequestTimeout":                     "50s",
	"iaasNetworkProvider.tlsSecret.name":                         anything,
	"iaasNetworkProvider.tlsSecret.namespace":                    anything,
}

// publishedImage lists the values of every image.
var publishedImage = []string{"registry", "repository", "pullPolicy", "digest", "tag", "imagePullSecrets"}

// publishedProgram lists the values of the agent, the controller and, as far as a
// job has them, spiderpool-init.
var publishedProgram = []string{
	"name", "serviceAccount", "nodeSelector", "tolerations", "affinity", "resources",
	"extraArgs", "extraEnv", "extraVolumes", "extraVolumeMounts", "podAnnotations", "podLabels",
	"priorityClassName", "securityContext", "debug.logLevel",
}

var publishedServer = []string{
	"httpPort", "healthChecking.startupProbe", "healthChecking.livenessProbe", "healthChecking.readinessProbe",
	"prometheus.enabled", "prometheus.port", "prometheus.enabledDebugMetric", "prometheus.serviceMonitor.install", "prometheus.prometheusRule.install",
}

func TestPublishedValuesKeepNamesAndDefaults(t *testing.T) {
	raw, err := os.ReadFile("spiderpool/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]any{}
	if err := yaml.UnmarshalStrict(raw, &values); err != nil {
		t.Fatal(err)
	}
	wanted := map[string]any{}
	for path, value := range published {
		wanted[path] = value
	}
	for _, program := range []string{"spiderpoolAgent", "spiderpoolController", "spiderpoolInit"} {
		for _, key := range publishedProgram {
			wanted[program+"."+key] = anything
		}
	}
	for _, program := range []string{"spiderpoolAgent", "spiderpoolController"} {
		for _, key := range publishedServer {
			wanted[program+"."+key] = anything
		}
	}
	for _, owner := range []string{"multus.multusCNI", "plugins", "spiderpoolAgent", "spiderpoolController", "spiderpoolInit"} {
		for _, key := range publishedImage {
			wanted[owner+".image."+key] = anything
		}
	}
	for path, want := range wanted {
		got, err := lookup(values, path)
		if err != nil {
			t.Error(err)
			continue
		}
		if want != any(anything) && !reflect.DeepEqual(got, want) {
			t.Errorf("%s is %#v, published as %#v", path, got, want)
		}
	}
}

func lookup(values map[string]any, path string) (any, error) {
	var at any = values
	for key := range strings.SplitSeq(path, ".") {
		group, ok := at.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%s: %q is not in a map", path, key)
		}
		if at, ok = group[key]; !ok {
			return nil, fmt.Errorf("%s: there is no %q", path, key)
		}
	}
	return at, nil
}
