//go:build apiserver

package charts

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/kube/scheme"
	"spiderpool.dev/spiderpool/internal/lease"
)

const override = "ipam.spidernet.io/override"

// installPolicies creates the policies and roles of the chart, and waits until the
// API server enforces the policies.
func installPolicies(t *testing.T) client.Client {
	t.Helper()
	c := kubetest.Client(t)
	manifest := render(t)
	for _, role := range objectsOf[rbacv1.ClusterRole](t, manifest, "ClusterRole") {
		kubetest.Create(t, c, &role)
	}
	for _, binding := range objectsOf[rbacv1.ClusterRoleBinding](t, manifest, "ClusterRoleBinding") {
		kubetest.Create(t, c, &binding)
	}
	for _, policy := range objectsOf[admissionv1.ValidatingAdmissionPolicy](t, manifest, "ValidatingAdmissionPolicy") {
		kubetest.Create(t, c, &policy)
	}
	for _, binding := range objectsOf[admissionv1.ValidatingAdmissionPolicyBinding](t, manifest, "ValidatingAdmissionPolicyBinding") {
		kubetest.Create(t, c, &binding)
	}
	kubetest.Eventually(t, func(ctx context.Context) error {
		if err := c.Create(ctx, blockOf(), client.DryRunAll); !refused(err) {
			return fmt.Errorf("a stranger may create a block: %w", errors.Join(err))
		}
		if err := deleteDefinition(t, "spideripblocks"); !refused(err) {
			return fmt.Errorf("a stranger may delete the definition: %w", errors.Join(err))
		}
		return nil
	})
	return c
}

// deleteDefinition deletes the CustomResourceDefinition of a kind, e.g. "spideripblocks",
// in a dry run.
func deleteDefinition(t *testing.T, of string) error {
	t.Helper()
	return crdClient(t).Delete(t.Context(), of+".spiderpool.spidernet.io", metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}})
}

func crdClient(t *testing.T) metadata.ResourceInterface {
	t.Helper()
	c, err := metadata.NewForConfig(kubetest.Config(t))
	if err != nil {
		t.Fatal(err)
	}
	return c.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
}

// refused reports whether a rule of the chart's policies refused the request. A fault
// in a rule also refuses it, but is no reason.
func refused(err error) bool {
	return apierrors.IsInvalid(err) && strings.Contains(err.Error(), "ValidatingAdmissionPolicy 'spiderpool-blocks") &&
		!strings.Contains(err.Error(), "resulted in error")
}

