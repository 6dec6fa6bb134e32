//go:build apiserver

package leasereclaim_test

import (
	"context"
	"fmt"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"spiderpool.dev/spiderpool/internal/controller/leasereclaim"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
	"spiderpool.dev/spiderpool/internal/kube/scheme"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/reclaim"
)

// serveKubeVirt lets the API server have the kinds of KubeVirt.
func serveKubeVirt(t *testing.T) {
	t.Helper()
	if _, err := envtest.InstallCRDs(kubetest.Config(t), envtest.CRDInstallOptions{Paths: []string{"testdata/kubevirt.yaml"}, ErrorIfPathMissing: true}); err != nil {
		t.Fatal(err)
	}
}

func ofKubeVirt(kind, namespace, name string) client.Object {
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(schema.GroupVersionKind{Group: "kubevirt.io", Version: "v1", Kind: kind})
	object.SetNamespace(namespace)
	object.SetName(name)
	return object
}

func launcher(namespace, name, machine string) client.Object {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"vm.kubevirt.io/name": machine}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "compute", Image: "registry.example/launcher:1"}}},
	}
}

func forged(namespace, name, machine string) client.Object {
	pod := launcher(namespace, name, "")
	pod.SetLabels(nil)
	pod.SetOwnerReferences([]metav1.OwnerReference{{
		APIVersion: "kubevirt.io/v1", Kind: "VirtualMachineInstance", Name: machine, UID: "none", Controller: new(true),
	}})
	return pod
}

// readerAs returns a client of a user with the rights of the rules only.
func readerAs(t *testing.T, c client.Client, user string, rules ...rbacv1.PolicyRule) client.Reader {
	t.Helper()
	kubetest.Create(t, c,
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: user}, Rules: rules},
		&rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: user},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: user},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
		})
	for _, rule := range rules {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: user,
			ResourceAttributes: &authorizationv1.ResourceAttributes{Group: rule.APIGroups[0], Resource: rule.Resources[0], Verb: rule.Verbs[0]}}}
		kubetest.Eventually(t, func(ctx context.Context) error {
			if err := c.Create(ctx, review); err != nil || !review.Status.Allowed {
				return fmt.Errorf("%s may not %v yet: %v", user, rule, err)
			}
			return nil
		})
	}
	config := kubetest.Config(t)
	config.Impersonate.UserName = user
	reader, err := client.New(config, client.Options{Scheme: scheme.New(), Mapper: c.RESTMapper()})
	if err != nil {
		t.Fatal(err)
	}
	return reader
}

func may(verb, group, resource string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{resource}, Verbs: []string{verb}}
}

func TestAnyPartKeepsVirtualMachineWanted(t *testing.T) {
	serveKubeVirt(t)
	c := kubetest.Client(t)
	namespace, elsewhere := kubetest.Namespace(t, c), kubetest.Namespace(t, c)
	kubetest.Create(t, c,
		ofKubeVirt("VirtualMachine", namespace, "stopped"),
		ofKubeVirt("VirtualMachineInstance", namespace, "bare"),
		launcher(namespace, "virt-launcher-ends-x", "ends"),
		forged(namespace, "evil", "ghost"),
		ofKubeVirt("VirtualMachine", elsewhere, "gone"),
		ofKubeVirt("VirtualMachineInstance", elsewhere, "gone"),
		launcher(elsewhere, "virt-launcher-gone-x", "gone"),
	)
	withoutKinds := meta.NewDefaultRESTMapper(nil)
	withoutKinds.Add(corev1.SchemeGroupVersion.WithKind("Pod"), meta.RESTScopeNamespace)
	withoutKubeVirt, err := client.New(kubetest.Config(t), client.Options{Scheme: scheme.New(), Mapper: withoutKinds})
	if err != nil {
		t.Fatal(err)
	}
	machines, instances := may("get", "kubevirt.io", "virtualmachines"), may("get", "kubevirt.io", "virtualmachineinstances")
	pods := may("list", "", "pods")
	all := readerAs(t, c, "reads-all", machines, instances, pods)
	for name, tc := range map[string]struct {
		reader  client.Reader
		machine string
		want    reclaim.Owner
	}{
		"the machine exists, without an instance": {all, "stopped", reclaim.OwnerWanted},
		"only its instance exists":                {all, "bare", reclaim.OwnerWanted},
		"only a launcher pod exists":              {all, "ends", reclaim.OwnerWanted},
		"only a pod with a forged owner exists":   {all, "ghost", reclaim.OwnerWanted},
		"nothing exists":                          {all, "gone", reclaim.OwnerGone},
		"machines cannot be read":                 {readerAs(t, c, "reads-no-machines", instances, pods), "gone", reclaim.OwnerUnknown},
		"instances cannot be read":                {readerAs(t, c, "reads-no-instances", machines, pods), "gone", reclaim.OwnerUnknown},
		"pods cannot be read":                     {readerAs(t, c, "reads-no-pods", machines, instances), "gone", reclaim.OwnerUnknown},
		"no KubeVirt, but a launcher pod":         {withoutKubeVirt, "ends", reclaim.OwnerWanted},
		"no KubeVirt":                             {withoutKubeVirt, "gone", reclaim.OwnerGone},
	} {
		t.Run(name, func(t *testing.T) {
			owner := lease.Owner{Kind: lease.KindVirtualMachine, Namespace: namespace, Name: tc.machine}
			if got := leasereclaim.LiveOwner(t.Context(), tc.reader, owner); got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
}

func TestVirtualMachineAddressIsFreedAtLast(t *testing.T) {
	serveKubeVirt(t)
	c, _ := start(t)
	machine, instance := ofKubeVirt("VirtualMachine", "default", "vm"), ofKubeVirt("VirtualMachineInstance", "default", "vmi")
	pod := launcher("default", "virt-launcher-pod-x", "pod")
	kubetest.Create(t, c, machine, instance, pod)
	retained := func(addr, of string) lease.Lease {
		l := inUse(addr, "default/virt-launcher-"+of, "u", "n")
		l.State, l.FixedFor = lease.Retained, lease.ParseOwner("VirtualMachine/default/"+of)
		return l
	}
	// The last one shows that the reconciler has been at work.
	b := block("10.10.0.0", retained("10.10.0.1", "vm"), retained("10.10.0.2", "vmi"), retained("10.10.0.3", "pod"), retained("10.10.0.4", "none"))
	kubetest.Create(t, c, b)
	eventually(t, c, b, "10.10.0.1 Retained, 10.10.0.2 Retained, 10.10.0.3 Retained, 10.10.0.4 Released")
	kubetest.Remove(t, c, machine)
	eventually(t, c, b, "10.10.0.1 Released, 10.10.0.2 Retained, 10.10.0.3 Retained, 10.10.0.4 Released")
	kubetest.Remove(t, c, instance)
	eventually(t, c, b, "10.10.0.1 Released, 10.10.0.2 Released, 10.10.0.3 Retained, 10.10.0.4 Released")
	if err := c.Delete(t.Context(), pod, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	eventually(t, c, b, "10.10.0.1 Released, 10.10.0.2 Released, 10.10.0.3 Released, 10.10.0.4 Released")
}
