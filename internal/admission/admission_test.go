//go:build apiserver

package admission_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/admission"
	"spiderpool.dev/spiderpool/internal/admission/certificate"
	"spiderpool.dev/spiderpool/internal/kube/blockindex"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/kube/poolindex"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
)

// serve starts the webhooks and waits until the API server asks them. It
// returns a client for the API server and one for the webhooks' cache.
func serve(t *testing.T) (client.Client, client.Reader) {
	t.Helper()
	return serveIn(t, pool.ClusterNetwork{Default: pool.NetworkAttachment{Namespace: "kube-system", Name: "cluster-net"}})
}

// serveIn does so where pods that name no network get the cluster's.
func serveIn(t *testing.T, cluster pool.ClusterNetwork) (client.Client, client.Reader) {
	t.Helper()
	c := kubetest.Client(t)
	namespace := kubetest.Namespace(t, c)
	port := kubetest.FreePort(t)
	mgr := manager(t, namespace, port, func(mgr ctrl.Manager) error {
		index := poolindex.New()
		return errors.Join(
			blockindex.IndexBlocksByPool(t.Context(), mgr.GetFieldIndexer()),
			index.Watch(t.Context(), mgr.GetCache()),
			admission.Register(mgr, admission.Options{
				Pools: index, CoordinatorName: "default", Cluster: cluster,
			}),
		)
	})
	kubetest.Webhooks(t, c, namespace, port)
	kubetest.Eventually(t, func(ctx context.Context) error {
		o := object(t, "SpiderReservedIP", `{ips: [10.0.0.2-10.0.0.1]}`)
		if err := c.Create(ctx, o, client.DryRunAll); err == nil || !strings.Contains(err.Error(), "is inverted") {
			return fmt.Errorf("the API server does not ask the webhooks yet: %w", errors.Join(err, errors.New("no refusal")))
		}
		return nil
	})
	return c, mgr.GetClient()
}

// manager serves the webhooks that setup adds, at a port of 127.0.0.1, with a
// certificate that the webhook configurations of the namespace's name come to trust.
func manager(t *testing.T, namespace string, port int, setup func(ctrl.Manager) error) ctrl.Manager {
	t.Helper()
	const secret = "spiderpool-controller-server-certs" // the role permits this one
	rotator := certificate.New(certificate.Options{
		Secret: client.ObjectKey{Namespace: namespace, Name: secret}, Mutating: namespace, Validating: namespace,
		Subject: certificate.Subject{
			DNSNames: []string{"webhook.test.svc"}, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, CALifetime: time.Hour, CertLifetime: time.Hour,
		},
	}, slog.New(slog.DiscardHandler))
	return kubetest.ManagerIn(t, namespace, func(mgr ctrl.Manager) error {
		return errors.Join(rotator.Register(mgr), setup(mgr))
	}, func(o *ctrl.Options) {
		o.Cache.ByObject = map[client.Object]cache.ByObject{&corev1.Secret{}: {Namespaces: map[string]cache.Config{
			namespace: {FieldSelector: fields.OneTermEqualSelector("metadata.name", secret)},
		}}}
		o.WebhookServer = webhook.NewServer(webhook.Options{Host: "127.0.0.1", Port: port, TLSOpts: []func(*tls.Config){func(c *tls.Config) {
			c.GetCertificate = rotator.GetCertificate
		}}})
	})
}

// seen waits until the webhooks' cache has an object.
func seen(t *testing.T, cached client.Reader, o client.Object) {
	t.Helper()
	kubetest.Eventually(t, func(ctx context.Context) error {
		return cached.Get(ctx, client.ObjectKeyFromObject(o), o.DeepCopyObject().(client.Object))
	})
}

func newPool(name, subnet string, ips ...string) *v2beta1.SpiderIPPool {
	return &v2beta1.SpiderIPPool{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v2beta1.SpiderIPPoolSpec{AddressSpace: v2beta1.AddressSpace{Subnet: subnet, IPs: ips}},
	}
}

func newSubnet(name, subnet string, ips ...string) *v2beta1.SpiderSubnet {
	return &v2beta1.SpiderSubnet{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v2beta1.SpiderSubnetSpec{AddressSpace: v2beta1.AddressSpace{Subnet: subnet, IPs: ips}},
	}
}

