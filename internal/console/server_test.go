//go:build apiserver

package console

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	certutil "k8s.io/client-go/util/cert"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/kube/kubetest"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

// installation is a console in front of a real API server.
type installation struct {
	*program
	namespace string
	url       string
}

// install runs a console with the rights of the chart until the end of the test.
func install(t *testing.T) installation {
	t.Helper()
	ns := kubetest.Namespace(t, kubetest.Client(t))
	dir := t.TempDir()
	certificate, key, err := certutil.GenerateSelfSignedCertKey("127.0.0.1", nil, nil)
	for file, content := range map[string][]byte{"tls.crt": certificate, "tls.key": key} {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, file), content, 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
	file := config.Default()
	file.IPAM.EnableIPv6, file.Multus.DefaultNetwork = false, "kube-system/macvlan"
	file.ConsoleProcess.Port, file.ConsoleProcess.HealthPort, file.ConsoleProcess.TLS.CertDir = kubetest.FreePort(t), kubetest.FreePort(t), dir
	cfg, err := file.Console(func(string) string { return ns })
	if err != nil {
		t.Fatal(err)
	}
	p, err := newProgram(cfg, kubetest.RoleWith(t, "secure", "spiderpool-console", ns, ""), slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.run(ctx, "127.0.0.1") }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	kubetest.Eventually(t, func(ctx context.Context) error {
		answer, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/readyz", cfg.HealthPort))
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		body, _ := io.ReadAll(answer.Body)
		if answer.StatusCode != http.StatusOK {
			return errors.New(string(body))
		}
		return nil
	})
	return installation{p, ns, fmt.Sprintf("https://127.0.0.1:%d", cfg.Port)}
}

// as returns a browser of the user of a token.
func (i installation) as(t *testing.T, token string) browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // the certificate is of this test
	t.Cleanup(transport.CloseIdleConnections)
	b := browser{t, &http.Client{Jar: jar, Transport: transport}, i.url}
	if status, body := b.post("/sign-in", url.Values{"token": {token}}); status != http.StatusOK || !strings.Contains(body, "Sign out") {
		t.Fatalf("status %d\n%s", status, body)
	}
	return b
}

// fill creates the objects of the section "cluster" of a file of spiderpoolctl's tests, except those that exist.
func fill(t *testing.T, file string) {
	t.Helper()
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	section := archive.Files[slices.IndexFunc(archive.Files, func(f txtar.File) bool { return f.Name == "cluster" })]
	c, reader := kubetest.Client(t), utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(section.Data)))
	var uids []string
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return
		}
		object := &unstructured.Unstructured{}
		if err := errors.Join(err, yaml.Unmarshal([]byte(strings.NewReplacer(uids...).Replace(string(document))), &object.Object)); err != nil {
			t.Fatal(err)
		}
		known := &unstructured.Unstructured{}
		known.SetGroupVersionKind(object.GroupVersionKind())
		if c.Get(t.Context(), client.ObjectKeyFromObject(object), known) == nil {
			continue
		}
		status := object.Object["status"]
		kubetest.Create(t, c, object)
		if status != nil {
			object.Object["status"] = status
			if err := c.Status().Update(t.Context(), object); err != nil && !apierrors.IsNotFound(err) {
				t.Fatal(err)
			}
		}
		if object.GetKind() == "Pod" {
			uids = append(uids, "UID("+object.GetNamespace()+"/"+object.GetName()+")", string(object.GetUID()))
		}
	}
}

// shows waits until a page contains all texts.
func (b browser) shows(t *testing.T, path string, texts ...string) {
	t.Helper()
	kubetest.Eventually(t, func(context.Context) error {
		_, body := b.get(path)
		for _, text := range texts {
			if !strings.Contains(body, text) {
				return fmt.Errorf("%s: no %q in\n%s", path, text, body)
			}
		}
		return nil
	})
}

// TestConsoleShowsClusterByRights compares the pages of a cluster with the answers in spiderpoolctl's tests.
func TestConsoleShowsClusterByRights(t *testing.T) {
	fill(t, podCluster)
	c := kubetest.Client(t)
	job := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "blog", Name: "batch", OwnerReferences: []metav1.OwnerReference{
		{APIVersion: "batch/v1", Kind: "Job", Name: "batch", UID: "j1", Controller: new(true)},
	}}, Spec: corev1.PodSpec{NodeName: "n7", Containers: []corev1.Container{{Name: "c", Image: "registry.example/web"}}}}
	kubetest.Create(t, c, job)
	i := install(t)
	reader := i.as(t, kubetest.User(t, "spiderpool-reader").BearerToken)
	reader.shows(t, "/", "blue", "red", "10.6.0.0/24")
	reader.shows(t, "/pools/blue", "10.6.0.2 in use by blog/web-6d4cf56db6-x7k2p on n7", "Deployment/blog/web")
	reader.shows(t, "/pods/blog/web-6d4cf56db6-x7k2p", "10.6.0.2; named by: pools with spec.default", "kube-system/macvlan")
	reader.shows(t, "/pods/blog/stuck", "spec.nodeAffinity requires zone=b (label is &#34;a&#34;) of the pod&#39;s node n7")
	reader.shows(t, "/pods/blog/batch", "choice 1")
	reader.shows(t, "/nodes/n7", "it has no agent")

	account := kubetest.Account(t, i.namespace, "guest", "")
	guest := i.as(t, account.BearerToken)
	guest.shows(t, "/", "Your rights do not show pools")
	if status, body := guest.get("/pods/blog/stuck"); status != http.StatusNotFound || strings.Contains(body, "eth0") {
		t.Errorf("a guest sees a pod: status %d", status)
	}
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "blog", Name: "friend"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"list"}},
	}}
	kubetest.Create(t, c, role, &rbacv1.RoleBinding{
		ObjectMeta: role.ObjectMeta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "friend"},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: i.namespace, Name: "friend"}},
	})
	friend := i.as(t, kubetest.Account(t, i.namespace, "friend", "").BearerToken)
	friend.shows(t, "/pods/blog/stuck", "Your rights do not show pools")
	friend.shows(t, "/pods/blog/web-6d4cf56db6-x7k2p", "10.6.0.2")

	event := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: "blog", Name: "full"}, Reason: "FailedAllocateIP", Type: "Warning", Message: "blue: it is full",
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "blog", Name: "stuck"}, Source: corev1.EventSource{Component: "spiderpool-agent"}, LastTimestamp: metav1.NewTime(time.Now()),
	}
	kubetest.Create(t, c, event)
	reader.shows(t, "/events", "blue: it is full", "blog/stuck")
}