// as returns a client with the account's rights.
func as(t *testing.T, config *rest.Config) client.Client {
	t.Helper()
	c, err := client.New(config, client.Options{Scheme: scheme.New()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func agentOf(t *testing.T, node string) client.Client {
	t.Helper()
	return as(t, kubetest.Account(t, "kube-system", "spiderpool-agent", node))
}

// former is the state of a former sandbox in texts of leaseOf.
const former lease.State = "Former"

// blockOf returns the block 192.0.2.0 of node a with the leases.
func blockOf(leases ...lease.Lease) *v2beta1.SpiderIPBlock {
	block := lease.Block{Base: netip.MustParseAddr("192.0.2.0"), Node: "a", Former: []lease.Former{}}
	for _, l := range leases {
		if l.State == former {
			block.Former = append(block.Former, lease.Former{Addr: l.Addr, Holder: l.Holder})
		} else {
			block.Leases = append(block.Leases, l)
		}
	}
	return compile.BlockObject(block)
}

// leaseOf parses e.g. "192.0.2.1 InUse a web-0": address, state or "Former", node and
// owner. The pod's UID is "uid-" and the owner, or else the address.
func leaseOf(text string) lease.Lease {
	fields := append(strings.Fields(text), "", "")
	l := lease.Lease{Addr: netip.MustParseAddr(fields[0]), State: lease.State(fields[1]), Since: time.Unix(0, 0).UTC()}
	if l.State == lease.InUse || l.State == lease.Retained || l.State == former {
		l.Holder = lease.Holder{
			Attachment: lease.Attachment{ContainerID: "c", Interface: "eth0"},
			Pod:        lease.PodKey{Namespace: "default", Name: "p"}, PodUID: "uid-" + fields[0] + fields[3], Node: strings.Trim(fields[2], "-"),
		}
		if fields[3] != "" {
			l.FixedFor = lease.Owner{Kind: lease.KindPod, Namespace: "default", Name: fields[3]}
		}
	}
	if l.State == lease.Quarantined {
		l.Until = time.Unix(1, 0).UTC()
	}
	if l.State == lease.Withheld {
		l.Pool, l.WithheldBy = "p", "aws"
	}
	return l
}

func leasesOf(text string) (leases []lease.Lease) {
	for line := range strings.SplitSeq(text, ",") {
		if line = strings.TrimSpace(line); line != "" {
			leases = append(leases, leaseOf(line))
		}
	}
	return leases
}

// store makes the block's leases in the API server those of the text.
func store(t *testing.T, c client.Client, text string) *v2beta1.SpiderIPBlock {
	t.Helper()
	block := blockOf(leasesOf(text)...)
	block.Annotations = map[string]string{override: "test"}
	kubetest.Create(t, c, block)
	return block
}

// overrideNow lets a cleanup delete the block.
func overrideNow(t *testing.T, c client.Client, name string) {
	t.Helper()
	patch := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"annotations":{"`+override+`":"end of test"}}}`))
	if err := client.IgnoreNotFound(c.Patch(context.Background(), &v2beta1.SpiderIPBlock{ObjectMeta: metav1.ObjectMeta{Name: name}}, patch)); err != nil {
		t.Error(err)
	}
}

func TestStrangersMayNotWriteBlocks(t *testing.T) {
	c := installPolicies(t)
	block := store(t, c, "192.0.2.1 InUse a")
	withoutOverride := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"annotations":null}}`))
	if err := c.Patch(t.Context(), block, withoutOverride); err != nil {
		t.Fatal("remove an annotation: ", err)
	}
	for name, write := range map[string]func() error{
		"create":     func() error { return c.Create(t.Context(), blockOf(), client.DryRunAll) },
		"delete":     func() error { return c.Delete(t.Context(), block) },
		"delete all": func() error { return c.DeleteAllOf(t.Context(), block) },
		"leases": func() error {
			return c.Patch(t.Context(), block.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"leases":[]}}`)))
		},
		"label": func() error {
			return c.Patch(t.Context(), block.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":null}}`)))
		},
		"owner": func() error {
			return c.Patch(t.Context(), block.DeepCopy(), client.RawPatch("application/merge-patch+json",
				[]byte(`{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"gone","uid":"u"}]}}`)))
		},
		"garbage collector": func() error {
			return as(t, kubetest.Account(t, "kube-system", "generic-garbage-collector", "")).Delete(t.Context(), block)
		},
	} {
		if err := write(); !refused(err) && !(name == "garbage collector" && apierrors.IsForbidden(err)) {
			t.Errorf("%s: got %v, want a refusal by the policy", name, err)
		}
	}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(block), block); err != nil || len(block.Spec.Leases) != 1 {
		t.Errorf("the block changed: %v, %+v", err, block.Spec.Leases)
	}
	overrideNow(t, c, block.Name)
	if err := c.Delete(t.Context(), block); err != nil {
		t.Errorf("delete with the annotation: %v", err)
	}
}

func TestDefinitionOfBlocksStays(t *testing.T) {
	installPolicies(t)
	if err := deleteDefinition(t, "spideripblocks"); !refused(err) {
		t.Errorf("got %v, want a refusal", err)
	}
	if err := deleteDefinition(t, "spiderendpoints"); err != nil {
		t.Errorf("another definition: %v", err)
	}
	annotate := func(value string) {
		patch := []byte(`{"metadata":{"annotations":{"` + override + `":` + value + `}}}`)
		if _, err := crdClient(t).Patch(context.Background(), "spideripblocks.spiderpool.spidernet.io", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			t.Error(err)
		}
	}
	annotate(`"test"`)
	t.Cleanup(func() { annotate("null") })
	if err := deleteDefinition(t, "spideripblocks"); err != nil {
		t.Errorf("with the annotation: %v", err)
	}
}

