// Command argocd synchronizes a manifest as the application controller of Argo CD does, or compares it with the cluster,
// with the engine of Argo CD. Its output has a line for each object; the exit code does not tell a change.
//
//	argocd sync KUBECONFIG MANIFEST                 # "ServiceAccount kube-system/spiderpool-agent Synced …"
//	argocd diff KUBECONFIG MANIFEST                 # "ServiceAccount kube-system/spiderpool-agent same"
//	argocd sync KUBECONFIG MANIFEST server-side     # with the option ServerSideApply=true
//	argocd diff KUBECONFIG MANIFEST server-side     # with the annotation compare-options: ServerSideDiff=true
//
// The manifest has no hooks: only the application controller, which makes a context for each step, sees their end.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/argoproj/gitops-engine/pkg/cache"
	"github.com/argoproj/gitops-engine/pkg/diff"
	"github.com/argoproj/gitops-engine/pkg/engine"
	"github.com/argoproj/gitops-engine/pkg/sync"
	"github.com/argoproj/gitops-engine/pkg/sync/common"
	"github.com/argoproj/gitops-engine/pkg/utils/kube"
	"github.com/argoproj/gitops-engine/pkg/utils/tracing"
	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

const (
	application = "spiderpool"
	namespace   = "kube-system"
	manager     = "argocd-controller"
	// trackingKey names the application and the object, e.g. "spiderpool:/ServiceAccount:kube-system/spiderpool-agent".
	trackingKey = "argocd.argoproj.io/tracking-id"
)

func main() {
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// app is the application in a cluster.
type app struct {
	config     *rest.Config
	cache      cache.ClusterCache
	targets    []*unstructured.Unstructured
	serverSide bool
}

func run(ctx context.Context, args []string) error {
	if len(args) < 3 {
		return errors.New("write: argocd sync|diff KUBECONFIG MANIFEST [server-side]")
	}
	a, err := open(args[1], args[2])
	if err != nil {
		return err
	}
	a.serverSide = len(args) > 3 && args[3] == "server-side"
	switch args[0] {
	case "sync":
		return a.sync(ctx)
	case "diff":
		return a.diff()
	}
	return fmt.Errorf("%q is neither sync nor diff", args[0])
}

func open(kubeconfig, manifest string) (*app, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = 500, 500
	text, err := os.ReadFile(manifest)
	if err != nil {
		return nil, err
	}
	targets, err := kube.SplitYAML(text)
	if err != nil {
		return nil, err
	}
	for _, target := range targets {
		key := kube.GetResourceKey(target)
		annotations := target.GetAnnotations()
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[trackingKey] = fmt.Sprintf("%s:%s/%s:%s/%s", application, key.Group, key.Kind, key.Namespace, key.Name)
		target.SetAnnotations(annotations)
	}
	return &app{
		config:  config,
		targets: targets,
		cache: cache.NewClusterCache(config, cache.SetLogr(logr.Discard()),
			cache.SetPopulateResourceInfoHandler(func(object *unstructured.Unstructured, _ bool) (info any, cacheManifest bool) {
				_, ours := object.GetAnnotations()[trackingKey]
				return ours, ours
			})),
	}, nil
}

func managed(r *cache.Resource) bool { return r.Info == true }

func (a *app) sync(ctx context.Context) error {
	e := engine.NewEngine(a.config, a.cache, engine.WithLogr(logr.Discard()))
	stop, err := e.Run()
	if err != nil {
		return err
	}
	defer stop()
	results, err := e.Sync(ctx, a.targets, managed, "test", namespace, sync.WithLogr(logr.Discard()), sync.WithManifestValidation(true),
		sync.WithServerSideApply(a.serverSide), sync.WithServerSideApplyManager(manager))
	for _, r := range results {
		fmt.Println(r.ResourceKey.Kind, r.ResourceKey.Namespace+"/"+r.ResourceKey.Name, r.Status, r.Message)
		if r.Status == common.ResultCodeSyncFailed {
			err = errors.Join(err, fmt.Errorf("%s: %s", r.ResourceKey.String(), r.Message))
		}
	}
	return err
}

func (a *app) diff() error {
	if err := a.cache.EnsureSynced(); err != nil {
		return err
	}
	live, err := a.cache.GetManagedLiveObjs(a.targets, managed)
	if err != nil {
		return err
	}
	pairs := sync.Reconcile(a.targets, live, namespace, a.cache)
	options := []diff.Option{diff.WithLogr(logr.Discard()), diff.WithGVKParser(a.cache.GetGVKParser()), diff.WithManager(manager)}
	if a.serverSide {
		operations, cleanup, err := kube.ManageServerSideDiffDryRuns(a.config, a.cache.GetOpenAPISchema(), tracing.NopTracer{}, logr.Discard(), nil)
		if err != nil {
			return err
		}
		defer cleanup()
		options = append(options, diff.WithServerSideDiff(true), diff.WithServerSideDryRunner(diff.NewK8sServerSideDryRunner(operations)))
	}
	compared, err := diff.DiffArray(pairs.Target, pairs.Live, options...)
	if err != nil {
		return err
	}
	for i, d := range compared.Diffs {
		object := pairs.Target[i]
		if object == nil {
			object = pairs.Live[i]
		}
		name := object.GetKind() + " " + object.GetNamespace() + "/" + object.GetName()
		if d.Modified {
			fmt.Printf("%s differs:\n  live   %s\n  wanted %s\n", name, d.NormalizedLive, d.PredictedLive)
		} else {
			fmt.Println(name, "same")
		}
	}
	return nil
}
