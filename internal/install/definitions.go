package install

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/version"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/definitions"
)

// fieldOwner is the writer of the definitions in their managedFields.
const fieldOwner = client.FieldOwner("spiderpool-init")

// argoOptions is the annotation with Argo CD's options for an object, e.g.
// "ServerSideApply=true,Prune=false". Source: https://argo-cd.readthedocs.io/en/stable/user-guide/sync-options/
const argoOptions = "argocd.argoproj.io/sync-options"

// UpdateDefinitions creates the missing custom resource definitions, replaces those of
// earlier releases, and stamps each with the release (names.AnnotationRelease), e.g.
// "v0.1.0". It leaves definitions of later releases alone: releases only add fields, so
// they serve this release too. It deletes none. It returns once the API server has
// established all.
//
// It creates the definitions of other projects with the names in also, too, but leaves those
// of other installers alone.
func UpdateDefinitions(ctx context.Context, log *slog.Logger, c client.Client, release string, also ...string) error {
	ours, err := version.ParseSemantic(release)
	if err != nil {
		return fmt.Errorf("the release of this program, %q: %w", release, err)
	}
	wanted, err := definitions.All()
	if err != nil {
		return err
	}
	if err := refuseDefinitionsInUse(ctx, log, c, wanted); err != nil {
		return err
	}
	others, err := othersToWrite(ctx, log, c, also)
	if err != nil {
		return err
	}
	wanted = append(wanted, others...)
	for _, definition := range wanted {
		if err := updateDefinition(ctx, log, c, definition, ours); err != nil {
			return err
		}
	}
	for _, definition := range wanted {
		if err := retry(ctx, log, describeDefinition(definition), func() error { return established(ctx, c, definition) }); err != nil {
			return err
		}
	}
	log.Info("custom resource definitions are complete", "release", release)
	return nil
}

// refuseDefinitionsInUse returns an error if pods of another Spiderpool release have
// addresses. That release works with its own definitions.
func refuseDefinitionsInUse(ctx context.Context, log *slog.Logger, c client.Client, wanted []*unstructured.Unstructured) error {
	for _, definition := range wanted {
		if definition.GetName() != "spiderippools."+v2beta1.GroupVersion.Group {
			continue
		}
		if existing, err := findDefinition(ctx, log, c, definition); err != nil || existing == nil {
			return err
		}
	}
	return refuseTakeover(ctx, log, c)
}

// othersToWrite returns the definitions of other projects with the names that are missing, or
// that an installation of Spiderpool created.
func othersToWrite(ctx context.Context, log *slog.Logger, c client.Client, also []string) ([]*unstructured.Unstructured, error) {
	others, err := definitions.Others()
	if err != nil {
		return nil, err
	}
	var list []*unstructured.Unstructured
	for _, name := range also {
		i := slices.IndexFunc(others, func(d *unstructured.Unstructured) bool { return d.GetName() == name })
		if i < 0 {
			return nil, fmt.Errorf("--also %q: this release has no such definition", name)
		}
		existing, err := findDefinition(ctx, log, c, others[i])
		switch {
		case err != nil:
			return nil, err
		case existing == nil || createdByUs(existing):
			list = append(list, others[i])
		default:
			log.Info("definition of another installer, unchanged", "definition", name)
		}
	}
	return list, nil
}

// createdByUs reports whether an installation of Spiderpool created the definition: this program, or
// the chart of an earlier release.
func createdByUs(definition *unstructured.Unstructured) bool {
	return definition.GetAnnotations()[names.AnnotationRelease] != "" || strings.HasPrefix(definition.GetLabels()["helm.sh/chart"], "spiderpool-")
}

func describeDefinition(definition *unstructured.Unstructured) string {
	return "CustomResourceDefinition " + definition.GetName()
}

// findDefinition returns the cluster's definition of the same name, nil if there is none.
func findDefinition(ctx context.Context, log *slog.Logger, c client.Client, wanted *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	existing := &unstructured.Unstructured{}
	existing.SetGroupVersionKind(wanted.GroupVersionKind())
	missing := false
	err := retry(ctx, log, describeDefinition(wanted), func() error {
		err := c.Get(ctx, client.ObjectKeyFromObject(wanted), existing)
		missing = apierrors.IsNotFound(err)
		return client.IgnoreNotFound(err)
	})
	if err != nil || missing {
		return nil, err
	}
	return existing, nil
}