// transitions are changes of one block. The writer runs on node a.
var transitions = []struct {
	name, before, after string
	agent, controller   bool // whether the agent of node a, and the controller, may write it
}{
	{"new", "", "192.0.2.1 InUse a", true, false},
	{"new for another node", "", "192.0.2.1 InUse b", false, false},
	{"new without node", "", "192.0.2.1 InUse -", false, false},
	{"reuse", "192.0.2.1 Released", "192.0.2.1 InUse a", true, false},
	{"end of quarantine", "192.0.2.1 Quarantined", "192.0.2.1 InUse a", true, false},
	{"forget", "192.0.2.1 Released, 192.0.2.2 Quarantined, 192.0.2.3 InUse b", "192.0.2.3 InUse b", true, true},
	{"beside another node", "192.0.2.1 InUse b", "192.0.2.1 InUse b, 192.0.2.2 InUse a", true, false},
	{"release", "192.0.2.1 InUse a", "192.0.2.1 Released", true, true},
	{"release of another node", "192.0.2.1 InUse b", "192.0.2.1 Released", false, true},
	{"release beside a longer name", "192.0.2.1 InUse b, 192.0.2.2 InUse bb", "192.0.2.1 InUse b, 192.0.2.2 Released", false, true},
	{"drop", "192.0.2.1 InUse b, 192.0.2.2 InUse a", "192.0.2.2 InUse a", false, false},
	{"drop own", "192.0.2.1 InUse a, 192.0.2.2 InUse b", "192.0.2.2 InUse b", true, false},
	{"drop all", "192.0.2.1 InUse b", "", false, false},
	{"take", "192.0.2.1 InUse b", "192.0.2.1 InUse a", false, false},
	{"take by owner", "192.0.2.1 InUse b web-0", "192.0.2.1 InUse a web-0, 192.0.2.1 Former b web-0", true, false},
	{"take by owner, without a trace", "192.0.2.1 InUse b web-0", "192.0.2.1 InUse a web-0", false, false},
	{"former without a lease", "192.0.2.1 InUse a", "192.0.2.1 InUse a, 192.0.2.1 Former b", false, false},
	{"former for another's lease", "192.0.2.1 InUse b", "192.0.2.1 InUse b, 192.0.2.1 Former a", true, false},
	{"end of former", "192.0.2.1 InUse b, 192.0.2.1 Former a", "192.0.2.1 InUse b", true, true},
	{"end of another's former", "192.0.2.1 InUse a, 192.0.2.1 Former b", "192.0.2.1 InUse a", false, true},
	{"release with former", "192.0.2.1 InUse a, 192.0.2.1 Former b", "192.0.2.1 Released, 192.0.2.1 Former b", true, true},
	{"grant beside a former", "192.0.2.1 Released, 192.0.2.1 Former b web-0", "192.0.2.1 InUse a, 192.0.2.1 Former b web-0", false, false},
	{"grant beside a former, never leased", "192.0.2.1 Former b web-0", "192.0.2.1 InUse a, 192.0.2.1 Former b web-0", false, false},
	{"grant beside a former, after quarantine", "192.0.2.1 Quarantined, 192.0.2.1 Former b web-0", "192.0.2.1 InUse a, 192.0.2.1 Former b web-0", false, false},
	{"grant beside a former of another owner", "192.0.2.1 Released, 192.0.2.1 Former b web-0", "192.0.2.1 InUse a web-1, 192.0.2.1 Former b web-0", false, false},
	{"grant beside a former of the owner", "192.0.2.1 Released, 192.0.2.1 Former b web-0", "192.0.2.1 InUse a web-0, 192.0.2.1 Former b web-0", true, false},
	{"grant beside a former of the pod", "192.0.2.1 Released, 192.0.2.1 Former b", "192.0.2.1 InUse a, 192.0.2.1 Former b", true, false},
	{"grant beside a former elsewhere", "192.0.2.1 Released, 192.0.2.2 Former b web-0", "192.0.2.1 InUse a, 192.0.2.2 Former b web-0", true, false},
	{"grant at the end of a former", "192.0.2.1 Released, 192.0.2.1 Former a web-0", "192.0.2.1 InUse a", true, false},
	{"renewal beside a former", "192.0.2.1 InUse a, 192.0.2.1 Former b web-0", "192.0.2.1 InUse a web-1, 192.0.2.1 Former b web-0", true, false},
	{"take by other owner", "192.0.2.1 InUse b web-0", "192.0.2.1 InUse a web-1", false, false},
	{"give away", "192.0.2.1 InUse a web-0", "192.0.2.1 InUse b web-0", false, false},
	{"retain", "192.0.2.1 InUse a web-0", "192.0.2.1 Retained a web-0", true, true},
	{"retain of another node", "192.0.2.1 InUse b web-0", "192.0.2.1 Retained b web-0", false, true},
	{"retain for another", "192.0.2.1 InUse a web-0", "192.0.2.1 Retained a web-1", false, false},
	{"retain free", "192.0.2.1 Released", "192.0.2.1 Retained a web-0", false, false},
	{"return of owner", "192.0.2.1 Retained b web-0", "192.0.2.1 InUse a web-0", true, false},
	{"return of other", "192.0.2.1 Retained b web-0", "192.0.2.1 InUse a web-1", false, false},
	{"return of nobody", "192.0.2.1 Retained b web-0", "192.0.2.1 InUse a", false, false},
	{"end of retention", "192.0.2.1 Retained b web-0", "192.0.2.1 Released", true, true},
	{"quarantine", "192.0.2.1 InUse a", "192.0.2.1 Quarantined", true, false},
	{"quarantine taken back", "192.0.2.1 Quarantined", "192.0.2.1 Released", true, false},
	{"quarantine of another node", "192.0.2.1 InUse b", "192.0.2.1 Quarantined", false, false},
	{"quarantine of free", "", "192.0.2.1 Quarantined", false, false},
	{"outside the block", "", "192.0.2.16 InUse a", false, false},
	{"withhold new", "", "192.0.2.1 Withheld", false, true},
	{"withhold released", "192.0.2.1 Released", "192.0.2.1 Withheld", false, true},
	{"withhold outside the block", "", "192.0.2.16 Withheld", false, false},
	{"withhold beside a pod", "192.0.2.1 InUse b", "192.0.2.1 InUse b, 192.0.2.2 Withheld", false, true},
	{"withhold own", "192.0.2.1 InUse a", "192.0.2.1 Withheld", false, false},
	{"withhold of another node", "192.0.2.1 InUse b", "192.0.2.1 Withheld", false, false},
	{"withhold retained", "192.0.2.1 Retained b web-0", "192.0.2.1 Withheld", false, false},
	{"withhold quarantined", "192.0.2.1 Quarantined", "192.0.2.1 Withheld", false, false},
	{"withhold from a former", "192.0.2.1 Released, 192.0.2.1 Former b", "192.0.2.1 Withheld, 192.0.2.1 Former b", false, false},
	{"withhold from a former, never leased", "192.0.2.1 Former b", "192.0.2.1 Withheld, 192.0.2.1 Former b", false, false},
	{"grant withheld", "192.0.2.1 Withheld", "192.0.2.1 InUse a", false, false},
	{"grant withheld to an owner", "192.0.2.1 Withheld", "192.0.2.1 InUse a web-0", false, false},
	{"quarantine withheld", "192.0.2.1 Withheld", "192.0.2.1 Quarantined", false, false},
	{"drop withheld", "192.0.2.1 Withheld, 192.0.2.2 InUse a", "192.0.2.2 InUse a", false, false},
	{"end of withheld", "192.0.2.1 Withheld", "192.0.2.1 Released", false, true},
	{"grant beside withheld", "192.0.2.1 Withheld", "192.0.2.1 Withheld, 192.0.2.2 InUse a", true, false},
	{"release beside withheld", "192.0.2.1 Withheld, 192.0.2.2 InUse a", "192.0.2.1 Withheld, 192.0.2.2 Released", true, true},
	{"former on a withheld address", "192.0.2.1 Withheld", "192.0.2.1 Withheld, 192.0.2.1 Former a", true, false},
}

