package cli

import (
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
)

// secrets are planted in objects and logs.
var secrets = []string{
	"hunter2-password", "hunter2-env", "hunter2-url", "AKIAIOSFODNN7EXAMPLE", "hunter2-bearer", "MIIEowIBAAKCAQEA", "hunter2-json", "hunter2-arg",
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
		"args": ["--token=hunter2-arg", "--key-id=AKIAIOSFODNN7EXAMPLE", "--level=info"],
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

// TestInterruptedBundleLeavesNoFile ends the command while the API server answers the list of nodes.
func TestInterruptedBundleLeavesNoFile(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	asked := false
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/v1/nodes" {
			asked = true
			cancel()
			<-r.Context().Done()
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"kind":"List","apiVersion":"v1","items":[]}`)
	}))
	t.Cleanup(server.Close)
	dir := t.TempDir()
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, []byte("{apiVersion: v1, kind: Config, current-context: c, clusters: [{name: c, cluster: {server: '"+server.URL+"'}}], contexts: [{name: c, context: {cluster: c}}]}"), 0o600); err != nil {
		t.Fatal(err)
	}
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