// updateDefinition writes one definition, unless a later release wrote it.
func updateDefinition(ctx context.Context, log *slog.Logger, c client.Client, wanted *unstructured.Unstructured, ours *version.Version) error {
	log = log.With("definition", wanted.GetName())
	for {
		existing, err := findDefinition(ctx, log, c, wanted)
		if err != nil {
			return err
		}
		if existing == nil {
			return createDefinition(ctx, log, c, wanted, ours)
		}
		if stamp := existing.GetAnnotations()[names.AnnotationRelease]; stamp != "" {
			theirs, err := version.ParseSemantic(stamp)
			if err != nil {
				return fmt.Errorf("%s: the annotation %s is %q, not a release such as v0.1.0: remove the annotation, then repeat", describeDefinition(wanted), names.AnnotationRelease, stamp)
			}
			if ours.LessThan(theirs) {
				log.Warn("definition of a later release, unchanged; it has all fields of this release", "its release", stamp, "this release", ours.String())
				return nil
			}
		}
		before := existing.GetResourceVersion()
		existing.Object["spec"] = wanted.DeepCopy().Object["spec"]
		annotate(existing, wanted, ours)
		err = retry(ctx, log, describeDefinition(wanted), func() error { return c.Update(ctx, existing, fieldOwner) })
		if apierrors.IsConflict(err) {
			continue // another client wrote it since
		}
		if err == nil {
			log.Info("definition is up to date", "changed", existing.GetResourceVersion() != before)
		}
		return err
	}
}

// createDefinition creates a definition by an apply patch, whose name RBAC can restrict,
// unlike that of a POST.
func createDefinition(ctx context.Context, log *slog.Logger, c client.Client, wanted *unstructured.Unstructured, ours *version.Version) error {
	created := wanted.DeepCopy()
	annotate(created, wanted, ours)
	text, err := created.MarshalJSON()
	if err != nil {
		return err
	}
	return retry(ctx, log, describeDefinition(wanted), func() error {
		err := c.Patch(ctx, created, client.RawPatch(types.ApplyPatchType, text), fieldOwner, client.ForceOwnership)
		if err == nil {
			log.Info("definition created")
		}
		return err
	})
}

// annotate adds the annotations of wanted and the release. It keeps Argo CD from deleting the
// definition: charts of earlier releases rendered some, and Argo CD prunes objects that the
// chart no longer has, with all custom resources of the kind.
func annotate(definition, wanted *unstructured.Unstructured, release *version.Version) {
	annotations := definition.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	for key, value := range wanted.GetAnnotations() {
		annotations[key] = value
	}
	annotations[argoOptions] = unpruned(annotations[argoOptions])
	annotations[names.AnnotationRelease] = "v" + release.String()
	definition.SetAnnotations(annotations)
}

// unpruned returns the options of Argo CD with Prune=false.
func unpruned(options string) string {
	var kept []string
	for option := range strings.SplitSeq(options, ",") {
		if option = strings.TrimSpace(option); option != "" && !strings.HasPrefix(option, "Prune=") {
			kept = append(kept, option)
		}
	}
	return strings.Join(append(kept, "Prune=false"), ",")
}

// established returns nil once the API server serves the kind.
func established(ctx context.Context, c client.Client, wanted *unstructured.Unstructured) error {
	definition := &unstructured.Unstructured{}
	definition.SetGroupVersionKind(wanted.GroupVersionKind())
	if err := c.Get(ctx, client.ObjectKeyFromObject(wanted), definition); err != nil {
		return err
	}
	conditions, _, err := unstructured.NestedSlice(definition.Object, "status", "conditions")
	if err != nil {
		return err
	}
	for _, condition := range conditions {
		fields, _ := condition.(map[string]any)
		if fields["type"] == "Established" && fields["status"] == "True" {
			return nil
		}
	}
	return unfinished("the API server has not established it yet")
}
