// Package kubetest gives tests a real kube-apiserver with etcd behind it and
// the custom resources of charts/spiderpool/crds installed.
//
// The programs kube-apiserver and etcd are taken from the directory that the
// environment variable KUBEBUILDER_ASSETS names. Tests that use this package
// have the build tag "apiserver", and call Main from TestMain, so that one
// server serves all tests of a package: a test makes a namespace of its own and
// cleans up what has no namespace. There are no controllers, no scheduler and no
// kubelet: nothing is garbage-collected and no pod runs.
package kubetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"spiderpool.dev/spiderpool/internal/kube/scheme"
)

// assetsVariable names the directory of kube-apiserver and etcd.
const assetsVariable = "KUBEBUILDER_ASSETS"

// patience is how long Eventually waits for a condition. It is generous because
// machines that run tests are busy; a condition that holds is seen at once.
const patience = 30 * time.Second

var (
	config     *rest.Config
	kubeconfig []byte
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
	config, kubeconfig = environment.Config, environment.KubeConfig
	return m.Run()
}

// Start starts an API server that the caller stops; Main does for most tests.
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
			filepath.Join(root, "charts", "spiderpool", "crds"),
			filepath.Join(root, "internal", "kube", "kubetest", "crds"),
		},
		ErrorIfCRDPathMissing:    true,
		ControlPlaneStartTimeout: time.Minute,
		ControlPlaneStopTimeout:  time.Minute,
	}
	// ServiceCIDR objects, which the coordinator's reconciler reads, cannot be
	// told from what envtest configures otherwise.
	environment.ControlPlane.GetAPIServer().Configure().
		Set("service-cluster-ip-range", "10.96.0.0/16,fd00:10:96::/112")
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

// moduleRoot is the nearest directory with a go.mod, from the test's directory upwards.
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

// Config returns a copy of the administrator's configuration of the server that Main started.
func Config(tb testing.TB) *rest.Config {
	tb.Helper()
	if config == nil {
		tb.Fatal("kubetest: no API server; call kubetest.Main from TestMain")
	}
	return rest.CopyConfig(config)
}

// Kubeconfig returns the administrator's configuration as a file has it, for programs.
func Kubeconfig(tb testing.TB) []byte {
	tb.Helper()
	if kubeconfig == nil {
		tb.Fatal("kubetest: no API server; call kubetest.Main from TestMain")
	}
	return kubeconfig
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

// Namespace makes a namespace for the test and returns its name.
func Namespace(tb testing.TB, c client.Client) string {
	tb.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}
	if err := c.Create(tb.Context(), namespace); err != nil {
		tb.Fatalf("kubetest: make a namespace: %v", err)
	}
	return namespace.Name
}

// Create creates the objects; when the test ends it deletes them again, last
// first, without regard to their finalizers.
func Create(tb testing.TB, c client.Client, objects ...client.Object) {
	tb.Helper()
	for _, object := range objects {
		if err := c.Create(tb.Context(), object); err != nil {
			tb.Fatalf("kubetest: create %T %s: %v", object, client.ObjectKeyFromObject(object), err)
		}
		tb.Cleanup(func() { Remove(tb, c, object) })
	}
}

// Remove deletes an object without regard to its finalizers; one that is gone is no error.
func Remove(tb testing.TB, c client.Client, object client.Object) {
	tb.Helper()
	// The context of a test has ended when its cleanups run.
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := client.IgnoreNotFound(c.Delete(ctx, object)); err != nil {
		tb.Errorf("kubetest: delete %T %s: %v", object, client.ObjectKeyFromObject(object), err)
		return
	}
	withoutFinalizers := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`))
	if err := client.IgnoreNotFound(c.Patch(ctx, object, withoutFinalizers)); err != nil {
		tb.Errorf("kubetest: remove the finalizers of %T %s: %v", object, client.ObjectKeyFromObject(object), err)
	}
}

// Eventually calls the condition until it returns nil. After 30 seconds the
// test fails with the condition's last error.
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

// NextSecond waits until the clock shows another second: creation times, by which
// the older of two objects is known, have a precision of one.
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
