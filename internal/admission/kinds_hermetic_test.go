package admission

import (
	"errors"
	"strings"
	"testing"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/pool"
)

func subnetOf(name, subnet string, ips ...string) *v2beta1.SpiderSubnet {
	return &v2beta1.SpiderSubnet{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v2beta1.SpiderSubnetSpec{AddressSpace: v2beta1.AddressSpace{Subnet: subnet, IPs: ips}}}
}

func TestSubnetsAreValidated(t *testing.T) {
	w := &subnets{reader: cacheOf(t, subnetOf("other", "10.1.0.0/24", "10.1.0.10-10.1.0.20"))}
	before := subnetOf("a", "FD00::/64", "fd00::1")
	for _, tc := range []struct {
		name   string
		subnet *v2beta1.SpiderSubnet
		want   string
	}{
		{"disjoint", subnetOf("a", "10.2.0.0/24", "10.2.0.1"), ""},
		{"invalid", subnetOf("a", "10.2.0.0/24", "10.3.0.1"), "spec.ips[0]"},
		{"link-local with routes", func() *v2beta1.SpiderSubnet {
			s := subnetOf("a", "fe80::/64", "fe80::9")
			s.Spec.Routes = v2beta1.Routes{{Dst: "fd00::/8", Gw: "fe80::1"}}
			return s
		}(), "is link-local, and no router forwards its packets"},
		{"shared addresses", subnetOf("a", "10.1.0.0/24", "10.1.0.20-10.1.0.21"), "shares 10.1.0.20 with SpiderSubnet other"},
		{"other network", subnetOf("a", "10.1.0.0/16"), "overlaps subnet 10.1.0.0/24 of SpiderSubnet other"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			warnings, err := w.ValidateCreate(t.Context(), tc.subnet)
			result(t, warnings, err, tc.want)
			warnings, err = w.ValidateUpdate(t.Context(), before, tc.subnet)
			result(t, warnings, err, tc.want)
			tc.subnet.DeletionTimestamp = new(metav1.Now())
			warnings, err = w.ValidateUpdate(t.Context(), before, tc.subnet)
			result(t, warnings, err, "")
		})
	}
	unread := &subnets{reader: unreadable(t, &v2beta1.SpiderSubnetList{})}
	if _, err := unread.ValidateCreate(t.Context(), before); !errors.Is(err, errRead) {
		t.Errorf("create: %v", err)
	}
	after := before.DeepCopy()
	if err := unread.Default(t.Context(), after); err != nil {
		t.Fatal(err)
	}
	if _, err := unread.ValidateUpdate(t.Context(), before, after); err != nil {
		t.Errorf("an update with an unchanged specification reads the cache: %v", err)
	}
}

func TestSubnetWithPoolsStays(t *testing.T) {
	child := poolOf("child", "10.1.0.0/24")
	child.Labels = map[string]string{names.LabelOwnerSubnet: "a"}
	w := &subnets{reader: cacheOf(t, child)}
	warnings, err := w.ValidateDelete(t.Context(), subnetOf("a", "10.1.0.0/24"))
	result(t, warnings, err, "1 SpiderIPPools have addresses of it, e.g. child; delete them first")
	warnings, err = w.ValidateDelete(t.Context(), subnetOf("b", "10.1.0.0/24"))
	result(t, warnings, err, "")
	unread := &subnets{reader: unreadable(t, &v2beta1.SpiderIPPoolList{})}
	if _, err := unread.ValidateDelete(t.Context(), subnetOf("a", "10.1.0.0/24")); !errors.Is(err, errRead) {
		t.Errorf("delete: %v", err)
	}
}

func TestReservedIPsAreValidated(t *testing.T) {
	w := &reservedIPs{}
	reserved := func(ips ...string) *v2beta1.SpiderReservedIP {
		return &v2beta1.SpiderReservedIP{Spec: v2beta1.SpiderReservedIPSpec{IPs: ips}}
	}
	before := reserved("10.0.0.2-10.0.0.1") // older than the rule
	for _, tc := range []struct {
		name  string
		after *v2beta1.SpiderReservedIP
		want  string
	}{
		{"valid", reserved("10.0.0.1"), ""},
		{"still invalid", reserved("10.0.0.9-10.0.0.1"), "is inverted"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			warnings, err := w.ValidateCreate(t.Context(), tc.after)
			result(t, warnings, err, tc.want)
			warnings, err = w.ValidateUpdate(t.Context(), before, tc.after)
			result(t, warnings, err, tc.want)
			tc.after.DeletionTimestamp = new(metav1.Now())
			warnings, err = w.ValidateUpdate(t.Context(), before, tc.after)
			result(t, warnings, err, "")
			warnings, err = w.ValidateDelete(t.Context(), tc.after)
			result(t, warnings, err, "")
		})
	}
	warnings, err := w.ValidateUpdate(t.Context(), before, before.DeepCopy())
	result(t, warnings, err, "")
}

