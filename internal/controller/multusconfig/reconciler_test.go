//go:build apiserver

package multusconfig_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/controller/multusconfig"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/kube/status"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

func start(t *testing.T) (client.Client, string) {
	t.Helper()
	kubetest.Manager(t, func(mgr ctrl.Manager) error {
		return multusconfig.New(status.NewWriter(mgr), slog.New(slog.DiscardHandler)).Register(mgr)
	})
	c := kubetest.Client(t)
	return c, kubetest.Namespace(t, c)
}

func ipvlan(namespace, name string) *v2beta1.SpiderMultusConfig {
	return &v2beta1.SpiderMultusConfig{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: v2beta1.SpiderMultusConfigSpec{
			CNIType: new(v2beta1.CNIIPvlan),
			IPvlan:  &v2beta1.MasterConfig{Master: []string{"ens5"}},
		},
	}
}

func attachment(namespace, name string) *nadv1.NetworkAttachmentDefinition {
	return &nadv1.NetworkAttachmentDefinition{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
}

// ready waits for the wanted condition of the current generation; message is a part
// of its message.
func ready(t *testing.T, c client.Client, config *v2beta1.SpiderMultusConfig, want metav1.ConditionStatus, reason, message string) {
	t.Helper()
	kubetest.Eventually(t, func(ctx context.Context) error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(config), config); err != nil {
			return err
		}
		got := meta.FindStatusCondition(config.Status.Conditions, status.ConditionReady)
		if got == nil || got.Status != want || got.Reason != reason || got.ObservedGeneration != config.Generation || !strings.Contains(got.Message, message) {
			return fmt.Errorf("condition is %+v, want %s %s %q for generation %d", got, want, reason, message, config.Generation)
		}
		return nil
	})
}

func get(t *testing.T, c client.Client, object client.Object) {
	t.Helper()
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(object), object); err != nil {
		t.Fatal(err)
	}
}

func TestEmptyAttachmentIsAdopted(t *testing.T) {
	c, namespace := start(t)
	empty := attachment(namespace, "ipvlan-ens5")
	kubetest.Create(t, c, empty)
	config := ipvlan(namespace, "ipvlan-ens5")
	config.Annotations = map[string]string{"example.com/team": "blue"}
	kubetest.Create(t, c, config)

	ready(t, c, config, metav1.ConditionTrue, "AttachmentUpToDate", namespace+"/ipvlan-ens5")
	kubetest.Event(t, c, config, "AttachmentAdopted", "adopted NetworkAttachmentDefinition "+namespace+"/ipvlan-ens5, which had no owner")
	filled := attachment(namespace, "ipvlan-ens5")
	get(t, c, filled)
	if filled.UID != empty.UID || !metav1.IsControlledBy(filled, config) {
		t.Errorf("attachment %s owned by %v; want the former one, %s, owned by the config", filled.UID, filled.OwnerReferences, empty.UID)
	}
	want := `{"cniVersion":"0.3.1","name":"ipvlan-ens5","plugins":[{"type":"ipvlan","master":"ens5","mode":"l2","ipam":{"type":"spiderpool"}},{"type":"coordinator","capabilities":{"bandwidth":true}}]}`
	if filled.Spec.Config != want || filled.Annotations["example.com/team"] != "blue" {
		t.Errorf("config %s\nwant   %s\nannotations %v", filled.Spec.Config, want, filled.Annotations)
	}
}

func TestDriftIsRepaired(t *testing.T) {
	c, namespace := start(t)
	config := ipvlan(namespace, "net")
	config.Annotations = map[string]string{"example.com/goes": "1", "example.com/stays": "1"}
	kubetest.Create(t, c, config)
	ready(t, c, config, metav1.ConditionTrue, "AttachmentUpToDate", "")
	kubetest.Event(t, c, config, "AttachmentCreated", "created NetworkAttachmentDefinition "+namespace+"/net")

	drifted := attachment(namespace, "net")
	get(t, c, drifted)
	want := drifted.Spec.Config
	drifted.Spec.Config = "{}"
	drifted.Annotations["example.com/foreign"] = "1"
	if err := c.Update(t.Context(), drifted); err != nil {
		t.Fatal(err)
	}
	patch := client.MergeFrom(config.DeepCopy())
	delete(config.Annotations, "example.com/goes")
	if err := c.Patch(t.Context(), config, patch); err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, func(ctx context.Context) error {
		got := attachment(namespace, "net")
		if err := c.Get(ctx, client.ObjectKeyFromObject(got), got); err != nil {
			return err
		}
		_, gone := got.Annotations["example.com/goes"]
		if got.Spec.Config != want || gone || got.Annotations["example.com/stays"] != "1" || got.Annotations["example.com/foreign"] != "1" {
			return fmt.Errorf("attachment is %+v", got)
		}
		return nil
	})
	kubetest.Event(t, c, config, "AttachmentUpdated", "updated NetworkAttachmentDefinition "+namespace+"/net")
}