// newBlock is a block of one address that pod default/web uses.
func newBlock(base, addr, pool string) *v2beta1.SpiderIPBlock {
	return compile.BlockObject(lease.Block{Base: netip.MustParseAddr(base), Leases: []lease.Lease{{
		Addr: netip.MustParseAddr(addr), State: lease.InUse, Pool: pool, Since: time.Unix(1700000000, 0).UTC(),
		Holder: lease.Holder{
			Pod: lease.ParsePodKey("default/web"), PodUID: "u", Node: "n1", Attachment: lease.Attachment{ContainerID: "c", Interface: "eth0"},
		},
	}}})
}

// refused checks that an error is a refusal with the wanted part.
func refused(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got\n%v\nwant a refusal with\n%s", err, want)
	}
}

// answered checks that an error is a refusal with the wanted part, or nil if that is "".
func answered(t *testing.T, err error, want string) {
	t.Helper()
	if want != "" {
		refused(t, err, want)
	} else if err != nil {
		t.Errorf("refused: %v", err)
	}
}

func TestBadPoolsAreRejected(t *testing.T) {
	c, cached := serve(t)
	other := newPool("other", "10.1.0.0/24", "10.1.0.10-10.1.0.20")
	kubetest.Create(t, c, other)
	seen(t, cached, other)
	judge(t, c, "SpiderIPPool", []judged{
		{"inverted range", `{subnet: 10.0.0.0/24, ips: [10.0.0.1, 10.0.0.9-10.0.0.5]}`,
			`SpiderIPPool.spiderpool.spidernet.io "judged" is invalid: spec.ips[1]: Invalid value: "10.0.0.9-10.0.0.5": is inverted: it ends before it begins; write 10.0.0.5-10.0.0.9`},
		{"same subnet, other addresses", `{subnet: 10.1.0.0/24, ips: [10.1.0.21-10.1.0.30]}`, ""},
		{"same subnet, shared addresses", `{subnet: 10.1.0.0/24, ips: [10.1.0.1-10.1.0.11]}`,
			`spec.ips: Invalid value: "10.1.0.1-10.1.0.11": shares 10.1.0.10-10.1.0.11 with SpiderIPPool other; remove these addresses from one of the two`},
		{"overlapping subnet", `{subnet: 10.1.0.0/16}`,
			`spec.subnet: Invalid value: "10.1.0.0/16": 10.1.0.0/16 overlaps subnet 10.1.0.0/24 of SpiderIPPool other; use the same subnet or a disjoint one`},
		{"disjoint subnet", `{subnet: 10.1.1.0/24, ips: [10.1.1.1]}`, ""},
		{"selector without values", `{subnet: 10.0.0.0/24, podAffinity: {matchExpressions: [{key: app, operator: In}]}}`,
			"spec.podAffinity.matchExpressions[0].values: Required value"},
	})
}

func TestAddressesInUseStayInTheirPool(t *testing.T) {
	c, cached := serve(t)
	p := newPool("used", "10.2.0.0/24", "10.2.0.16-10.2.0.40")
	block := newBlock("10.2.0.16", "10.2.0.20", "used")
	kubetest.Create(t, c, p, block)
	seen(t, cached, block)
	for _, tc := range []struct {
		name   string
		change func(*v2beta1.SpiderIPPoolSpec)
		want   string // part of the refusal; "" for none
	}{
		{"used address taken out", func(s *v2beta1.SpiderIPPoolSpec) { s.IPs = []string{"10.2.0.21-10.2.0.40"} },
			`spec.ips: Invalid value: "10.2.0.21-10.2.0.40": lacks addresses in use: 10.2.0.20 of default/web; ` +
				`keep them in ips and put them into a SpiderReservedIP until these pods are gone`},
		{"used address as gateway", func(s *v2beta1.SpiderIPPoolSpec) { s.Gateway = new("10.2.0.20") },
			`spec.gateway: Invalid value: "10.2.0.20": is an address in use: 10.2.0.20 of default/web; ` +
				`choose another gateway, or delete that pod first`},
		{"used address excluded", func(s *v2beta1.SpiderIPPoolSpec) { s.ExcludeIPs = []string{"10.2.0.20"} },
			`spec.excludeIPs: Invalid value: "10.2.0.20": has addresses in use: 10.2.0.20 of default/web; ` +
				`remove them from excludeIPs and put them into a SpiderReservedIP`},
		{"free addresses taken out", func(s *v2beta1.SpiderIPPoolSpec) { s.IPs = []string{"10.2.0.20"} }, ""},
		{"free address excluded", func(s *v2beta1.SpiderIPPoolSpec) { s.ExcludeIPs = []string{"10.2.0.21"} }, ""},
		{"free address as gateway", func(s *v2beta1.SpiderIPPoolSpec) { s.Gateway = new("10.2.0.21") }, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			changed := p.DeepCopy()
			tc.change(&changed.Spec)
			answered(t, c.Update(t.Context(), changed, client.DryRunAll), tc.want)
		})
	}
}