func TestCoordinatorsAreValidated(t *testing.T) {
	w := &coordinators{protected: "default"}
	coordinator := func(name string, hijack ...string) *v2beta1.SpiderCoordinator {
		return &v2beta1.SpiderCoordinator{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v2beta1.CoordinatorSpec{HijackCIDR: hijack}}
	}
	before := coordinator("default", "10.0") // older than the rule
	for _, tc := range []struct {
		name  string
		after *v2beta1.SpiderCoordinator
		want  string
	}{
		{"valid", coordinator("default", "10.0.0.0/8"), ""},
		{"address", coordinator("default", "10.0.0.1"), ""},
		{"invalid", coordinator("default", "10.0.0"), "spec.hijackCIDR[0]: Invalid value: \"10.0.0\""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			warnings, err := w.ValidateCreate(t.Context(), tc.after)
			result(t, warnings, err, tc.want)
			warnings, err = w.ValidateUpdate(t.Context(), before, tc.after)
			result(t, warnings, err, tc.want)
			tc.after.DeletionTimestamp = new(metav1.Now())
			warnings, err = w.ValidateUpdate(t.Context(), before, tc.after)
			result(t, warnings, err, "")
		})
	}
	warnings, err := w.ValidateUpdate(t.Context(), before, before.DeepCopy())
	result(t, warnings, err, "")
	warnings, err = w.ValidateDelete(t.Context(), before)
	result(t, warnings, err, "set spec.mode to disabled to disable the coordinator")
	warnings, err = w.ValidateDelete(t.Context(), coordinator("other"))
	result(t, warnings, err, "")
}

// attachmentOf returns a SpiderMultusConfig of ipvlan in the namespace "net".
func attachmentOf(name string, annotations map[string]string) *v2beta1.SpiderMultusConfig {
	return &v2beta1.SpiderMultusConfig{
		ObjectMeta: metav1.ObjectMeta{Namespace: "net", Name: name, UID: "uid", Annotations: annotations},
		Spec:       v2beta1.SpiderMultusConfigSpec{CNIType: new(v2beta1.CNIIPvlan), IPvlan: &v2beta1.MasterConfig{Master: []string{"eth0"}}},
	}
}

// definition returns a NetworkAttachmentDefinition in the namespace "net" with an owner.
func definition(name string, owner *metav1.OwnerReference) *nadv1.NetworkAttachmentDefinition {
	nad := &nadv1.NetworkAttachmentDefinition{ObjectMeta: metav1.ObjectMeta{Namespace: "net", Name: name}}
	if owner != nil {
		nad.OwnerReferences = []metav1.OwnerReference{*owner}
	}
	return nad
}

func named(name string) map[string]string {
	return map[string]string{names.AnnotationMultusConfigCRName: name}
}

func TestNewAttachmentsAreValidated(t *testing.T) {
	foreign := &metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "x", UID: "x"}
	former := &metav1.OwnerReference{APIVersion: v2beta1.GroupVersion.String(), Kind: "SpiderMultusConfig", Name: "a", UID: "former", Controller: new(true)}
	w := &multusConfigs{reader: cacheOf(t, attachmentOf("other", named("theirs")), attachmentOf("a", nil),
		definition("foreign", foreign), definition("free", nil), definition("former", former))}
	invalid := attachmentOf("a", nil)
	invalid.Spec.ChainCNIJSONData = []string{"{"}
	for _, tc := range []struct {
		name   string
		config *v2beta1.SpiderMultusConfig
		want   string
	}{
		{"own name", attachmentOf("a", nil), ""},
		{"invalid", invalid, "spec.chainCNIJsonData[0]"},
		{"name of another config", attachmentOf("a", named("theirs")), "is the NetworkAttachmentDefinition of SpiderMultusConfig other"},
		{"foreign attachment", attachmentOf("a", named("foreign")), "is a NetworkAttachmentDefinition of ConfigMap x; choose another name"},
		{"attachment without owner", attachmentOf("a", named("free")), ""},
		{"attachment of a former object", attachmentOf("a", named("former")), ""},
		{"attachment of a former object of another name", attachmentOf("b", named("former")), "of SpiderMultusConfig a; choose another name"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			warnings, err := w.ValidateCreate(t.Context(), tc.config)
			result(t, warnings, err, tc.want)
		})
	}
	for _, kind := range []any{&v2beta1.SpiderMultusConfigList{}, &nadv1.NetworkAttachmentDefinition{}} {
		unread := &multusConfigs{reader: unreadable(t, kind)}
		if _, err := unread.ValidateCreate(t.Context(), attachmentOf("a", nil)); !errors.Is(err, errRead) {
			t.Errorf("create without %T: %v", kind, err)
		}
	}
}

