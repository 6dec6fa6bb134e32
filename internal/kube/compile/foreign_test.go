package compile_test

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/compile"
)

func TestAllocationsOfAnotherRelease(t *testing.T) {
	t.Parallel()
	const two = `{"10.0.0.2":{"pod":"default/b","podUid":"2"},"10.0.0.1":{"pod":"default/a","podUid":"1"}}`
	ready := []metav1.Condition{{Type: "Ready", Status: metav1.ConditionTrue, Reason: "InUse"}}
	refused := []metav1.Condition{{Type: "Ready", Status: metav1.ConditionFalse, Reason: compile.ReasonForeign}}
	for name, test := range map[string]struct {
		status v2beta1.SpiderIPPoolStatus
		want   string
	}{
		"new pool":         {},
		"unused":           {v2beta1.SpiderIPPoolStatus{AllocatedIPs: new("{}"), AllocatedIPCount: new(int64(0)), TotalIPCount: new(int64(9))}, ""},
		"null":             {v2beta1.SpiderIPPoolStatus{AllocatedIPs: new("null")}, ""},
		"empty":            {v2beta1.SpiderIPPoolStatus{AllocatedIPs: new("")}, ""},
		"ours":             {v2beta1.SpiderIPPoolStatus{AllocatedIPs: new(two), AllocatedIPCount: new(int64(2)), Conditions: ready}, ""},
		"theirs":           {v2beta1.SpiderIPPoolStatus{AllocatedIPs: new(two), AllocatedIPCount: new(int64(2))}, "2 addresses, e.g. 10.0.0.1 of pod default/a"},
		"theirs, seen":     {v2beta1.SpiderIPPoolStatus{AllocatedIPs: new(two), AllocatedIPCount: new(int64(2)), Conditions: refused}, "2 addresses, e.g. 10.0.0.1 of pod default/a"},
		"no count":         {v2beta1.SpiderIPPoolStatus{AllocatedIPs: new(two)}, "2 addresses, e.g. 10.0.0.1 of pod default/a"},
		"only count":       {v2beta1.SpiderIPPoolStatus{AllocatedIPCount: new(int64(3))}, "3 addresses"},
		"unknown format":   {v2beta1.SpiderIPPoolStatus{AllocatedIPs: new("10.0.0.1")}, "1 addresses, in an unknown format"},
		"drained and seen": {v2beta1.SpiderIPPoolStatus{Conditions: refused}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := compile.ForeignAllocations(&test.status); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			pool := &v2beta1.SpiderIPPool{Status: test.status, Spec: v2beta1.SpiderIPPoolSpec{
				AddressSpace: v2beta1.AddressSpace{Subnet: "10.0.0.0/24", IPs: []string{"10.0.0.1-10.0.0.9"}},
			}}
			compiled, errs := compile.Pool(pool)
			if len(errs) > 0 || compiled.Foreign != test.want {
				t.Errorf("the pool has %q, want %q; errors %v", compiled.Foreign, test.want, errs)
			}
		})
	}
}

func TestForeignAllocationsAreShort(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 1<<16)
	status := v2beta1.SpiderIPPoolStatus{AllocatedIPs: new(`{"` + long + `":{"pod":"` + long + `"}}`)}
	if got := compile.ForeignAllocations(&status); len(got) > 500 {
		t.Errorf("%d bytes", len(got))
	}
}
