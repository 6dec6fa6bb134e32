//go:build apiserver

package install

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/kube/scheme"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

// output collects the log of a running program.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

func (o *output) logger() *slog.Logger { return slog.New(slog.NewTextHandler(o, nil)) }

// under returns a client with the rights of a program of the chart.
func under(t *testing.T, program, namespace string) client.WithWatch {
	t.Helper()
	c, err := client.NewWithWatch(kubetest.Role(t, program, namespace, ""), client.Options{Scheme: scheme.New()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// configuration is the default one in a namespace of the test's own, with the
// default network called ipvlan-ens5.
func configuration(t *testing.T, c client.Client) config.Install {
	t.Helper()
	file := config.Default()
	file.InstallJob.DefaultCNICRName = "ipvlan-ens5"
	file.InstallJob.CNIConfDir = t.TempDir()
	namespace := kubetest.Namespace(t, c)
	cfg, err := file.Install(func(key string) string {
		return map[string]string{config.EnvPodNamespace: namespace}[key]
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		kubetest.Remove(t, c, &v2beta1.SpiderCoordinator{ObjectMeta: metav1.ObjectMeta{Name: "default"}})
	})
	return cfg
}

func install(t *testing.T, c client.Client, cfg config.Install) {
	t.Helper()
	var out output
	if err := Install(t.Context(), out.logger(), under(t, "spiderpool-init", cfg.PodNamespace), cfg); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
}

func TestInstallCreatesDefaultObjects(t *testing.T) {
	c := kubetest.Client(t)
	cfg := configuration(t, c)
	install(t, c, cfg)

	attachment := &nadv1.NetworkAttachmentDefinition{}
	get(t, c, cfg.PodNamespace, "ipvlan-ens5", attachment)
	if attachment.Spec.Config != "" || len(attachment.OwnerReferences) > 0 {
		t.Errorf("the default attachment has a configuration or an owner: %+v", attachment)
	}
	coordinator := &v2beta1.SpiderCoordinator{}
	get(t, c, "", "default", coordinator)
	if got := *coordinator.Spec.Mode; got != v2beta1.ModeAuto {
		t.Errorf("mode %q, want auto", got)
	}
	if got := fmt.Sprint(coordinator.Spec.HijackCIDR); got != "[169.254.0.0/16]" {
		t.Errorf("hijackCIDR %s", got)
	}
	if got := *coordinator.Spec.VethMTU; got != 1500 {
		t.Errorf("vethMTU %d", got)
	}
	probe := &v2beta1.SpiderReservedIP{ObjectMeta: metav1.ObjectMeta{Name: "spiderpool-init-probe"}}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(probe), probe); !apierrors.IsNotFound(err) {
		t.Errorf("the probe was created for real: %v", err)
	}
}

func TestSecondInstallKeepsChanges(t *testing.T) {
	c := kubetest.Client(t)
	cfg := configuration(t, c)
	install(t, c, cfg)

	attachment := &nadv1.NetworkAttachmentDefinition{}
	get(t, c, cfg.PodNamespace, "ipvlan-ens5", attachment)
	attachment.Spec.Config = `{"cniVersion":"0.3.1","name":"x","plugins":[]}`
	coordinator := &v2beta1.SpiderCoordinator{}
	get(t, c, "", "default", coordinator)
	coordinator.Spec.Mode = new(v2beta1.ModeUnderlay)
	for _, object := range []client.Object{attachment, coordinator} {
		if err := c.Update(t.Context(), object); err != nil {
			t.Fatal(err)
		}
	}
	versions := attachment.ResourceVersion + " " + coordinator.ResourceVersion

	install(t, c, cfg)
	get(t, c, cfg.PodNamespace, "ipvlan-ens5", attachment)
	get(t, c, "", "default", coordinator)
	if got := attachment.ResourceVersion + " " + coordinator.ResourceVersion; got != versions {
		t.Errorf("resource versions %s, want %s: nothing written", got, versions)
	}
}

func TestThreeSourcesOfDefaultAttachment(t *testing.T) {
	c := kubetest.Client(t)
	tests := map[string]struct {
		name, file, want string
	}{
		"named":              {name: "macvlan-ens6", file: `{"name":"k8s-pod-network","type":"calico"}`, want: "macvlan-ens6"},
		"first on the node":  {file: `{"name":"k8s-pod-network","type":"calico"}`, want: "k8s-pod-network"},
		"none on the node":   {want: "default"},
		"multus on the node": {file: `{"name":"multus-cni-network","type":"multus"}`, want: "default"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			cfg := configuration(t, c)
			cfg.DefaultCNICRName = test.name
			if test.file != "" {
				if err := os.WriteFile(filepath.Join(cfg.CNIConfDir, "10-x.conf"), []byte(test.file), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			install(t, c, cfg)
			list := &nadv1.NetworkAttachmentDefinitionList{}
			if err := c.List(t.Context(), list, client.InNamespace(cfg.PodNamespace)); err != nil {
				t.Fatal(err)
			}
			if len(list.Items) != 1 || list.Items[0].Name != test.want || list.Items[0].Spec.Config != "" {
				t.Errorf("attachments %+v, want an empty one called %s", list.Items, test.want)
			}
		})
	}
}

func TestInvalidNetworkNameIsRejected(t *testing.T) {
	c := kubetest.Client(t)
	cfg := configuration(t, c)
	cfg.DefaultCNICRName = ""
	if err := os.WriteFile(filepath.Join(cfg.CNIConfDir, "10-x.conf"), []byte(`{"name":"My_Net","type":"bridge"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	err := Install(t.Context(), slog.New(slog.DiscardHandler), under(t, "spiderpool-init", cfg.PodNamespace), cfg)
	if err == nil || !strings.Contains(err.Error(), `"My_Net", which is not a valid name of a NetworkAttachmentDefinition: set multus.multusCNI.defaultCniCRName`) {
		t.Errorf("error %v", err)
	}
}

func TestDisabledFeaturesCreateNothing(t *testing.T) {
	c := kubetest.Client(t)
	cfg := configuration(t, c)
	cfg.InstallMultus, cfg.Coordinator.Enabled = false, false
	install(t, c, cfg)
	list := &nadv1.NetworkAttachmentDefinitionList{}
	if err := c.List(t.Context(), list, client.InNamespace(cfg.PodNamespace)); err != nil || len(list.Items) != 0 {
		t.Errorf("attachments %+v, %v", list.Items, err)
	}
	coordinator := &v2beta1.SpiderCoordinator{}
	if err := c.Get(t.Context(), client.ObjectKey{Name: "default"}, coordinator); !apierrors.IsNotFound(err) {
		t.Errorf("SpiderCoordinator: %v", err)
	}
}

func TestDefaultPoolsHaveSubnets(t *testing.T) {
	c := kubetest.Client(t)
	cfg := configuration(t, c)
	cfg.DefaultPools = []config.DefaultPool{
		{Name: "default-v4-ippool", SubnetName: "v4", IPVersion: 4, Subnet: "10.9.0.0/16", IPRanges: []string{"10.9.0.10-10.9.0.20"}, Gateway: "10.9.0.1"},
		{Name: "default-v6-ippool", IPVersion: 6, Subnet: "fd00:9::/64", IPRanges: []string{"fd00:9::10-fd00:9::20"}},
	}
	t.Cleanup(func() {
		for _, name := range []string{"default-v4-ippool", "default-v6-ippool"} {
			kubetest.Remove(t, c, &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: name}})
		}
		kubetest.Remove(t, c, &v2beta1.SpiderSubnet{ObjectMeta: metav1.ObjectMeta{Name: "v4"}})
	})
	install(t, c, cfg)

	pool := &v2beta1.SpiderIPPool{}
	get(t, c, "", "default-v4-ippool", pool)
	if !*pool.Spec.Default || *pool.Spec.IPVersion != 4 || *pool.Spec.Gateway != "10.9.0.1" || pool.Spec.Subnet != "10.9.0.0/16" {
		t.Errorf("IPv4 pool %+v", pool.Spec)
	}
	get(t, c, "", "v4", &v2beta1.SpiderSubnet{})
	get(t, c, "", "default-v6-ippool", pool)
	if pool.Spec.Gateway != nil || *pool.Spec.IPVersion != 6 {
		t.Errorf("IPv6 pool %+v", pool.Spec)
	}
}

func TestRejectedPoolFailsAtOnce(t *testing.T) {
	c := kubetest.Client(t)
	cfg := configuration(t, c)
	cfg.DefaultPools = []config.DefaultPool{{Name: "bad", IPVersion: 4, Subnet: "10.8.0.0/16", IPRanges: []string{"10.7.0.1"}}}
	err := Install(t.Context(), slog.New(slog.DiscardHandler), under(t, "spiderpool-init", cfg.PodNamespace), cfg)
	if err == nil || !strings.Contains(err.Error(), "SpiderIPPool bad") || !strings.Contains(err.Error(), "10.7.0.1") {
		t.Errorf("error %v", err)
	}
}

func TestExistingPoolStaysUnchanged(t *testing.T) {
	c := kubetest.Client(t)
	cfg := configuration(t, c)
	kubetest.Create(t, c, &v2beta1.SpiderIPPool{
		ObjectMeta: metav1.ObjectMeta{Name: "there"}, Spec: v2beta1.SpiderIPPoolSpec{AddressSpace: v2beta1.AddressSpace{Subnet: "10.7.0.0/16", IPs: []string{"10.7.0.1"}}},
	})
	cfg.DefaultPools = []config.DefaultPool{{Name: "there", IPVersion: 4, Subnet: "10.8.0.0/16", IPRanges: []string{"10.7.0.1"}}}
	install(t, c, cfg)
	pool := &v2beta1.SpiderIPPool{}
	if get(t, c, "", "there", pool); pool.Spec.Subnet != "10.7.0.0/16" {
		t.Errorf("the pool became %+v", pool.Spec)
	}
}

func TestInstallWaitsForWebhooks(t *testing.T) {
	c := kubetest.Client(t)
	cfg := configuration(t, c)
	away := &admissionv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "away"},
		Webhooks: []admissionv1.ValidatingWebhook{{
			Name:                    "reserved.spiderpool.test",
			AdmissionReviewVersions: []string{"v1"},
			SideEffects:             new(admissionv1.SideEffectClassNone),
			// Port 1 of this host has no listener.
			ClientConfig: admissionv1.WebhookClientConfig{URL: new("https://127.0.0.1:1/validate")},
			Rules: []admissionv1.RuleWithOperations{{
				Operations: []admissionv1.OperationType{admissionv1.Create},
				Rule:       admissionv1.Rule{APIGroups: []string{v2beta1.GroupVersion.Group}, APIVersions: []string{"*"}, Resources: []string{"spiderreservedips"}},
			}},
		}},
	}
	kubetest.Create(t, c, away)
	reserved := &v2beta1.SpiderReservedIP{ObjectMeta: metav1.ObjectMeta{Name: "x"}}
	kubetest.Eventually(t, func(ctx context.Context) error { // the API server takes the webhook in
		if err := c.Create(ctx, reserved.DeepCopy(), client.DryRunAll); err != nil {
			return nil
		}
		return errors.New("the webhook is not called")
	})

	var out output
	account := under(t, "spiderpool-init", cfg.PodNamespace)
	done := make(chan error, 1)
	go func() { done <- Install(t.Context(), out.logger(), account, cfg) }()
	kubetest.Eventually(t, func(context.Context) error {
		if !strings.Contains(out.String(), "waiting") {
			return errors.New("no waiting yet")
		}
		return nil
	})
	if !strings.Contains(out.String(), "webhook reserved.spiderpool.test is not available yet") {
		t.Errorf("no reason for waiting:\n%s", &out)
	}
	kubetest.Remove(t, c, away)
	if err := <-done; err != nil {
		t.Errorf("%v\n%s", err, &out)
	}
	if n := strings.Count(out.String(), "level=INFO msg=waiting"); n != 1 {
		t.Errorf("%d log lines about waiting, want 1:\n%s", n, &out)
	}
}

func TestTimeoutNamesReason(t *testing.T) {
	c := kubetest.Client(t)
	cfg := configuration(t, c)
	cfg.Timeout = 300 * time.Millisecond
	attachments := &apiextensionsv1.CustomResourceDefinition{}
	if err := apiextensionsv1.AddToScheme(c.Scheme()); err != nil {
		t.Fatal(err)
	}
	const crd = "network-attachment-definitions.k8s.cni.cncf.io"
	get(t, c, "", crd, attachments)
	kubetest.Remove(t, c, attachments.DeepCopy())
	kubetest.Eventually(t, func(ctx context.Context) error {
		if err := c.Get(ctx, client.ObjectKey{Name: crd}, &apiextensionsv1.CustomResourceDefinition{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the CRD is still there: %v", err)
		}
		return nil
	})
	t.Cleanup(func() {
		attachments.ResourceVersion = ""
		if err := c.Create(context.Background(), attachments); err != nil {
			t.Errorf("restore the CRD: %v", err)
		}
	})
	// The mapper of this client has not seen the kind.
	fresh := under(t, "spiderpool-init", cfg.PodNamespace)
	err := Install(t.Context(), slog.New(slog.DiscardHandler), fresh, cfg)
	want := "gave up waiting for NetworkAttachmentDefinition " + cfg.PodNamespace + "/ipvlan-ens5 (the API server does not serve its kind yet) after the timeout of 300ms (spiderpoolInit.timeout)"
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %q", err, want)
	}
}

func TestCleanupRemovesFinalizersAndCreatedObjects(t *testing.T) {
	c := kubetest.Client(t)
	cfg := configuration(t, c)
	install(t, c, cfg)
	pool := &v2beta1.SpiderIPPool{
		ObjectMeta: metav1.ObjectMeta{Name: "kept", Finalizers: []string{"example.org/theirs", v2beta1.Finalizer}},
		Spec:       v2beta1.SpiderIPPoolSpec{AddressSpace: v2beta1.AddressSpace{Subnet: "10.6.0.0/16"}},
	}
	theirs := &nadv1.NetworkAttachmentDefinition{ObjectMeta: metav1.ObjectMeta{Namespace: cfg.PodNamespace, Name: "theirs"}}
	filled := &nadv1.NetworkAttachmentDefinition{
		ObjectMeta: objectMeta(cfg.PodNamespace, "filled"),
		Spec:       nadv1.NetworkAttachmentDefinitionSpec{Config: `{}`},
	}
	certificate := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: cfg.PodNamespace, Name: "spiderpool-controller-server-certs"}}
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: cfg.PodNamespace, Name: "spiderpool-controller"}}
	kubetest.Create(t, c, pool, theirs, filled, certificate, lease, marker(cfg.PodNamespace))
	leftovers := Leftovers{Namespace: cfg.PodNamespace, Secrets: []string{certificate.Name}, Job: "spiderpool-init", Lease: lease.Name}

	for range 2 { // again changes nothing
		if err := Cleanup(t.Context(), slog.New(slog.DiscardHandler), under(t, "spiderpool-init-cleanup", cfg.PodNamespace), leftovers); err != nil {
			t.Fatal(err)
		}
	}
	get(t, c, "", "kept", pool)
	if got := fmt.Sprint(pool.Finalizers); got != "[example.org/theirs]" {
		t.Errorf("finalizers %s, want only the foreign one", got)
	}
	get(t, c, cfg.PodNamespace, "theirs", theirs)
	get(t, c, cfg.PodNamespace, "filled", filled)
	for _, gone := range []client.Object{
		&nadv1.NetworkAttachmentDefinition{ObjectMeta: metav1.ObjectMeta{Namespace: cfg.PodNamespace, Name: "ipvlan-ens5"}},
		&v2beta1.SpiderCoordinator{ObjectMeta: metav1.ObjectMeta{Name: "default"}},
		certificate,
		lease,
		marker(cfg.PodNamespace),
	} {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(gone), gone); !apierrors.IsNotFound(err) {
			t.Errorf("%s is still there: %v", describe(gone), err)
		}
	}
}

// Other writers may change an object between the cleanup's list and its patch.
func TestCleanupRepeatsAfterConflict(t *testing.T) {
	c := kubetest.Client(t)
	namespace := kubetest.Namespace(t, c)
	specs := map[string]string{
		"SpiderIPPool":       `{"subnet":"10.8.0.0/16"}`,
		"SpiderSubnet":       `{"subnet":"10.9.0.0/16"}`,
		"SpiderReservedIP":   `{"ips":["10.10.0.1"]}`,
		"SpiderMultusConfig": `{"cniType":"macvlan","macvlan":{"master":["eth0"]}}`,
		"SpiderCoordinator":  `{"mode":"auto"}`,
		"SpiderEndpoint":     `{}`,
		"SpiderIPBlock":      `{"cidr":"10.11.0.0/28"}`,
	}
	for _, kind := range kinds {
		object := &unstructured.Unstructured{Object: map[string]any{}}
		object.SetGroupVersionKind(v2beta1.GroupVersion.WithKind(kind))
		object.SetName("10.11.0.0") // the name of the block, valid for every kind
		object.SetNamespace(namespace)
		object.SetFinalizers([]string{v2beta1.Finalizer})
		var spec map[string]any
		if err := json.Unmarshal([]byte(specs[kind]), &spec); err != nil {
			t.Fatal(kind, err)
		}
		object.Object["spec"] = spec
		kubetest.Create(t, c, object)
	}
	touched := map[string]bool{}
	account := interceptor.NewClient(under(t, "spiderpool-init-cleanup", namespace), interceptor.Funcs{
		Patch: func(ctx context.Context, inner client.WithWatch, object client.Object, patch client.Patch, options ...client.PatchOption) error {
			if kind := object.GetObjectKind().GroupVersionKind().Kind; !touched[kind] {
				touched[kind] = true
				other := object.DeepCopyObject().(client.Object)
				if err := c.Patch(ctx, other, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"other":"writer"}}}`))); err != nil {
					return err
				}
			}
			return inner.Patch(ctx, object, patch, options...)
		},
	})
	if err := Cleanup(t.Context(), slog.New(slog.DiscardHandler), account, Leftovers{Namespace: namespace}); err != nil {
		t.Fatal(err)
	}
	for _, kind := range kinds {
		object := &metav1.PartialObjectMetadata{ObjectMeta: objectMeta(namespace, "10.11.0.0")}
		object.SetGroupVersionKind(v2beta1.GroupVersion.WithKind(kind))
		if get(t, c, namespace, object.Name, object); len(object.Finalizers) > 0 || object.Labels["other"] == "" || !touched[kind] {
			t.Errorf("%s has finalizers %v and labels %v", kind, object.Finalizers, object.Labels)
		}
	}
}

func get(t *testing.T, c client.Client, namespace, name string, into client.Object) {
	t.Helper()
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, into); err != nil {
		t.Fatal(err)
	}
}
