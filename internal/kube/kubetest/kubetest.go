// Package kubetest gives tests a real kube-apiserver and etcd, with the custom
// resources of internal/kube/definitions/crds installed.
//
// The environment variable KUBEBUILDER_ASSETS names the directory of the programs
// kube-apiserver and etcd. Tests with this package have the build tag "apiserver"
// and call Main from TestMain:
//
//	func TestMain(m *testing.M) { kubetest.Main(m) }
//
// All tests of a package share one server, so each creates a namespace for itself
// and deletes its objects without a namespace; Create does that. There are no
// controllers, no scheduler and no kubelet: nothing is garbage-collected and no pod
// runs.
package kubetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"spiderpool.dev/spiderpool/internal/kube/scheme"
)

// assetsVariable names the directory of kube-apiserver and etcd.
const assetsVariable = "KUBEBUILDER_ASSETS"

// patience is how long Eventually waits for a condition. It is long because test
// machines are busy, and costs nothing: Eventually returns once the condition holds.
const patience = 30 * time.Second

var (
	config *rest.Config
	etcd   string // URL
)

// Main starts an API server, runs the tests of the package, stops the server and
// exits. It does not return.
func Main(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	environment, err := Start()
	if err != nil {
		fmt.Fprintf(os.Stderr, "kubetest: %v\n", err)
		return 1
	}
	defer func() {
		if err := environment.Stop(); err != nil {
			fmt.Fprintf(os.Stderr, "kubetest: stop the API server: %v\n", err)
		}
	}()
	config, etcd = environment.Config, environment.ControlPlane.Etcd.URL.String()
	code := m.Run()
	if code == 0 {
		if err := compareRequests(); err != nil {
			fmt.Fprintf(os.Stderr, "kubetest: %v\n", err)
			code = 1
		}
	}
	return code
}

// Start starts an API server. The caller stops it; most tests use Main instead.
func Start() (*envtest.Environment, error) {
	if err := checkAssets(); err != nil {
		return nil, err
	}
	root, err := moduleRoot()
	if err != nil {
		return nil, err
	}
	environment := &envtest.Environment{
		Scheme: scheme.New(),
		CRDDirectoryPaths: []string{
			filepath.Join(root, "internal", "kube", "definitions", "crds"),
			filepath.Join(root, "internal", "kube", "definitions", "others"),
		},
		ErrorIfCRDPathMissing:    true,
		ControlPlaneStartTimeout: time.Minute,
		ControlPlaneStopTimeout:  time.Minute,
	}
	// The coordinator's reconciler reads ServiceCIDR objects. These networks differ
	// from the default of envtest, so that tests can tell where they came from.
	environment.ControlPlane.GetAPIServer().Configure().
		Set("service-cluster-ip-range", "10.96.0.0/16,fd00:10:96::/112").
		// Each does nothing for a test, and takes a processor for minutes where a test has 100,000 objects: every five
		// minutes, one compares all caches with etcd, and the other makes slow watches start again.
		Set("feature-gates", "DetectCacheInconsistency=false").
		Set("etcd-compaction-interval", "0")
	if _, err := environment.Start(); err != nil {
		return nil, fmt.Errorf("start the API server: %w", errors.Join(err, environment.Stop()))
	}
	return environment, nil
}

func checkAssets() error {
	dir := os.Getenv(assetsVariable)
	if dir == "" {
		return fmt.Errorf("%s is not set: name the directory that holds kube-apiserver and etcd", assetsVariable)
	}
	for _, program := range []string{"kube-apiserver", "etcd"} {
		if _, err := os.Stat(filepath.Join(dir, program)); err != nil {
			return fmt.Errorf("%s=%s: %w", assetsVariable, dir, err)
		}
	}
	return nil
}

// moduleRoot returns the nearest directory with a go.mod, from the directory of the test upwards.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("no go.mod in this directory or above it")
		}
		dir = parent
	}
}

// Config returns a copy of the administrator's configuration for the server of Main.
func Config(tb testing.TB) *rest.Config {
	tb.Helper()
	if config == nil {
		tb.Fatal("kubetest: no API server; call kubetest.Main from TestMain")
	}
	return rest.CopyConfig(config)
}