func TestForeignAttachmentIsNotTouched(t *testing.T) {
	c, namespace := start(t)
	owner := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "owner"}}
	kubetest.Create(t, c, owner)
	owned := attachment(namespace, "net")
	owned.Spec.Config = `{"type":"bridge"}`
	owned.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID}}
	kubetest.Create(t, c, owned)
	config := ipvlan(namespace, "net")
	kubetest.Create(t, c, config)

	ready(t, c, config, metav1.ConditionFalse, "AttachmentNotOwned", "belongs to ConfigMap owner; choose another name with the annotation multus.spidernet.io/cr-name")
	kubetest.Event(t, c, config, "AttachmentNotOwned", "belongs to ConfigMap owner")
	get(t, c, owned)
	if owned.Spec.Config != `{"type":"bridge"}` {
		t.Errorf("the attachment was changed: %s", owned.Spec.Config)
	}
	if err := c.Delete(t.Context(), owned); err != nil {
		t.Fatal(err)
	}
	ready(t, c, config, metav1.ConditionTrue, "AttachmentUpToDate", "")
}

func TestChangedNameMovesAttachment(t *testing.T) {
	c, namespace := start(t)
	config := ipvlan(namespace, "net")
	kubetest.Create(t, c, config)
	ready(t, c, config, metav1.ConditionTrue, "AttachmentUpToDate", namespace+"/net ")

	patch := client.MergeFrom(config.DeepCopy())
	config.Annotations = map[string]string{names.AnnotationMultusConfigCRName: "moved", names.AnnotationMultusConfigCNIVersion: "1.1.0"}
	if err := c.Patch(t.Context(), config, patch); err != nil {
		t.Fatal(err)
	}
	ready(t, c, config, metav1.ConditionTrue, "AttachmentUpToDate", namespace+"/moved ")
	get(t, c, attachment(namespace, "moved"))
	kubetest.Eventually(t, func(ctx context.Context) error {
		err := c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "net"}, attachment(namespace, "net"))
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("the attachment of the former name is still there"), err)
	})
	kubetest.Event(t, c, config, "AttachmentDeleted", "deleted NetworkAttachmentDefinition "+namespace+"/net: annotation multus.spidernet.io/cr-name now names moved")
}

func TestAttachmentStaysWhileNewNameIsTaken(t *testing.T) {
	c, namespace := start(t)
	owner := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "owner"}}
	kubetest.Create(t, c, owner)
	taken := attachment(namespace, "taken")
	taken.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID}}
	config := ipvlan(namespace, "net")
	kubetest.Create(t, c, taken, config)
	ready(t, c, config, metav1.ConditionTrue, "AttachmentUpToDate", namespace+"/net ")

	rename := func(to string) {
		patch := client.MergeFrom(config.DeepCopy())
		config.Annotations = map[string]string{names.AnnotationMultusConfigCRName: to}
		if err := c.Patch(t.Context(), config, patch); err != nil {
			t.Fatal(err)
		}
	}
	rename("taken")
	ready(t, c, config, metav1.ConditionFalse, "AttachmentNotOwned", "belongs to ConfigMap owner")
	get(t, c, attachment(namespace, "net"))
	rename("free")
	ready(t, c, config, metav1.ConditionTrue, "AttachmentUpToDate", namespace+"/free ")
}

func TestInvalidConfigIsReported(t *testing.T) {
	c, namespace := start(t)
	config := ipvlan(namespace, "net")
	config.Spec.ChainCNIJSONData = []string{`{"mtu": 1}`}
	kubetest.Create(t, c, config)
	ready(t, c, config, metav1.ConditionFalse, "Invalid", "spec.chainCNIJsonData[0]: Invalid value")
	kubetest.Event(t, c, config, "Invalid", `spec.chainCNIJsonData[0]: Invalid value: "{\"mtu\": 1}"`)

	err := c.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "net"}, attachment(namespace, "net"))
	if !apierrors.IsNotFound(err) {
		t.Errorf("an attachment was made of it: %v", err)
	}
}

func TestMatchingAttachmentIsNotWritten(t *testing.T) {
	c, namespace := start(t)
	empty := attachment(namespace, "ipvlan-ens5")
	kubetest.Create(t, c, empty)
	config := ipvlan(namespace, "ipvlan-ens5")
	kubetest.Create(t, c, config)
	ready(t, c, config, metav1.ConditionTrue, "AttachmentUpToDate", "")
	filled := attachment(namespace, "ipvlan-ens5")
	get(t, c, filled)

	// One worker handles them in turn: once the others are ready, it has also handled
	// the events of the first write.
	for _, name := range []string{"second", "third"} {
		next := ipvlan(namespace, name)
		kubetest.Create(t, c, next)
		ready(t, c, next, metav1.ConditionTrue, "AttachmentUpToDate", "")
	}
	again := attachment(namespace, "ipvlan-ens5")
	get(t, c, again)
	if again.ResourceVersion != filled.ResourceVersion {
		t.Errorf("the attachment was written again: %+v, was %+v", again.ManagedFields, filled.ManagedFields)
	}
}
