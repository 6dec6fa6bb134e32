package poolindex

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/compile"
)

// SubnetConflicts returns the conflicts of a SpiderSubnet with the others that the
// function counts accepts. Two rules apply: networks are equal or disjoint, and
// SpiderSubnets of one network share no address. For a SpiderSubnet that does not
// compile it returns the errors of the compiler.
func SubnetConflicts(ctx context.Context, reader client.Reader, in *v2beta1.SpiderSubnet, counts func(other *v2beta1.SpiderSubnet) bool) (field.ErrorList, error) {
	compiled, errs := compile.Subnet(in)
	if len(errs) > 0 {
		return errs, nil
	}
	var list v2beta1.SpiderSubnetList
	if err := reader.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list SpiderSubnets: %w", err)
	}
	for i := range list.Items {
		other, otherErrs := compile.Subnet(&list.Items[i])
		if other.Name == in.Name || !counts(&list.Items[i]) || len(otherErrs) > 0 || !other.Subnet.Overlaps(compiled.Subnet) {
			continue
		}
		if other.Subnet != compiled.Subnet {
			errs = append(errs, field.Invalid(field.NewPath("spec", "subnet"), in.Spec.Subnet, fmt.Sprintf(
				"overlaps subnet %s of SpiderSubnet %s; use the same subnet or a disjoint one", other.Subnet, other.Name)))
		} else if shared := other.IPs.And(compiled.IPs); !shared.IsEmpty() {
			errs = append(errs, field.Invalid(field.NewPath("spec", "ips"), compiled.IPs.String(), fmt.Sprintf(
				"shares %s with SpiderSubnet %s; remove these addresses from one of the two", shared, other.Name)))
		}
	}
	return errs, nil
}
