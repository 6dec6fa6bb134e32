// Command flux applies a manifest as the kustomize-controller of Flux does, or looks for drift as its helm-controller
// does, with Flux's own library. Its output has a line for each object; the exit code does not tell a change.
//
//	flux apply KUBECONFIG MANIFEST    # "ServiceAccount/kube-system/spiderpool-agent created"
//	flux drift KUBECONFIG MANIFEST    # "ServiceAccount/kube-system/spiderpool-agent none"
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/fluxcd/pkg/ssa"
	"github.com/fluxcd/pkg/ssa/jsondiff"
	"github.com/fluxcd/pkg/ssa/normalize"
	"github.com/fluxcd/pkg/ssa/utils"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 3 {
		return errors.New("write: flux apply|drift KUBECONFIG MANIFEST")
	}
	config, err := clientcmd.BuildConfigFromFlags("", args[1])
	if err != nil {
		return err
	}
	config.QPS, config.Burst = -1, 0
	c, err := client.New(config, client.Options{})
	if err != nil {
		return err
	}
	file, err := os.Open(args[2])
	if err != nil {
		return err
	}
	defer file.Close()
	objects, err := utils.ReadObjects(file)
	if err != nil {
		return err
	}
	switch args[0] {
	case "apply":
		return apply(ctx, c, objects)
	case "drift":
		return drift(ctx, c, objects)
	}
	return fmt.Errorf("%q is neither apply nor drift", args[0])
}

// apply is the core of kustomize-controller's reconciliation of the Kustomization flux-system/spiderpool.
func apply(ctx context.Context, c client.Client, objects []*unstructured.Unstructured) error {
	if err := normalize.UnstructuredList(objects); err != nil {
		return err
	}
	manager := ssa.NewResourceManager(c, nil, ssa.Owner{Field: "kustomize-controller", Group: "kustomize.toolkit.fluxcd.io"})
	manager.SetOwnerLabels(objects, "spiderpool", "flux-system")
	changes, err := manager.ApplyAll(ctx, objects, ssa.DefaultApplyOptions())
	if err != nil {
		return err
	}
	for _, entry := range changes.Entries {
		fmt.Println(entry.Subject, entry.Action)
	}
	return nil
}

// drift is the detection of helm-controller for a HelmRelease with driftDetection. The release is installed.
func drift(ctx context.Context, c client.Client, objects []*unstructured.Unstructured) error {
	if err := normalize.UnstructuredList(objects); err != nil {
		return err
	}
	diffs, err := jsondiff.UnstructuredList(ctx, c, objects, jsondiff.FieldOwner("helm-controller"), jsondiff.Rationalize(true))
	if err != nil {
		return err
	}
	for _, d := range diffs {
		fmt.Printf("%s/%s/%s %s", d.GroupVersionKind().Kind, d.GetNamespace(), d.GetName(), d.Type)
		for _, change := range d.Patch {
			fmt.Printf(" %s", change)
		}
		fmt.Println()
	}
	return nil
}