func TestWritersChangeOnlyTheirLeases(t *testing.T) {
	c := installPolicies(t)
	agent := agentOf(t, "a")
	controller := as(t, kubetest.Account(t, "kube-system", "spiderpool-controller", "a"))
	for _, test := range transitions {
		t.Run(test.name, func(t *testing.T) {
			block := store(t, c, test.before)
			t.Cleanup(func() { overrideNow(t, c, block.Name) })
			after := blockOf(leasesOf(test.after)...)
			after.ResourceVersion = block.ResourceVersion
			for writer, may := range map[client.Client]bool{agent: test.agent, controller: test.controller} {
				err := writer.Update(t.Context(), after.DeepCopy(), client.DryRunAll)
				if name := map[client.Client]string{agent: "agent", controller: "controller"}[writer]; may && err != nil || !may && !refused(err) {
					t.Errorf("%s: got %v, want allowed: %t", name, err, may)
				}
			}
		})
	}
}

func TestAgentMayNotForgeBlocks(t *testing.T) {
	c := installPolicies(t)
	agent := agentOf(t, "a")
	block := store(t, c, "192.0.2.1 InUse b, 192.0.2.2 Released")
	t.Cleanup(func() { overrideNow(t, c, block.Name) })
	tests := map[string]func(b *v2beta1.SpiderIPBlock){
		"creator":       func(b *v2beta1.SpiderIPBlock) { b.Spec.Node = "c" },
		"label":         func(b *v2beta1.SpiderIPBlock) { delete(b.Labels, compile.BlockNodeLabel("b")) },
		"creator label": func(b *v2beta1.SpiderIPBlock) { delete(b.Labels, compile.BlockNodeLabel("a")) },
		"finalizer":     func(b *v2beta1.SpiderIPBlock) { b.Finalizers = []string{"example.org/f"} },
		"owner": func(b *v2beta1.SpiderIPBlock) {
			b.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "gone", UID: "u"}}
		},
		"twice": func(b *v2beta1.SpiderIPBlock) {
			twin := b.Spec.Leases[0]
			twin.State = v2beta1.LeaseReleased
			b.Spec.Leases = append(b.Spec.Leases, twin)
		},
		"other spelling": func(b *v2beta1.SpiderIPBlock) {
			b.Spec.Leases[1].IP = "::ffff:192.0.2.1"
			b.Spec.Leases[1].Node, b.Spec.Leases[1].State = "a", v2beta1.LeaseInUse
		},
		"override": func(b *v2beta1.SpiderIPBlock) {
			b.Annotations = map[string]string{override: "mine"}
			b.Spec.Leases = nil
		},
	}
	for name, forge := range tests {
		forged := block.DeepCopy()
		forge(forged)
		if err := agent.Update(t.Context(), forged, client.DryRunAll); !refused(err) {
			t.Errorf("%s: got %v, want a refusal", name, err)
		}
	}
	if err := agent.Delete(t.Context(), block); err == nil {
		t.Error("an agent deleted a block")
	}
}