// What admission would refuse today may be there already; it must not be in the
// way of changes that leave it as it is.
func TestInvalidPoolCanBeLabelledAndDeleted(t *testing.T) {
	c := kubetest.Client(t)
	p := newPool("old", "10.3.0.0/24", "10.3.0.9-10.3.0.5")
	p.Finalizers = []string{v2beta1.Finalizer}
	kubetest.Create(t, c, p)
	serve(t)
	patch := client.MergeFrom(p.DeepCopy())
	p.Labels = map[string]string{"a": "b"}
	if err := c.Patch(t.Context(), p, patch); err != nil {
		t.Errorf("label: %v", err)
	}
	if err := c.Delete(t.Context(), p); err != nil {
		t.Errorf("delete: %v", err)
	}
	patch = client.MergeFrom(p.DeepCopy())
	p.Finalizers = nil
	if err := c.Patch(t.Context(), p, patch); err != nil {
		t.Errorf("finalizer: %v", err)
	}
}

func TestSubnetsAndReservedIPs(t *testing.T) {
	c, cached := serve(t)
	subnet := newSubnet("parent", "10.4.0.0/24", "10.4.0.1-10.4.0.9")
	child := newPool("child", "10.4.0.0/24", "10.4.0.1")
	child.Labels = map[string]string{names.LabelOwnerSubnet: "parent"}
	kubetest.Create(t, c, subnet)
	if subnet.Spec.IPVersion == nil || *subnet.Spec.IPVersion != 4 {
		t.Errorf("ipVersion = %v, want 4", subnet.Spec.IPVersion)
	}
	t.Run("with a pool", func(t *testing.T) {
		kubetest.Create(t, c, child)
		seen(t, cached, child)
		refused(t, c.Delete(t.Context(), subnet, client.DryRunAll), "1 SpiderIPPools have addresses of it, e.g. child; delete them first")
	})
	seen(t, cached, subnet)
	judge(t, c, "SpiderSubnet", []judged{
		{"shared addresses", `{subnet: 10.4.0.0/24, ips: [10.4.0.9]}`,
			`spec.ips: Invalid value: "10.4.0.9": shares 10.4.0.9 with SpiderSubnet parent`},
		{"overlapping", `{subnet: 10.4.0.0/16}`,
			`spec.subnet: Invalid value: "10.4.0.0/16": overlaps subnet 10.4.0.0/24 of SpiderSubnet parent`},
		{"inverted", `{subnet: 10.5.0.0/24, ips: [10.5.0.9-10.5.0.1]}`, "is inverted"},
		{"other addresses", `{subnet: 10.4.0.0/24, ips: [10.4.0.10]}`, ""},
	})
	judge(t, c, "SpiderReservedIP", []judged{
		{"inverted", `{ips: [10.5.0.9-10.5.0.1]}`, `spec.ips[0]: Invalid value: "10.5.0.9-10.5.0.1": is inverted`},
		{"right", `{ips: [10.5.0.9, 10.5.0.1]}`, ""},
	})
}