func TestUnsupportedAttachmentWarns(t *testing.T) {
	w := &multusConfigs{reader: cacheOf(t)}
	before, auto := attachmentOf("a", nil), attachmentOf("a", nil)
	auto.Spec = v2beta1.SpiderMultusConfigSpec{CNIType: new(v2beta1.CNIVlan),
		Vlan: &v2beta1.VlanConfig{MasterConfig: v2beta1.MasterConfig{Master: []string{"eth0"}}, VlanMode: new(v2beta1.VlanAuto)}}
	for name, validate := range map[string]func() ([]string, error){
		"create": func() ([]string, error) { return w.ValidateCreate(t.Context(), auto) },
		"update": func() ([]string, error) { return w.ValidateUpdate(t.Context(), before, auto) },
	} {
		t.Run(name, func(t *testing.T) {
			if warnings, err := validate(); err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "vlanMode is auto") {
				t.Errorf("warnings %q, error %v", warnings, err)
			}
		})
	}
}

func TestIgnoredBondWarns(t *testing.T) {
	w := &multusConfigs{reader: cacheOf(t)}
	in := attachmentOf("a", nil)
	in.Spec = v2beta1.SpiderMultusConfigSpec{CNIType: new(v2beta1.CNIMacvlan),
		Macvlan: &v2beta1.MasterConfig{Master: []string{"eth0"}, Bond: &v2beta1.Bond{Name: "bond0"}}}
	warnings, err := w.ValidateCreate(t.Context(), in)
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "spec.macvlan.bond has no effect, because spec.macvlan.master names one interface") {
		t.Errorf("warnings %q, error %v", warnings, err)
	}
}

func TestUnchangedAttachmentsPass(t *testing.T) {
	w := &multusConfigs{reader: unreadable(t, &v2beta1.SpiderMultusConfigList{})}
	custom := attachmentOf("a", nil)
	custom.Spec = v2beta1.SpiderMultusConfigSpec{CNIType: new(v2beta1.CNICustom), CustomCNI: new("{")}
	completed := custom.DeepCopy()
	if err := w.Default(t.Context(), completed); err != nil {
		t.Fatal(err)
	}
	labelled := completed.DeepCopy()
	labelled.Labels = map[string]string{"a": "b"}
	deleted := attachmentOf("b", nil)
	deleted.DeletionTimestamp = new(metav1.Now())
	for _, tc := range []struct {
		name  string
		after *v2beta1.SpiderMultusConfig
		want  string
	}{
		{"default added", completed, ""},
		{"label added", labelled, ""},
		{"deleted", deleted, ""},
		{"annotation changed", func() *v2beta1.SpiderMultusConfig { c := completed.DeepCopy(); c.Annotations = named("b"); return c }(), "spec.customCNI"},
		{"specification changed", func() *v2beta1.SpiderMultusConfig { c := completed.DeepCopy(); c.Spec.CustomCNI = new("["); return c }(), "spec.customCNI"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			warnings, err := w.ValidateUpdate(t.Context(), custom, tc.after)
			result(t, warnings, err, tc.want)
		})
	}
}

func podOf(name string, phase corev1.PodPhase, hostNetwork bool, networks string) *corev1.Pod {
	annotations := map[string]string{}
	if networks != "" {
		annotations[names.AnnotationMultusNetworks] = networks
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "net", Name: name, Annotations: annotations},
		Spec:       corev1.PodSpec{HostNetwork: hostNetwork}, Status: corev1.PodStatus{Phase: phase},
	}
}

