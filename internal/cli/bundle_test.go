package cli

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

// secrets are planted in objects and logs.
var secrets = []string{
	"hunter2-password", "hunter2-env", "hunter2-url", "AKIAIOSFODNN7EXAMPLE", "LTAI5tFakeFakeFakeFakeFa", "hunter2-bearer", "MIIEowIBAAKCAQEA", "hunter2-json", "hunter2-arg",
	"eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ.c2lnbmF0dXJl", "LS0tLS1CRUdJTiBSU0EgUFJJVkFURSBLRVktLS0tLQ", "hunter2-quoted words", "hunter2-previous",
}

const plantedObject = `{
	"metadata": {
		"name": "spiderpool-agent", "managedFields": [{"manager": "helm"}],
		"annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{\"password\":\"hunter2-previous\"}", "keep": "yes"}
	},
	"spec": {
		"password": "hunter2-password", "secretName": "spiderpool-tls", "automountServiceAccountToken": false,
		"env": [{"name": "PROXY_PASSWORD", "value": "hunter2-env"}, {"name": "HTTPS_PROXY", "value": "http://user:hunter2-url@proxy.example:3128"}, {"name": "LEVEL", "value": "info"}],
		"args": ["--token=hunter2-arg", "--key-id=AKIAIOSFODNN7EXAMPLE", "--id", "LTAI5tFakeFakeFakeFakeFa", "--level=info"],
		"key": "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA\n-----END RSA PRIVATE KEY-----",
		"bundle": "LS0tLS1CRUdJTiBSU0EgUFJJVkFURSBLRVktLS0tLQ=="
	}
}`

const plantedLog = `2026-11-29T03:00:00Z {"level":"INFO","msg":"request","Authorization":"Bearer hunter2-bearer","token":"hunter2-json","ip":"10.6.0.2"}
2026-11-29T03:00:01Z login with eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ.c2lnbmF0dXJl failed: password: "hunter2-quoted words"
2026-11-29T03:00:02Z the pool red has no address
-----BEGIN PRIVATE KEY-----
MIIEowIBAAKCAQEA cut by the limit of the log`

func TestSecretsAreRemoved(t *testing.T) {
	var r redactor
	object, err := r.object([]byte(plantedObject))
	if err != nil {
		t.Fatal(err)
	}
	if r.count == 0 {
		t.Error("no secret was counted")
	}
	text := string(object) + r.text(plantedLog)
	for _, secret := range secrets {
		if strings.Contains(text, secret) {
			t.Errorf("%q is still in\n%s", secret, text)
		}
	}
	for _, kept := range []string{
		"spiderpool-tls", `"automountServiceAccountToken": false`, "proxy.example:3128", "--level=info", `"keep": "yes"`, "10.6.0.2", "the pool red has no address", `"msg":"request"`,
	} {
		if !strings.Contains(text, kept) {
			t.Errorf("%q is lost in\n%s", kept, text)
		}
	}
	if strings.Contains(text, "managedFields") {
		t.Error("managedFields repeat the object")
	}
}

// act runs a command, and returns its output and its exit code.
func act(t *testing.T, kubeconfig, command string) (string, int) {
	t.Helper()
	var out bytes.Buffer
	cmd := newRootAt(time.Now)
	cmd.SetOut(&out)
	cmd.SetErr(t.Output())
	cmd.SetArgs(append(strings.Fields(command), "--kubeconfig", kubeconfig))
	err := cmd.ExecuteContext(t.Context())
	if err != nil && !errors.Is(err, errFound) {
		out.WriteString(err.Error())
	}
	return out.String(), exitCode(err)
}

func wantOutput(t *testing.T, kubeconfig, command string, code int, parts ...string) {
	t.Helper()
	out, got := act(t, kubeconfig, command)
	if got != code {
		t.Errorf("%s: exit code %d, want %d", command, got, code)
	}
	for _, part := range parts {
		if !strings.Contains(out, part) {
			t.Errorf("%s: no %q in\n%s", command, part, out)
		}
	}
}

// writeBundle writes a support bundle, and returns its files and its manifest.
func writeBundle(t *testing.T, kubeconfig string, flags ...string) (map[string]string, manifest) {
	t.Helper()
	output := filepath.Join(t.TempDir(), "bundle.tar.gz")
	command := strings.Join(append([]string{"support-bundle --output " + output}, flags...), " ")
	if out, code := act(t, kubeconfig, command); code != 0 || !strings.Contains(out, "Look at it before you publish it") {
		t.Fatalf("exit code %d, output\n%s", code, out)
	}
	raw, err := os.ReadFile(output)
	if err != nil {
		t.Fatal(err)
	}
	zipped, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	files, archive := map[string]string{}, tar.NewReader(zipped)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimPrefix(header.Name, "spiderpool-support/")] = string(text)
	}
	var m manifest
	if err := yaml.UnmarshalStrict([]byte(files["MANIFEST.yaml"]), &m); err != nil {
		t.Fatal(err)
	}
	if len(files) != len(m.Files)+1 {
		t.Errorf("%d files, and %d in the manifest", len(files), len(m.Files))
	}
	for _, f := range m.Files {
		if len(files[f.Name]) != f.Bytes {
			t.Errorf("the manifest has %+v, and the file %d bytes", f, len(files[f.Name]))
		}
	}
	return files, m
}