// Kubeconfig returns a configuration with a token, e.g. that of a Role, as the content of
// a kubeconfig file for another process.
func Kubeconfig(tb testing.TB, config *rest.Config) []byte {
	tb.Helper()
	const name = "test"
	content, err := clientcmd.Write(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{name: {Server: "https://" + strings.TrimPrefix(config.Host, "https://"), CertificateAuthorityData: config.CAData}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{name: {Token: config.BearerToken}},
		Contexts:       map[string]*clientcmdapi.Context{name: {Cluster: name, AuthInfo: name}},
		CurrentContext: name,
	})
	if err != nil {
		tb.Fatalf("kubetest: write a kubeconfig: %v", err)
	}
	return content
}

// Client returns a client without a cache, with the administrator's rights.
func Client(tb testing.TB) client.Client {
	tb.Helper()
	c, err := client.New(Config(tb), client.Options{Scheme: scheme.New()})
	if err != nil {
		tb.Fatalf("kubetest: make a client: %v", err)
	}
	return c
}

// Namespace creates a namespace for the test and returns its name.
func Namespace(tb testing.TB, c client.Client) string {
	tb.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}
	if err := c.Create(tb.Context(), namespace); err != nil {
		tb.Fatalf("kubetest: make a namespace: %v", err)
	}
	return namespace.Name
}

// Create creates the objects. At the end of the test it deletes them, the last one
// first, and ignores their finalizers.
func Create(tb testing.TB, c client.Client, objects ...client.Object) {
	tb.Helper()
	for _, object := range objects {
		if err := c.Create(tb.Context(), object); err != nil {
			tb.Fatalf("kubetest: create %T %s: %v", object, client.ObjectKeyFromObject(object), err)
		}
		tb.Cleanup(func() { Remove(tb, c, object) })
	}
}

// Remove deletes an object and ignores its finalizers. A missing object is no error. While
// the cache of a webhook still has deleted objects, the webhook may refuse, so Remove tries
// again. A CustomResourceDefinition keeps its finalizer until the API server has removed the
// objects of the kind. Without it, the next definition of the kind would find them.
func Remove(tb testing.TB, c client.Client, object client.Object) {
	tb.Helper()
	// The context of a test ends before its cleanups run.
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := c.Delete(ctx, object)
	for began := time.Now(); apierrors.IsForbidden(err) && time.Since(began) < patience/2; err = c.Delete(ctx, object) {
		time.Sleep(50 * time.Millisecond)
	}
	if client.IgnoreNotFound(err) != nil {
		tb.Errorf("kubetest: delete %T %s: %v", object, client.ObjectKeyFromObject(object), err)
		return
	}
	if _, is := object.(*apiextensionsv1.CustomResourceDefinition); is {
		for ; err == nil && ctx.Err() == nil; err = c.Get(ctx, client.ObjectKeyFromObject(object), object) {
			time.Sleep(50 * time.Millisecond)
		}
		if !apierrors.IsNotFound(err) {
			tb.Errorf("kubetest: delete %T %s: it still exists: %v", object, object.GetName(), err)
		}
		return
	}
	withoutFinalizers := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`))
	if err := client.IgnoreNotFound(c.Patch(ctx, object, withoutFinalizers)); err != nil {
		tb.Errorf("kubetest: remove the finalizers of %T %s: %v", object, client.ObjectKeyFromObject(object), err)
	}
}

// Eventually calls condition until it returns nil. After 30 seconds it fails the
// test with the last error.
func Eventually(tb testing.TB, condition func(ctx context.Context) error) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := condition(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			tb.Fatalf("kubetest: after %s still: %v", patience, err)
		case <-ticker.C:
		}
	}
}

// NextSecond waits until the clock shows another second. Creation timestamps have a
// precision of one second, so two objects of one second have the same age.
func NextSecond(tb testing.TB) {
	tb.Helper()
	begin := time.Now().Truncate(time.Second)
	Eventually(tb, func(context.Context) error {
		if time.Now().Truncate(time.Second).Equal(begin) {
			return errors.New("still the same second")
		}
		return nil
	})
}