func TestAttachmentInUseIsNotDeleted(t *testing.T) {
	config := attachmentOf("a", nil)
	own := definition("a", metav1.NewControllerRef(config, v2beta1.GroupVersion.WithKind("SpiderMultusConfig")))
	byInstallation := own.DeepCopy()
	byInstallation.Labels = map[string]string{names.LabelManagedBy: names.ManagedByInit}
	poolNaming := func(names ...string) client.Object {
		p := poolOf("naming", "10.1.0.0/24")
		p.Spec.MultusName = names
		return p
	}
	elsewhere := pool.ClusterNetwork{Namespace: "net", Default: pool.NetworkAttachment{Namespace: "net", Name: "elsewhere"}}
	const byPod = "pod net/user has an interface of NetworkAttachmentDefinition net/a; delete the pods that use it first"
	for _, tc := range []struct {
		name    string
		cluster pool.ClusterNetwork
		cached  []client.Object
		want    string
	}{
		{"no attachment", elsewhere, []client.Object{poolNaming("a")}, ""},
		{"foreign attachment", elsewhere, []client.Object{definition("a", nil), poolNaming("a")}, ""},
		{"unused", elsewhere, []client.Object{own, poolNaming("b", "other/a")}, ""},
		{"named by pool", elsewhere, []client.Object{own, poolNaming("b", "a")}, `SpiderIPPool naming names it in spec.multusName; remove "a" there first`},
		{"named by pool with namespace", elsewhere, []client.Object{own, poolNaming("net/a")}, `SpiderIPPool naming names it in spec.multusName; remove "net/a" there first`},
		{"pod with interface", elsewhere, []client.Object{own, podOf("user", corev1.PodRunning, false, "b,a")}, byPod},
		{"pod without interface", elsewhere, []client.Object{own, podOf("user", corev1.PodRunning, false, "b")}, ""},
		{"pod on host network", elsewhere, []client.Object{own, podOf("user", corev1.PodRunning, true, "a")}, ""},
		{"succeeded pod", elsewhere, []client.Object{own, podOf("user", corev1.PodSucceeded, false, "a")}, ""},
		{"failed pod", elsewhere, []client.Object{own, podOf("user", corev1.PodFailed, false, "a")}, ""},
		{"invalid annotation, then user", elsewhere, []client.Object{own, podOf("first", corev1.PodRunning, false, "[{"),
			podOf("user", corev1.PodRunning, false, "a")}, byPod},
		{"default network", pool.ClusterNetwork{Namespace: "net", Default: pool.NetworkAttachment{Namespace: "net", Name: "a"}},
			[]client.Object{own, podOf("user", corev1.PodRunning, false, "")}, byPod},
		{"default network of the installation", pool.ClusterNetwork{Namespace: "net"},
			[]client.Object{byInstallation, podOf("user", corev1.PodRunning, false, "")}, byPod},
		{"installation, other default network", elsewhere, []client.Object{byInstallation, podOf("user", corev1.PodRunning, false, "")}, ""},
		{"no default network", pool.ClusterNetwork{Namespace: "net"}, []client.Object{own, podOf("user", corev1.PodRunning, false, "")}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := &multusConfigs{reader: cacheOf(t, tc.cached...), cluster: tc.cluster}
			warnings, err := w.ValidateDelete(t.Context(), config)
			result(t, warnings, err, tc.want)
			withNamespace := admission.Request{}
			withNamespace.UserInfo.Username = "system:serviceaccount:kube-system:namespace-controller"
			warnings, err = w.ValidateDelete(admission.NewContextWithRequest(t.Context(), withNamespace), config)
			if err != nil || (len(warnings) > 0) != (tc.want != "") {
				t.Errorf("with its namespace: warnings %v, error %v", warnings, err)
			}
			warnings, err = w.ValidateUpdate(t.Context(), config, attachmentOf("a", named("moved")))
			if tc.want != "" {
				tc.want = "would delete NetworkAttachmentDefinition a, but " + tc.want
			}
			result(t, warnings, err, tc.want)
		})
	}
	for _, kind := range []any{&nadv1.NetworkAttachmentDefinition{}, &v2beta1.SpiderIPPoolList{}, &corev1.PodList{}} {
		unread := &multusConfigs{reader: unreadable(t, kind, own)}
		if _, err := unread.ValidateDelete(t.Context(), config); !errors.Is(err, errRead) {
			t.Errorf("delete without %T: %v", kind, err)
		}
		if _, err := unread.ValidateUpdate(t.Context(), config, attachmentOf("a", named("moved"))); !errors.Is(err, errRead) {
			t.Errorf("rename without %T: %v", kind, err)
		}
	}
}
