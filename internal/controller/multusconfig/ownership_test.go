//go:build apiserver

package multusconfig_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/controller/multusconfig"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/kube/status"
)

// owned waits until the attachment is there with the configuration and belongs to
// the SpiderMultusConfig.
func owned(t *testing.T, c client.Client, config *v2beta1.SpiderMultusConfig, is *nadv1.NetworkAttachmentDefinition, want string) {
	t.Helper()
	kubetest.Eventually(t, func(ctx context.Context) error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(is), is); err != nil {
			return err
		}
		if !metav1.IsControlledBy(is, config) || is.Spec.Config != want {
			return fmt.Errorf("the attachment is %+v, want %s, of SpiderMultusConfig %s", is, want, config.Name)
		}
		return nil
	})
}

func TestDeletedOrDisownedAttachmentIsRestored(t *testing.T) {
	c, namespace := start(t)
	config := ipvlan(namespace, "net")
	kubetest.Create(t, c, config)
	ready(t, c, config, metav1.ConditionTrue, "AttachmentUpToDate", "")
	first := attachment(namespace, "net")
	get(t, c, first)

	if err := c.Delete(t.Context(), first.DeepCopy()); err != nil {
		t.Fatal(err)
	}
	second := attachment(namespace, "net")
	owned(t, c, config, second, first.Spec.Config)
	if second.UID == first.UID {
		t.Error("the attachment was not deleted")
	}

	second.OwnerReferences = nil
	if err := c.Update(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	owned(t, c, config, second, first.Spec.Config)
	kubetest.Event(t, c, config, "AttachmentAdopted", namespace+"/net, which had no owner")
}

// A reconciler with a stale cache must not change the attachment: it would take it from another
// owner, or adopt it without an event.
func TestStaleCacheChangesNoAttachment(t *testing.T) {
	c := kubetest.Client(t)
	namespace := kubetest.Namespace(t, c)
	config := ipvlan(namespace, "net")
	kubetest.Create(t, c, config)
	cached := &staleClient{Client: c}
	recorder := events.NewFakeRecorder(10)
	r := multusconfig.New(status.Writer{Client: cached, Recorder: status.Recorder{EventRecorder: recorder}}, slog.New(slog.DiscardHandler))
	reconcile := func() {
		t.Helper()
		if _, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(config)}); err != nil {
			t.Fatal(err)
		}
	}
	reconcile()
	is := attachment(namespace, "net")
	get(t, c, is)
	cached.stale = is.DeepCopy()
	is.OwnerReferences = nil
	if err := c.Update(t.Context(), is); err != nil {
		t.Fatal(err)
	}
	reconcile()
	if get(t, c, is); len(is.OwnerReferences) > 0 {
		t.Errorf("the attachment got the owner %v", is.OwnerReferences)
	}
	cached.stale = nil
	reconcile()
	if get(t, c, is); !metav1.IsControlledBy(is, config) {
		t.Errorf("the attachment has the owner %v", is.OwnerReferences)
	}
	close(recorder.Events)
	var seen []string
	for event := range recorder.Events {
		seen = append(seen, strings.Fields(event)[1]) // type, reason, text
	}
	if want := []string{"AttachmentCreated", "AttachmentAdopted"}; !slices.Equal(seen, want) {
		t.Errorf("events %q, want %q", seen, want)
	}
}

// staleClient reads an old attachment, if there is one.
type staleClient struct {
	client.Client
	stale *nadv1.NetworkAttachmentDefinition
}

func (s *staleClient) Get(ctx context.Context, key client.ObjectKey, o client.Object, options ...client.GetOption) error {
	if is, ok := o.(*nadv1.NetworkAttachmentDefinition); ok && s.stale != nil {
		s.stale.DeepCopyInto(is)
		return nil
	}
	return s.Client.Get(ctx, key, o, options...)
}

// Admission lets the second one in when both are created at one moment.
func TestReleasedNameGoesToSecondConfig(t *testing.T) {
	c, namespace := start(t)
	named := func(name, master string) *v2beta1.SpiderMultusConfig {
		config := ipvlan(namespace, name)
		config.Spec.IPvlan.Master = []string{master}
		config.Annotations = map[string]string{names.AnnotationMultusConfigCRName: "shared"}
		return config
	}
	first, second := named("z-first", "ens5"), named("a-second", "ens6")
	kubetest.Create(t, c, first)
	ready(t, c, first, metav1.ConditionTrue, "AttachmentUpToDate", namespace+"/shared")
	shared := attachment(namespace, "shared")
	get(t, c, shared)
	of := func(master string) string {
		return `{"cniVersion":"0.3.1","name":"shared","plugins":[{"type":"ipvlan","master":"` + master + `","mode":"l2","ipam":{"type":"spiderpool"}},{"type":"coordinator","capabilities":{"bandwidth":true}}]}`
	}
	owned(t, c, first, shared, of("ens5"))

	kubetest.Create(t, c, second)
	ready(t, c, second, metav1.ConditionFalse, "AttachmentNotOwned", "belongs to SpiderMultusConfig z-first; choose another name with the annotation multus.spidernet.io/cr-name, or delete that owner")
	kubetest.Event(t, c, second, "AttachmentNotOwned", "belongs to SpiderMultusConfig z-first")
	owned(t, c, first, shared, of("ens5"))
	ready(t, c, first, metav1.ConditionTrue, "AttachmentUpToDate", namespace+"/shared")

	patch := client.MergeFrom(first.DeepCopy())
	first.Annotations[names.AnnotationMultusConfigCRName] = "other"
	if err := c.Patch(t.Context(), first, patch); err != nil {
		t.Fatal(err)
	}
	ready(t, c, first, metav1.ConditionTrue, "AttachmentUpToDate", namespace+"/other")
	ready(t, c, second, metav1.ConditionTrue, "AttachmentUpToDate", namespace+"/shared")
	owned(t, c, second, attachment(namespace, "shared"), of("ens6"))
}

func TestUnsupportedVLANGetsNoAttachment(t *testing.T) {
	c, namespace := start(t)
	config := ipvlan(namespace, "net")
	config.Spec = v2beta1.SpiderMultusConfigSpec{CNIType: new(v2beta1.CNIVlan), Vlan: &v2beta1.VlanConfig{
		MasterConfig: v2beta1.MasterConfig{Master: []string{"ens5"}}, VlanMode: new(v2beta1.VlanAuto),
	}}
	kubetest.Create(t, c, config)
	const message = "spec.vlan.vlanMode is auto, but nothing in this cluster tells the VLAN of an address; write vlanMode: manual and vlanID"
	ready(t, c, config, metav1.ConditionFalse, "Unsupported", message)
	kubetest.Event(t, c, config, "Unsupported", message)
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "net"}, attachment(namespace, "net")); !apierrors.IsNotFound(err) {
		t.Errorf("an attachment was made of it: %v", err)
	}
	patch := client.MergeFrom(config.DeepCopy())
	config.Spec.Vlan.VlanMode, config.Spec.Vlan.VlanID = new(v2beta1.VlanManual), new(int32(3))
	if err := c.Patch(t.Context(), config, patch); err != nil {
		t.Fatal(err)
	}
	ready(t, c, config, metav1.ConditionTrue, "AttachmentUpToDate", "")
}