func TestAgentCreatesOwnBlocks(t *testing.T) {
	c := installPolicies(t)
	long := strings.Repeat("n", 63) + "." + strings.Repeat("o", 63) + "." + strings.Repeat("p", 63)
	for _, node := range []string{"a", long} {
		agent := agentOf(t, node)
		lease1 := leaseOf("192.0.2.1 InUse a")
		lease1.Node = node
		block := compile.BlockObject(lease.Block{Base: netip.MustParseAddr("192.0.2.0"), Node: node, Leases: []lease.Lease{lease1}})
		if err := agent.Create(t.Context(), block); err != nil {
			t.Fatal(err)
		}
		overrideNow(t, c, block.Name)
		kubetest.Remove(t, c, block)
		block = blockOf()
		block.Spec.Node = "c"
		if err := agent.Create(t.Context(), block); !refused(err) {
			t.Errorf("a block of another node: got %v, want a refusal", err)
		}
	}
}

// A token without a node could act for any node.
func TestTokenWithoutNodeIsRefused(t *testing.T) {
	installPolicies(t)
	agent := agentOf(t, "")
	if err := agent.Create(t.Context(), blockOf(leaseOf("192.0.2.1 InUse -"))); !refused(err) || !strings.Contains(err.Error(), "names no node") {
		t.Errorf("got %v, want a refusal that names the token", err)
	}
}