func TestBadMultusConfigsAreRejected(t *testing.T) {
	c, cached := serve(t)
	owner := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "owner"}}
	kubetest.Create(t, c, owner)
	taken := &nadv1.NetworkAttachmentDefinition{ObjectMeta: metav1.ObjectMeta{
		Namespace: "default", Name: "taken",
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID}},
	}}
	free := &nadv1.NetworkAttachmentDefinition{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "free"}}
	first := object(t, "SpiderMultusConfig", `{cniType: custom}`)
	first.SetName("first")
	kubetest.Create(t, c, taken, free, first)
	seen(t, cached, taken)
	kubetest.Eventually(t, func(ctx context.Context) error {
		return cached.Get(ctx, client.ObjectKey{Namespace: "default", Name: "first"}, &v2beta1.SpiderMultusConfig{})
	})
	judge(t, c, "SpiderMultusConfig", []judged{
		{"JSON", `{customCNI: "{"}`, `spec.customCNI: Invalid value: "{": is not a JSON object`},
		{"chained JSON", `{cniType: ipvlan, ipvlan: {master: [eth0]}, chainCNIJsonData: ["[]"]}`,
			`spec.chainCNIJsonData[0]: Invalid value: "[]": is not a JSON object`},
		{"right", `{cniType: ipvlan, ipvlan: {master: [eth0]}, chainCNIJsonData: ['{"type":"tuning"}']}`, ""},
		{"custom", `{customCNI: '{"cniVersion":"1.0.0","plugins":[{"type":"bridge"}]}'}`, ""},
		{"custom without a plugin", `{customCNI: '{"plugins":[]}'}`, `has no plugin in "plugins"; write at least one`},
		{"custom with plugins of another shape", `{customCNI: '{"plugins":{"type":"bridge"}}'}`,
			`has a JSON object in plugins; write a list of plugins`},
		{"custom with a plugin without type", `{customCNI: '{"plugins":[{"mtu":1}]}'}`,
			`names no plugin in plugins[0]; write its program as "type"`},
		{"custom with a numeric type", `{customCNI: '{"type":7}'}`, `has a JSON number in type; write a string`},
		{"custom of another version", `{customCNI: '{"cniVersion":"0.2.0","type":"bridge"}'}`,
			`has cniVersion "0.2.0"; write one of 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0, or leave it out`},
	})
	for _, example := range []struct{ name, annotation, value, want string }{
		{"version", names.AnnotationMultusConfigCNIVersion, "0.2.0",
			`metadata.annotations[multus.spidernet.io/cni-version]: Unsupported value: "0.2.0": supported values: "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"`},
		{"supported version", names.AnnotationMultusConfigCNIVersion, "1.1.0", ""},
		{"name of the network", names.AnnotationCNIConfigName, "k8s_pod_network", ""},
		{"impossible network name", names.AnnotationCNIConfigName, "-x",
			`metadata.annotations[cni.spidernet.io/cniconfig-name]: Invalid value: "-x": is not the name of a CNI network; begin with a letter or digit`},
		{"of another owner", names.AnnotationMultusConfigCRName, "taken",
			`metadata.annotations[multus.spidernet.io/cr-name]: Invalid value: "taken": is a NetworkAttachmentDefinition of ConfigMap owner; choose another name`},
		{"of another config", names.AnnotationMultusConfigCRName, "first",
			`is the NetworkAttachmentDefinition of SpiderMultusConfig first; choose another name`},
		{"without owner", names.AnnotationMultusConfigCRName, "free", ""},
	} {
		t.Run(example.name, func(t *testing.T) {
			o := object(t, "SpiderMultusConfig", `{cniType: ipvlan, ipvlan: {master: [eth0]}}`)
			o.SetAnnotations(map[string]string{example.annotation: example.value})
			answered(t, c.Create(t.Context(), o, client.DryRunAll), example.want)
		})
	}
	custom := object(t, "SpiderMultusConfig", `{cniType: custom, enableCoordinator: true}`)
	if err := c.Create(t.Context(), custom, client.DryRunAll); err != nil {
		t.Fatal(err)
	}
	if spec := custom.Object["spec"].(map[string]any); spec["enableCoordinator"] != false {
		t.Errorf("enableCoordinator of a custom configuration is %v, want false", spec["enableCoordinator"])
	}
}

func newPod(name string, hostNetwork bool, annotations map[string]string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Annotations: annotations},
		Spec:       corev1.PodSpec{HostNetwork: hostNetwork, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
}

