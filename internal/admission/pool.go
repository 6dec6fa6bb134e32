package admission

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/kube/blockindex"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/poolindex"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/pool"
)

// untilUnused is the way to take addresses in use out of a pool.
const untilUnused = "put them into a SpiderReservedIP until these pods are gone"

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

func (w *pools) ValidateCreate(ctx context.Context, in *v2beta1.SpiderIPPool) (admission.Warnings, error) {
	compiled, errs := compile.Pool(in)
	if len(errs) > 0 {
		return nil, invalid("SpiderIPPool", in, errs)
	}
	inUse, err := w.gatewayInUse(ctx, compiled.Gateway)
	if err != nil {
		return nil, err
	}
	return nil, invalid("SpiderIPPool", in, append(w.conflicts(compiled, nil), inUse...))
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

// conflicts returns the conflicts of a pool with routers and with other pools. A
// conflict that the former version already had may stay, unless the new version adds
// addresses.
func (w *pools) conflicts(compiled pool.Pool, former *pool.Pool) field.ErrorList {
	var errs field.ErrorList
	known := map[string]bool{}
	if former == nil || len(compile.LinkLocal(*former)) == 0 {
		errs = compile.LinkLocal(compiled)
	}
	if former != nil {
		for _, c := range w.index.Conflicts(*former) {
			known[c.Pool] = former.IPs.ContainsSet(compiled.IPs)
		}
	}
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
	removed, excluded := former.IPs.Minus(compiled.IPs), compiled.Exclude.Minus(former.Exclude)
	routers := map[netip.Addr]*field.Path{}
	for i, r := range compiled.Routes {
		routers[r.Via] = field.NewPath("spec", "routes").Index(i).Child("gw")
	}
	for _, r := range former.Routes {
		delete(routers, r.Via)
	}
	var errs field.ErrorList
	if compiled.Gateway != former.Gateway {
		var err error
		if errs, err = w.gatewayInUse(ctx, compiled.Gateway); err != nil {
			return nil, err
		}
	}
	if removed.IsEmpty() && excluded.IsEmpty() && len(routers) == 0 {
		return errs, nil
	}
	leases, err := blockindex.LeasesOfPool(ctx, w.reader, former.Name)
	if err != nil {
		return nil, fmt.Errorf("read the leases of SpiderIPPool %s: %w", former.Name, err)
	}
	var lost, hidden []lease.Lease
	for _, l := range leases {
		if removed.Contains(l.Addr) {
			lost = append(lost, l)
		} else if excluded.Contains(l.Addr) {
			hidden = append(hidden, l)
		}
		if path := routers[l.Addr]; path != nil {
			errs = append(errs, routerInUse(path, l))
		}
	}
	if len(lost) > 0 {
		errs = append(errs, field.Invalid(field.NewPath("spec", "ips"), compiled.IPs.String(),
			fmt.Sprintf("lacks addresses in use: %s; keep them in ips and %s", holders(lost), untilUnused)))
	}
	if len(hidden) > 0 {
		errs = append(errs, field.Invalid(field.NewPath("spec", "excludeIPs"), compiled.Exclude.String(),
			fmt.Sprintf("has addresses in use: %s; remove them from excludeIPs and %s", holders(hidden), untilUnused)))
	}
	return errs, nil
}

// gatewayInUse returns the fault of a gateway with a lease, of whatever pool: its
// holder would take the network from all other pods.
func (w *pools) gatewayInUse(ctx context.Context, gateway netip.Addr) (field.ErrorList, error) {
	if !gateway.IsValid() {
		return nil, nil
	}
	object := &v2beta1.SpiderIPBlock{}
	err := w.reader.Get(ctx, client.ObjectKey{Name: compile.BlockName(inet.BlockOf(gateway))}, object)
	if client.IgnoreNotFound(err) != nil {
		return nil, fmt.Errorf("read the SpiderIPBlock of gateway %s: %w", gateway, err)
	}
	block, err := compile.Block(object)
	if l, ok := block.Lease(gateway); err == nil && ok && l.State == lease.InUse {
		return field.ErrorList{routerInUse(field.NewPath("spec", "gateway"), l)}, nil
	}
	return nil, nil // no block, or a damaged one
}

func routerInUse(path *field.Path, l lease.Lease) *field.Error {
	return field.Invalid(path, l.Addr.String(),
		fmt.Sprintf("is an address in use: %s; choose another gateway, or delete that pod first", holders([]lease.Lease{l})))
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
