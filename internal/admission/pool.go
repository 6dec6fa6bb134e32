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

// holdersNamed is the number of holders in a message.
const holdersNamed = 5

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
		// An invalid pool hands out no address, so none can be in use.
		return nil, invalid("SpiderIPPool", in, w.conflicts(compiled, nil))
	}
	if former.Subnet != compiled.Subnet {
		errs = append(errs, field.Invalid(field.NewPath("spec", "subnet"), in.Spec.Subnet,
			fmt.Sprintf("differs from the subnet %s of this pool, which cannot change; create a new pool for another subnet", former.Subnet)))
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
	return admission.Warnings{fmt.Sprintf("deletion of SpiderIPPool %s is blocked until its addresses are released: %s", in.Name, holders(leases))}, nil
}

// conflicts returns the conflicts of a pool with other pools. A conflict that the
// former version already had may stay, unless the new version adds addresses.
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

// inUse returns the changes that pods with addresses of the pool do not allow.
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
				fmt.Sprintf("is an address in use: %s; choose another gateway, or delete that pod first", holders([]lease.Lease{l}))))
		}
	}
	if len(lost) > 0 {
		errs = append(errs, field.Invalid(field.NewPath("spec", "ips"), compiled.IPs.String(),
			fmt.Sprintf("lacks addresses in use: %s; keep them in ips and add them to excludeIPs until these pods are gone", holders(lost))))
	}
	return errs, nil
}

// holders lists the holders of leases, e.g. "10.0.0.1 of default/web and 3 more".
func holders(leases []lease.Lease) string {
	var names []string
	for _, l := range leases[:min(len(leases), holdersNamed)] {
		names = append(names, fmt.Sprintf("%s of %s", l.Addr, l.Pod))
	}
	text := strings.Join(names, ", ")
	if more := len(leases) - len(names); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
