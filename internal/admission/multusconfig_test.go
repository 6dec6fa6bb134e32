//go:build apiserver

package admission_test

import (
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/kube/scheme"
)

// They came to be while admission was away, or before a rule was there.
func TestInvalidMultusConfigCanBeDeleted(t *testing.T) {
	c := kubetest.Client(t)
	config := func(name string, spec v2beta1.SpiderMultusConfigSpec, annotations map[string]string) *v2beta1.SpiderMultusConfig {
		return &v2beta1.SpiderMultusConfig{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Annotations: annotations}, Spec: spec}
	}
	ipvlan := v2beta1.SpiderMultusConfigSpec{CNIType: new(v2beta1.CNIIPvlan), IPvlan: &v2beta1.MasterConfig{Master: []string{"eth0"}}}
	chained := ipvlan
	chained.ChainCNIJSONData = []string{"{"}
	configs := []*v2beta1.SpiderMultusConfig{
		config("custom", v2beta1.SpiderMultusConfigSpec{CustomCNI: new("{")}, nil),
		config("chained", chained, nil),
		config("version", ipvlan, map[string]string{names.AnnotationMultusConfigCNIVersion: "0.2.0"}),
	}
	for _, in := range configs {
		kubetest.Create(t, c, in)
	}
	serve(t)
	for _, in := range configs {
		t.Run(in.Name, func(t *testing.T) {
			change := func(f func(*v2beta1.SpiderMultusConfig)) error {
				patch := client.MergeFrom(in.DeepCopy())
				changed := in.DeepCopy()
				f(changed)
				return c.Patch(t.Context(), changed, patch)
			}
			if err := change(func(in *v2beta1.SpiderMultusConfig) { in.Labels = map[string]string{"a": "b"} }); err != nil {
				t.Errorf("label: %v", err)
			}
			if err := change(func(in *v2beta1.SpiderMultusConfig) {
				metav1.SetMetaDataAnnotation(&in.ObjectMeta, "example.com/team", "blue")
			}); err != nil {
				t.Errorf("annotate: %v", err)
			}
			if err := change(func(in *v2beta1.SpiderMultusConfig) { in.Finalizers = []string{"example.com/kept"} }); err != nil {
				t.Errorf("finalizer: %v", err)
			}
			if err := change(func(in *v2beta1.SpiderMultusConfig) { in.Spec.DisableIPAM = new(true) }); err == nil {
				t.Error("the specification was changed and stayed invalid")
			}
			if err := change(func(in *v2beta1.SpiderMultusConfig) {
				metav1.SetMetaDataAnnotation(&in.ObjectMeta, names.AnnotationMultusConfigCRName, "moved")
			}); err == nil {
				t.Error("an annotation that the attachment is made from was changed")
			}
			if err := c.Delete(t.Context(), in); err != nil {
				t.Errorf("delete: %v", err)
			}
			if err := change(func(in *v2beta1.SpiderMultusConfig) { in.Finalizers = []string{} }); err != nil {
				t.Errorf("remove the finalizer: %v", err)
			}
		})
	}
}

func TestUnsupportedVLANWarns(t *testing.T) {
	c, _ := serve(t)
	heard := &warnings{}
	server := kubetest.Config(t)
	server.WarningHandler = heard
	warned, err := client.New(server, client.Options{Scheme: scheme.New()})
	if err != nil {
		t.Fatal(err)
	}
	const want = "spec.vlan.vlanMode is auto, but nothing in this cluster tells the VLAN of an address; write vlanMode: manual and vlanID"
	says := func() bool {
		return slices.ContainsFunc(heard.said, func(text string) bool { return strings.Contains(text, want) })
	}
	manual := object(t, "SpiderMultusConfig", `{cniType: vlan, vlan: {master: [eth0], vlanMode: manual, vlanID: 3}}`)
	if err := warned.Create(t.Context(), manual, client.DryRunAll); err != nil || says() {
		t.Errorf("manual: %v, warnings %q", err, heard.said)
	}
	auto := object(t, "SpiderMultusConfig", `{cniType: vlan, vlan: {master: [eth0], vlanMode: auto}}`)
	if err := warned.Create(t.Context(), auto, client.DryRunAll); err != nil || !says() {
		t.Errorf("auto: %v, warnings %q, want %q", err, heard.said, want)
	}

	heard.said = nil
	kubetest.Create(t, c, manual)
	changed := manual.DeepCopy()
	changed.Object["spec"] = map[string]any{"cniType": "vlan", "vlan": map[string]any{"master": []any{"eth0"}, "vlanMode": "auto"}}
	if err := warned.Update(t.Context(), changed, client.DryRunAll); err != nil || !says() {
		t.Errorf("manual that becomes auto: %v, warnings %q", err, heard.said)
	}
}