func TestAttachmentsInUseStay(t *testing.T) {
	c, cached := serve(t)
	config := &v2beta1.SpiderMultusConfig{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "cluster-net"},
		Spec:       v2beta1.SpiderMultusConfigSpec{CNIType: new(v2beta1.CNIIPvlan), IPvlan: &v2beta1.MasterConfig{Master: []string{"eth0"}}},
	}
	kubetest.Create(t, c, config)
	attachment := &nadv1.NetworkAttachmentDefinition{ObjectMeta: metav1.ObjectMeta{
		Namespace: "kube-system", Name: "cluster-net",
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(config, v2beta1.GroupVersion.WithKind("SpiderMultusConfig"))},
	}}
	kubetest.Create(t, c, attachment)
	seen(t, cached, attachment)

	renamed := func() error {
		changed := config.DeepCopy()
		changed.Annotations = map[string]string{names.AnnotationMultusConfigCRName: "moved"}
		return c.Update(t.Context(), changed, client.DryRunAll)
	}
	p := newPool("naming", "10.6.0.0/24")
	p.Spec.MultusName = []string{"kube-system/cluster-net"}
	t.Run("named by a pool", func(t *testing.T) {
		kubetest.Create(t, c, p)
		seen(t, cached, p)
		refused(t, c.Delete(t.Context(), config, client.DryRunAll), `SpiderIPPool naming names it in spec.multusName; remove "kube-system/cluster-net" there first`)
		refused(t, renamed(), `metadata.annotations[multus.spidernet.io/cr-name]: Invalid value: "moved": would delete NetworkAttachmentDefinition cluster-net, `+
			`but SpiderIPPool naming names it in spec.multusName; remove "kube-system/cluster-net" there first`)
	})
	for _, user := range []*corev1.Pod{
		newPod("further", true, nil),
		newPod("default", false, nil),
	} {
		t.Run("pod "+user.Name, func(t *testing.T) {
			kubetest.Create(t, c, user)
			seen(t, cached, user)
			err := c.Delete(t.Context(), config, client.DryRunAll)
			if user.Spec.HostNetwork {
				if err != nil {
					t.Errorf("a pod of the host's network kept the attachment: %v", err)
				}
				return
			}
			const used = "pod default/default has an interface of NetworkAttachmentDefinition kube-system/cluster-net; delete the pods that use it first"
			refused(t, err, used)
			refused(t, renamed(), "would delete NetworkAttachmentDefinition cluster-net, but "+used)
		})
	}
	t.Run("pod with networks", func(t *testing.T) {
		user := newPod("several", false, map[string]string{
			names.AnnotationMultusDefaultNetwork: "kube-system/another", names.AnnotationMultusNetworks: "kube-system/cluster-net@net1",
		})
		kubetest.Create(t, c, user)
		seen(t, cached, user)
		refused(t, c.Delete(t.Context(), config, client.DryRunAll), "pod default/several has an interface")
	})
	kubetest.Eventually(t, func(ctx context.Context) error { return c.Delete(ctx, config, client.DryRunAll) })
	if err := renamed(); err != nil {
		t.Errorf("renaming an unused attachment: %v", err)
	}
}

// The configuration names no default network; the installation created the attachment
// from the network of a node.
func TestInstalledAttachmentIsDefaultNetwork(t *testing.T) {
	c, cached := serveIn(t, pool.ClusterNetwork{Namespace: "kube-system"})
	config := &v2beta1.SpiderMultusConfig{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "made"},
		Spec:       v2beta1.SpiderMultusConfigSpec{CNIType: new(v2beta1.CNIIPvlan), IPvlan: &v2beta1.MasterConfig{Master: []string{"eth0"}}},
	}
	kubetest.Create(t, c, config)
	attachment := &nadv1.NetworkAttachmentDefinition{ObjectMeta: metav1.ObjectMeta{
		Namespace: "kube-system", Name: "made", Labels: map[string]string{names.LabelManagedBy: names.ManagedByInit},
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(config, v2beta1.GroupVersion.WithKind("SpiderMultusConfig"))},
	}}
	user := newPod("plain", false, nil)
	kubetest.Create(t, c, attachment, user)
	seen(t, cached, attachment)
	seen(t, cached, user)
	refused(t, c.Delete(t.Context(), config, client.DryRunAll), "pod default/plain has an interface of NetworkAttachmentDefinition kube-system/made")
}

func TestDefaultCoordinatorStays(t *testing.T) {
	c := kubetest.Client(t)
	used := &v2beta1.SpiderCoordinator{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	kubetest.Create(t, c, used)
	serve(t)
	refused(t, c.Delete(t.Context(), used), "the coordinator plugin of every pod reads it; set spec.mode to disabled to disable the coordinator")
	other := &v2beta1.SpiderCoordinator{ObjectMeta: metav1.ObjectMeta{Name: "other"}}
	kubetest.Create(t, c, other)
	if err := c.Delete(t.Context(), other); err != nil {
		t.Errorf("delete another one: %v", err)
	}
}
