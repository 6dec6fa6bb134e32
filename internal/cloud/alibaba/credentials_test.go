package alibaba

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/cloud/cloudtest/alibabatest"
)

// sts is a token service, whose certificate this process trusts: the SDK takes no http.
var sts *httptest.Server

// stsAnswer is the answer of AssumeRoleWithOIDC.
const stsAnswer = `{"RequestId":"1","Credentials":{"AccessKeyId":"STS.role","AccessKeySecret":"role secret","SecurityToken":"role token","Expiration":"2099-01-01T00:00:00Z"}}`

func TestMain(m *testing.M) {
	sts = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ParseForm() != nil || r.Form.Get("Action") != "AssumeRoleWithOIDC" || r.Form.Get("OIDCToken") != "token" {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"Code":"AuthenticationFail.OIDCToken.Invalid","Message":"no token"}`)
			return
		}
		fmt.Fprint(w, stsAnswer)
	}))
	directory, err := os.MkdirTemp("", "alibaba")
	if err == nil {
		file := filepath.Join(directory, "ca.crt")
		err = os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: sts.Certificate().Raw}), 0o600)
		_ = os.Setenv("SSL_CERT_FILE", file)
	}
	code := 1
	if err == nil {
		code = m.Run()
	}
	sts.Close()
	_ = os.RemoveAll(directory)
	os.Exit(code)
}

// roleEnvironment returns the variables that ack-pod-identity-webhook sets, with a token.
func roleEnvironment(t *testing.T, w *alibabatest.Cloud, token string) map[string]string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	variables := w.Start(t)
	delete(variables, "ALIBABA_CLOUD_ACCESS_KEY_ID")
	delete(variables, "ALIBABA_CLOUD_ACCESS_KEY_SECRET")
	variables["ALIBABA_CLOUD_ROLE_ARN"] = "acs:ram::1234567890123456:role/spiderpool"
	variables["ALIBABA_CLOUD_OIDC_PROVIDER_ARN"] = "acs:ram::1234567890123456:oidc-provider/ack-rrsa"
	variables["ALIBABA_CLOUD_OIDC_TOKEN_FILE"] = file
	variables["ALIBABA_CLOUD_STS_ENDPOINT"] = strings.TrimPrefix(sts.URL, "https://")
	return variables
}

// TestServiceAccountAssumesRole shows by a denied permission, which belongs to one access key, where
// the credentials came from.
func TestServiceAccountAssumesRole(t *testing.T) {
	w := alibabatest.New(region)
	w.AddKey("STS.role", alibabatest.Key{Secret: "role secret", Token: "role token"})
	w.AddType("ecs.g7.large", large)
	node := w.AddInstance("ecs.g7.large", w.AddSubnet("eu-central-1a", nil, cidrIPv4))
	setEnvironment(t, roleEnvironment(t, w, "token"))
	p, err := New("")
	if err != nil {
		t.Fatal(err)
	}
	if found, err := p.Instances(t.Context(), []string{node}); err != nil || len(found) != 1 {
		t.Fatalf("%d instances, %v", len(found), err)
	}
	if err := w.SetPolicy("STS.role", without("ecs:DescribeInstances")); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Instances(t.Context(), []string{node}); cloud.KindOf(err) != cloud.Permission {
		t.Errorf("%v, want a refusal: the calls are not those of the role", err)
	}
}

// TestRefusedTokenSendsNothing also shows that no other source follows.
func TestRefusedTokenSendsNothing(t *testing.T) {
	w := alibabatest.New(region)
	setEnvironment(t, roleEnvironment(t, w, "expired"))
	p, err := New("")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Instances(t.Context(), []string{"i-1"}); cloud.KindOf(err) != cloud.Credentials || !strings.Contains(err.Error(), "AuthenticationFail") {
		t.Errorf("%v, want the refusal of the token service", err)
	}
	if n := w.Requests(); n != 0 {
		t.Errorf("%d requests without credentials", n)
	}
}

func TestEnvironmentNamesOneSource(t *testing.T) {
	key := map[string]string{"ALIBABA_CLOUD_ACCESS_KEY_ID": "id", "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "secret"}
	for want, environment := range map[string]map[string]string{
		"access_key":    key,
		"sts":           {"ALIBABA_CLOUD_ACCESS_KEY_ID": "id", "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "secret", "ALIBABA_CLOUD_SECURITY_TOKEN": "token"},
		"oidc_role_arn": {"ALIBABA_CLOUD_OIDC_TOKEN_FILE": "/token"},
		"ecs_ram_role":  {},
	} {
		if got := credentialsConfig(func(name string) string { return environment[name] }); *got.Type != want {
			t.Errorf("%v names %s, want %s", environment, *got.Type, want)
		}
	}
}

func TestWrongKeyIsCredentials(t *testing.T) {
	w := alibabatest.New(region)
	variables := w.Start(t)
	variables["ALIBABA_CLOUD_ACCESS_KEY_SECRET"] = "another secret"
	setEnvironment(t, variables)
	p, err := New("")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Instances(t.Context(), []string{"i-1"}); cloud.KindOf(err) != cloud.Credentials {
		t.Errorf("%v, want the refusal of the signature", err)
	}
}

func TestNewNamesWrongSetting(t *testing.T) {
	for want, variables := range map[string]map[string]string{
		"ALIBABA_CLOUD_REGION_ID": {},
		"no region":               {"ALIBABA_CLOUD_REGION_ID": "evil.example.com/"},
		"no address of vpc":       {"ALIBABA_CLOUD_REGION_ID": region, "ALIBABA_CLOUD_VPC_ENDPOINT": "vpc.example.com/path"},
		"access_key":              {"ALIBABA_CLOUD_REGION_ID": region, "ALIBABA_CLOUD_ACCESS_KEY_ID": "id"},
	} {
		setEnvironment(t, variables)
		if _, err := New(""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
		for name := range variables {
			t.Setenv(name, "")
		}
	}
}