func TestControllerDeletesOnlyUnusedBlocks(t *testing.T) {
	c := installPolicies(t)
	controller := as(t, kubetest.Account(t, "kube-system", "spiderpool-controller", "a"))
	for text, may := range map[string]bool{
		"192.0.2.1 Released, 192.0.2.2 Quarantined": true,
		"192.0.2.1 InUse a":                         false,
		"192.0.2.1 Retained a web-0":                false,
		"192.0.2.1 Released, 192.0.2.1 Former b":    false,
		"192.0.2.1 Released, 192.0.2.2 Withheld":    false,
	} {
		block := store(t, c, text)
		if err := controller.Delete(t.Context(), block); may && err != nil || !may && !refused(err) {
			t.Errorf("%s: got %v, want allowed: %t", text, err, may)
		}
		kubetest.Remove(t, c, block)
	}
	if err := controller.Create(t.Context(), blockOf()); !apierrors.IsForbidden(err) && !refused(err) {
		t.Errorf("create: got %v, want a refusal", err)
	}
}

func TestControllerWithholdsInNewBlocks(t *testing.T) {
	c := installPolicies(t)
	controller := as(t, kubetest.Account(t, "kube-system", "spiderpool-controller", "a"))
	blockWith := func(change func(b *v2beta1.SpiderIPBlock)) *v2beta1.SpiderIPBlock {
		b := compile.BlockObject(lease.Block{Base: netip.MustParseAddr("192.0.2.0"), Leases: leasesOf("192.0.2.1 Withheld, 192.0.2.2 Withheld")})
		change(b)
		return b
	}
	for name, change := range map[string]func(b *v2beta1.SpiderIPBlock){
		"creator": func(b *v2beta1.SpiderIPBlock) { b.Spec.Node = "a"; b.Labels[compile.BlockNodeLabel("a")] = "creator" },
		"also free": func(b *v2beta1.SpiderIPBlock) {
			b.Spec.Leases = append(b.Spec.Leases, v2beta1.Lease{IP: "192.0.2.3", State: v2beta1.LeaseReleased})
		},
		"no label":  func(b *v2beta1.SpiderIPBlock) { delete(b.Labels, "ipam.spidernet.io/withheld") },
		"for a pod": func(b *v2beta1.SpiderIPBlock) { b.Spec.Leases[0].PodUID = "u" },
		"for owner": func(b *v2beta1.SpiderIPBlock) { b.Spec.Leases[0].FixedFor = "Pod/default/web-0" },
		"for a node": func(b *v2beta1.SpiderIPBlock) {
			b.Spec.Leases[0].Node = "a"
			b.Labels[compile.BlockNodeLabel("a")] = "holder"
		},
		"twice": func(b *v2beta1.SpiderIPBlock) { b.Spec.Leases[1].IP = b.Spec.Leases[0].IP },
	} {
		if err := controller.Create(t.Context(), blockWith(change), client.DryRunAll); !refused(err) {
			t.Errorf("%s: got %v, want a refusal", name, err)
		}
	}
	nobody := blockWith(func(b *v2beta1.SpiderIPBlock) { b.Spec.Leases[0].WithheldBy = "" })
	if err := controller.Create(t.Context(), nobody, client.DryRunAll); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "withheldBy must be set") {
		t.Errorf("withheld by nobody: got %v", err)
	}
	b := blockWith(func(*v2beta1.SpiderIPBlock) {})
	if err := controller.Create(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		overrideNow(t, c, b.Name)
		kubetest.Remove(t, c, b)
	})
	changed := b.DeepCopy()
	changed.Spec.Leases[0].Since = metav1.NewTime(time.Unix(60, 0))
	if err := agentOf(t, "a").Update(t.Context(), changed.DeepCopy(), client.DryRunAll); !refused(err) {
		t.Errorf("renewal by an agent: got %v, want a refusal", err)
	}
	if err := controller.Update(t.Context(), changed); err != nil {
		t.Errorf("renewal by the controller: %v", err)
	}
}

