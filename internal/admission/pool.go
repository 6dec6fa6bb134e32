package admission

import (
	"context"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/blockindex"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/poolindex"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
)

// named is how many holders or addresses a message names.
const named = 5

type pools struct {
	reader client.Reader
	index  *poolindex.Index
}

func (w *pools) Default(_ context.Context, in *v2beta1.SpiderIPPool) error {
	if in.DeletionTimestamp == nil {
		compile.CanonicalizePool(in)
		compile.CompletePool(in)
	}
	return nil
}

func (w *pools) ValidateCreate(_ context.Context, in *v2beta1.SpiderIPPool) (admission.Warnings, error) {
	compiled, errs := compile.Pool(in)
	if len(errs) == 0 {
		errs = w.conflicts(compiled, nil)
	}
	return nil, invalid("SpiderIPPool", in, errs)
}

func (w *pools) ValidateUpdate(ctx context.Context, before, in *v2beta1.SpiderIPPool) (admission.Warnings, error) {
	completed := before.DeepCopy()
	compile.CanonicalizePool(completed)
	compile.CompletePool(completed)
	if in.DeletionTimestamp != nil || equality.Semantic.DeepEqual(completed.Spec, in.Spec) {
		return nil, nil
	}
	compiled, errs := compile.Pool(in)
	if len(errs) > 0 {
		return nil, invalid("SpiderIPPool", in, errs)
	}
	former, formerErrs := compile.Pool(before)
	if len(formerErrs) > 0 {
		// Whatever the pool was before, it could hand out nothing.
		return nil, invalid("SpiderIPPool", in, w.conflicts(compiled, nil))
	}
	if former.Subnet != compiled.Subnet {
		errs = append(errs, field.Invalid(field.NewPath("spec", "subnet"), in.Spec.Subnet,
			fmt.Sprintf("is not the network %s of this pool, which does not change; make a new pool for another network", former.Subnet)))
	}
	errs = append(errs, w.conflicts(compiled, &former)...)
	inUse, err := w.inUse(ctx, former, compiled)
	if err != nil {
		return nil, err
	}
	return nil, invalid("SpiderIPPool", in, append(errs, inUse...))
}

func (w *pools) ValidateDelete(ctx context.Context, in *v2beta1.SpiderIPPool) (admission.Warnings, error) {
	leases, err := blockindex.LeasesOfPool(ctx, w.reader, in.Name)
	if err != nil || len(leases) == 0 {
		return nil, err
	}
	return admission.Warnings{fmt.Sprintf("SpiderIPPool %s waits to be deleted until its addresses are given back: %s", in.Name, holders(leases))}, nil
}

// conflicts returns what is wrong with the pool beside the others. What was so
// already in the former version can stay.
func (w *pools) conflicts(compiled pool.Pool, former *pool.Pool) field.ErrorList {
	known := map[string]bool{}
	if former != nil {
		for _, c := range w.index.Conflicts(*former) {
			known[c.Pool] = former.IPs.ContainsSet(compiled.IPs)
		}
	}
	var errs field.ErrorList
	for _, c := range w.index.Conflicts(compiled) {
		if !known[c.Pool] {
			value := compiled.Subnet.String()
			if c.Field == "ips" {
				value = compiled.IPs.String()
			}
			errs = append(errs, field.Invalid(field.NewPath("spec", c.Field), value, c.Reason))
		}
	}
	return errs
}

// inUse returns what cannot change because pods hold the addresses.
func (w *pools) inUse(ctx context.Context, former, compiled pool.Pool) (field.ErrorList, error) {
	removed := former.IPs.Minus(compiled.IPs)
	newGateway := compiled.Gateway.IsValid() && compiled.Gateway != former.Gateway
	if removed.IsEmpty() && !newGateway {
		return nil, nil
	}
	leases, err := blockindex.LeasesOfPool(ctx, w.reader, former.Name)
	if err != nil {
		return nil, fmt.Errorf("read the leases of SpiderIPPool %s: %w", former.Name, err)
	}
	var errs field.ErrorList
	var lost []lease.Lease
	for _, l := range leases {
		if removed.Contains(l.Addr) {
			lost = append(lost, l)
		}
		if newGateway && l.Addr == compiled.Gateway {
			errs = append(errs, field.Invalid(field.NewPath("spec", "gateway"), compiled.Gateway.String(),
				fmt.Sprintf("is an address in use: %s; take another one, or delete that pod first", holders([]lease.Lease{l}))))
		}
	}
	if len(lost) > 0 {
		errs = append(errs, field.Invalid(field.NewPath("spec", "ips"), compiled.IPs.String(),
			fmt.Sprintf("lacks addresses that are in use: %s; leave them in ips and list them in excludeIPs until those pods are gone", holders(lost))))
	}
	return errs, nil
}

// holders says in words who holds the leases.
func holders(leases []lease.Lease) string {
	var names []string
	for _, l := range leases[:min(len(leases), named)] {
		names = append(names, fmt.Sprintf("%s of %s", l.Addr, l.Pod))
	}
	text := strings.Join(names, ", ")
	if more := len(leases) - len(names); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
