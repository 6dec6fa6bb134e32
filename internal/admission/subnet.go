package admission

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/kube/poolindex"
)

type subnets struct {
	reader client.Reader
}

func (w *subnets) Default(_ context.Context, in *v2beta1.SpiderSubnet) error {
	if in.DeletionTimestamp == nil {
		compile.CanonicalizeSubnet(in)
	}
	return nil
}

func (w *subnets) ValidateCreate(ctx context.Context, in *v2beta1.SpiderSubnet) (admission.Warnings, error) {
	return nil, w.validate(ctx, in)
}

func (w *subnets) ValidateUpdate(ctx context.Context, before, in *v2beta1.SpiderSubnet) (admission.Warnings, error) {
	completed := before.DeepCopy()
	compile.CanonicalizeSubnet(completed)
	if in.DeletionTimestamp != nil || equality.Semantic.DeepEqual(completed.Spec, in.Spec) {
		return nil, nil
	}
	return nil, w.validate(ctx, in)
}

func (w *subnets) validate(ctx context.Context, in *v2beta1.SpiderSubnet) error {
	compiled, errs := compile.Subnet(in)
	if len(errs) == 0 {
		errs = compile.LinkLocal(compiled)
	}
	if len(errs) == 0 {
		conflicts, err := poolindex.SubnetConflicts(ctx, w.reader, in, func(*v2beta1.SpiderSubnet) bool { return true })
		if err != nil {
			return err
		}
		errs = conflicts
	}
	return invalid("SpiderSubnet", in, errs)
}

func (w *subnets) ValidateDelete(ctx context.Context, in *v2beta1.SpiderSubnet) (admission.Warnings, error) {
	var list v2beta1.SpiderIPPoolList
	if err := w.reader.List(ctx, &list, client.MatchingLabels{names.LabelOwnerSubnet: in.Name}); err != nil {
		return nil, fmt.Errorf("list the SpiderIPPools of SpiderSubnet %s: %w", in.Name, err)
	}
	if len(list.Items) > 0 {
		return nil, forbidden("spidersubnets", in, "%d SpiderIPPools have addresses of it, e.g. %s; delete them first", len(list.Items), list.Items[0].Name)
	}
	return nil, nil
}

type reservedIPs struct {
	deletable[*v2beta1.SpiderReservedIP]
}

func (w *reservedIPs) Default(_ context.Context, in *v2beta1.SpiderReservedIP) error {
	if in.DeletionTimestamp == nil {
		compile.CanonicalizeReservedIP(in)
	}
	return nil
}

func (w *reservedIPs) ValidateCreate(_ context.Context, in *v2beta1.SpiderReservedIP) (admission.Warnings, error) {
	_, errs := compile.ReservedIP(in)
	return nil, invalid("SpiderReservedIP", in, errs)
}

func (w *reservedIPs) ValidateUpdate(ctx context.Context, before, in *v2beta1.SpiderReservedIP) (admission.Warnings, error) {
	completed := before.DeepCopy()
	compile.CanonicalizeReservedIP(completed)
	if in.DeletionTimestamp != nil || equality.Semantic.DeepEqual(completed.Spec, in.Spec) {
		return nil, nil
	}
	return w.ValidateCreate(ctx, in)
}

type coordinators struct {
	protected string
}

func (w *coordinators) Default(context.Context, *v2beta1.SpiderCoordinator) error { return nil }

func (w *coordinators) ValidateCreate(_ context.Context, in *v2beta1.SpiderCoordinator) (admission.Warnings, error) {
	_, errs := compile.Coordinator(field.NewPath("spec"), &in.Spec, &v2beta1.SpiderCoordinatorStatus{})
	return nil, invalid("SpiderCoordinator", in, errs)
}

func (w *coordinators) ValidateUpdate(ctx context.Context, before, in *v2beta1.SpiderCoordinator) (admission.Warnings, error) {
	if in.DeletionTimestamp != nil || equality.Semantic.DeepEqual(before.Spec, in.Spec) {
		return nil, nil
	}
	return w.ValidateCreate(ctx, in)
}

func (w *coordinators) ValidateDelete(_ context.Context, in *v2beta1.SpiderCoordinator) (admission.Warnings, error) {
	if in.Name == w.protected {
		return nil, forbidden("spidercoordinators", in, "the coordinator plugin of every pod reads it; set spec.mode to disabled to disable the coordinator")
	}
	return nil, nil
}