// The API server bounds the cost of the policy's expressions. A full block with the
// longest text must stay below.
func TestFullBlockIsWithinBudget(t *testing.T) {
	c := installPolicies(t)
	node := strings.TrimSuffix(strings.Repeat(strings.Repeat("n", 63)+".", 4)[:253], ".")
	full := func(state lease.State) (leases []lease.Lease) {
		for addr := range inet.BlockSize {
			leases = append(leases, lease.Lease{
				Addr: inet.BlockAddr(netip.MustParseAddr("fd00:1111:2222:3333:4444:5555:6666:7770"), addr), State: state, Pool: strings.Repeat("p", 253),
				Since: time.Unix(0, 0).UTC(), Holder: lease.Holder{
					Attachment: lease.Attachment{ContainerID: strings.Repeat("c", 64), Interface: strings.Repeat("i", 15)},
					Pod:        lease.PodKey{Namespace: strings.Repeat("n", 63), Name: strings.Repeat("p", 253)}, PodUID: strings.Repeat("u", 36),
					Node: node, FixedFor: lease.Owner{
						Kind: lease.KindPod, Namespace: strings.Repeat("n", 63), Name: fmt.Sprintf("%s-%d", strings.Repeat("p", 250), addr),
					},
				},
			})
		}
		return leases
	}
	former := make([]lease.Former, lease.MaxFormer)
	for i := range former {
		former[i] = lease.Former{Addr: full(lease.InUse)[i/2].Addr, Holder: full(lease.InUse)[i/2].Holder}
		former[i].ContainerID = fmt.Sprintf("%s%02d", strings.Repeat("c", 62), i)
	}
	block := compile.BlockObject(lease.Block{Base: netip.MustParseAddr("fd00:1111:2222:3333:4444:5555:6666:7770"), Node: node, Leases: full(lease.InUse), Former: former})
	block.Annotations = map[string]string{override: "test"}
	kubetest.Create(t, c, block)
	t.Cleanup(func() { overrideNow(t, c, block.Name) })
	changed := compile.BlockObject(lease.Block{Base: netip.MustParseAddr("fd00:1111:2222:3333:4444:5555:6666:7770"), Node: node, Leases: full(lease.Retained), Former: former})
	changed.ResourceVersion = block.ResourceVersion
	if err := agentOf(t, node).Update(t.Context(), changed.DeepCopy(), client.DryRunAll); err != nil {
		t.Errorf("the agent: %v", err)
	}
	if err := agentOf(t, "other").Update(t.Context(), changed.DeepCopy(), client.DryRunAll); !refused(err) {
		t.Errorf("the agent of another node: got %v, want a refusal", err)
	}
	if err := as(t, kubetest.Account(t, "kube-system", "spiderpool-controller", "a")).Update(t.Context(), changed.DeepCopy(), client.DryRunAll); err != nil {
		t.Errorf("the controller: %v", err)
	}
	replaced := full(lease.InUse)
	for i := range replaced {
		replaced[i].ContainerID = strings.Repeat("d", 64)
	}
	changed = compile.BlockObject(lease.Block{Base: netip.MustParseAddr("fd00:1111:2222:3333:4444:5555:6666:7770"), Node: node, Leases: replaced, Former: former})
	changed.ResourceVersion = block.ResourceVersion
	if err := agentOf(t, node).Update(t.Context(), changed, client.DryRunAll); err != nil {
		t.Errorf("new sandboxes: %v", err)
	}
}

func TestFullWithheldBlockIsWithinBudget(t *testing.T) {
	c := installPolicies(t)
	controller := as(t, kubetest.Account(t, "kube-system", "spiderpool-controller", "a"))
	base := netip.MustParseAddr("fd00:1111:2222:3333:4444:5555:6666:7770")
	free := lease.Block{Base: base}
	withheld, _ := free.Withhold(^inet.Mask(0), strings.Repeat("n", 253), strings.Repeat("p", 253), time.Unix(0, 0))
	object := compile.BlockObject(withheld)
	if err := controller.Create(t.Context(), object); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		overrideNow(t, c, object.Name)
		kubetest.Remove(t, c, object)
	})
	withheld.Version = object.ResourceVersion
	renewed, _ := withheld.Withhold(^inet.Mask(0), strings.Repeat("n", 253), strings.Repeat("p", 253), time.Unix(0, 0))
	if err := controller.Update(t.Context(), compile.BlockObject(renewed), client.DryRunAll); err != nil {
		t.Errorf("renewal: %v", err)
	}
	ended, _ := withheld.EndWithheld(^inet.Mask(0), strings.Repeat("n", 253), time.Unix(0, 0))
	if err := controller.Update(t.Context(), compile.BlockObject(ended), client.DryRunAll); err != nil {
		t.Errorf("end: %v", err)
	}
}