// kubeconfigOf starts a server of JSON in the place of an API server, and returns a kubeconfig.
func kubeconfigOf(t *testing.T, handle http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		handle(w, r)
	}))
	t.Cleanup(server.Close)
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	content := "{apiVersion: v1, kind: Config, current-context: c, clusters: [{name: c, cluster: {server: '" + server.URL + "'}}], contexts: [{name: c, context: {cluster: c}}]}"
	if err := os.WriteFile(kubeconfig, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return kubeconfig
}

const emptyList = `{"kind":"List","apiVersion":"v1","items":[]}`

// TestBundleAsksPrograms has a controller, and two agents; one agent has restarted and is not ready.
func TestBundleAsksPrograms(t *testing.T) {
	pod := func(name, component, restarts string) string {
		return `{"metadata":{"name":"` + name + `","labels":{"app.kubernetes.io/component":"` + component + `"}},
			"spec":{"containers":[{"name":"main","ports":[{"name":"health","containerPort":5710},{"name":"metrics","containerPort":5711}]}]},
			"status":{"containerStatuses":[{"name":"main","ready":true,"restartCount":` + restarts + `}]}}`
	}
	pods := `{"kind":"PodList","apiVersion":"v1","items":[` + pod("agent-a", "agent", "0") + "," + pod("agent-b", "agent", "3") + "," + pod("controller-c", "controller", "0") + `]}`
	kubeconfig := kubeconfigOf(t, func(w http.ResponseWriter, r *http.Request) {
		const system = "/api/v1/namespaces/kube-system/pods/"
		answer := emptyList
		switch r.URL.Path {
		case strings.TrimSuffix(system, "/"), "/api/v1/pods":
			answer = pods
		case system + "controller-c/log", system + "agent-b/log":
			answer = "previous=" + r.URL.Query().Get("previous") + "\n" + plantedLog
		case system + "controller-c:5710/proxy/readyz":
			answer = "ok"
		case system + "agent-b:5710/proxy/readyz":
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(http.StatusServiceUnavailable)
			answer = "block 10.6.0.0 cannot be read"
		case system + "controller-c:5711/proxy/metrics", system + "agent-b:5711/proxy/metrics":
			answer = "spiderpool_container_runtime_up 1"
		}
		_, _ = io.WriteString(w, answer)
	})
	files, m := writeBundle(t, kubeconfig, "--logs 2")
	for name, part := range map[string]string{
		"logs/controller-c/main.log": "previous=\n", "logs/agent-b/main.log": "the pool red has no address", "logs/agent-b/main-previous.log": "previous=true",
		"programs/controller-c/readyz.txt": "ok", "programs/agent-b/metrics.txt": "spiderpool_container_runtime_up 1",
	} {
		if !strings.Contains(files[name], part) {
			t.Errorf("%s: no %q in %q", name, part, files[name])
		}
	}
	for name, text := range files {
		if strings.Contains(text, "hunter2") {
			t.Errorf("%s has a secret", name)
		}
	}
	why := map[string]string{}
	for _, left := range m.LeftOut {
		why[left.Source] = left.Why
	}
	if got := why["logs, readiness and metrics of 1 pods of Spiderpool"]; got != "--logs is 2" {
		t.Errorf("the third pod is left out because %q; all: %v", got, why)
	}
	if got := why["/api/v1/namespaces/kube-system/pods/agent-b:5710/proxy/readyz"]; !strings.Contains(got, "block 10.6.0.0 cannot be read") {
		t.Errorf("agent-b is not ready because %q; all: %v", got, why)
	}
}

// TestInterruptedBundleLeavesNoFile ends the command while the API server answers the list of nodes.
func TestInterruptedBundleLeavesNoFile(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	asked := false
	kubeconfig := kubeconfigOf(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/v1/nodes" {
			asked = true
			cancel()
			<-r.Context().Done()
			return
		}
		_, _ = io.WriteString(w, emptyList)
	})
	dir := t.TempDir()
	cmd := newRootAt(time.Now)
	cmd.SetOut(io.Discard)
	cmd.SetErr(io.Discard)
	cmd.SetArgs([]string{"support-bundle", "--output", filepath.Join(dir, "b.tar.gz"), "--kubeconfig", kubeconfig})
	if err := cmd.ExecuteContext(ctx); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "no archive is left") {
		t.Errorf("got %v, want an interruption", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 || !asked {
		t.Errorf("left %v, error %v, nodes were asked for: %t", left, err, asked)
	}
}
