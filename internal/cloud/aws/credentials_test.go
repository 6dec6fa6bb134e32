package aws

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/cloud/cloudtest/ec2test"
)

const expiry = "2099-01-01T00:00:00Z"

// serve answers every request with a status and a body.
func serve(t *testing.T, status int, body string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func tokenFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte("token"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// sts is an answer of AssumeRoleWithWebIdentity
// (https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html).
const sts = `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials>` +
	`<AccessKeyId>AKIASERVICEACCOUNT</AccessKeyId><SecretAccessKey>x</SecretAccessKey><SessionToken>x</SessionToken><Expiration>` + expiry +
	`</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`

// TestCredentialsComeFromEverySource shows by a denied permission, which belongs to one
// principal, where the credentials came from.
func TestCredentialsComeFromEverySource(t *testing.T) {
	for name, source := range map[string]struct {
		principal string
		variables func(t *testing.T, server *ec2test.Server, node string) []string
	}{
		"service account": {"AKIASERVICEACCOUNT", func(t *testing.T, _ *ec2test.Server, _ string) []string {
			return []string{
				"AWS_REGION=" + region, "AWS_ROLE_ARN=arn:aws:iam::123456789012:role/spiderpool", "AWS_WEB_IDENTITY_TOKEN_FILE=" + tokenFile(t),
				"AWS_ENDPOINT_URL_STS=" + serve(t, http.StatusOK, sts),
			}
		}},
		"Pod Identity": {"AKIAPODIDENTITY", func(t *testing.T, _ *ec2test.Server, _ string) []string {
			agent := serve(t, http.StatusOK, `{"AccessKeyId":"AKIAPODIDENTITY","SecretAccessKey":"x","Token":"x","Expiration":"`+expiry+`"}`)
			return []string{"AWS_REGION=" + region, "AWS_CONTAINER_CREDENTIALS_FULL_URI=" + agent, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=" + tokenFile(t)}
		}},
		"instance role, and the region": {"role/node", func(_ *testing.T, server *ec2test.Server, node string) []string {
			return []string{"AWS_EC2_METADATA_SERVICE_ENDPOINT=" + server.MetadataURL(node)}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w, server := listen(t)
			subnet := w.AddSubnet("eu-central-1a", nil, cidrIPv4)
			node := w.Cloud.AddInstance(ec2test.Instance{Type: "m5.large", Subnet: subnet, Role: "node"})
			setEnvironment(t, append(source.variables(t, server, node), "AWS_ENDPOINT_URL_EC2="+server.URL)...)
			p, err := New(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			if found, err := p.Instances(t.Context(), []string{node}); err != nil || len(found) != 1 {
				t.Fatalf("%d instances, %v", len(found), err)
			}
			if err := w.SetPolicy(source.principal, fmt.Sprintf(denyOne, "ec2:DescribeInstances")); err != nil {
				t.Fatal(err)
			}
			if _, err := p.Instances(t.Context(), []string{node}); err == nil || cloud.KindOf(err) != cloud.Permission {
				t.Errorf("%v, want a refusal: the calls are not those of %s", err, source.principal)
			}
		})
	}
}

func TestRefusedRoleIsNamed(t *testing.T) {
	w, server := listen(t)
	refused := `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>AccessDenied</Code>` +
		`<Message>Not authorized to perform sts:AssumeRoleWithWebIdentity</Message></Error></ErrorResponse>`
	setEnvironment(t, "AWS_REGION="+region, "AWS_ENDPOINT_URL_EC2="+server.URL, "AWS_ROLE_ARN=arn:aws:iam::123456789012:role/spiderpool",
		"AWS_WEB_IDENTITY_TOKEN_FILE="+tokenFile(t), "AWS_ENDPOINT_URL_STS="+serve(t, http.StatusForbidden, refused))
	p, err := New(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Instances(t.Context(), []string{"i-1"})
	refusal, ok := err.(*cloud.Error)
	if !ok || refusal.Kind != cloud.Credentials || refusal.Action != "sts:AssumeRoleWithWebIdentity" {
		t.Errorf("%v, want credentials that sts:AssumeRoleWithWebIdentity refused", err)
	}
	if n := w.Requests(); n != 0 {
		t.Errorf("%d requests without credentials", n)
	}
}

func TestNoRegionSaysWhatToSet(t *testing.T) {
	setEnvironment(t, "AWS_EC2_METADATA_SERVICE_ENDPOINT="+serve(t, http.StatusNotFound, ""))
	if _, err := New(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "AWS_REGION") {
		t.Errorf("error %v, want one that names AWS_REGION", err)
	}
}

func TestWrongRegionFindsNothing(t *testing.T) {
	w, server := listen(t)
	subnet := w.AddSubnet("eu-central-1a", nil, cidrIPv4)
	node := w.AddInstance("m5.large", subnet)
	setEnvironment(t, server.Environment("")...)
	p, err := New(t.Context(), "us-east-1")
	if err != nil {
		t.Fatal(err)
	}
	if id, ok := p.InstanceID(w.ProviderID(node)); ok {
		t.Errorf("a node of eu-central-1 is the instance %s of us-east-1", id)
	}
	if found, err := p.Instances(t.Context(), []string{node}); err != nil || len(found) != 0 {
		t.Errorf("%d instances in the wrong region, %v", len(found), err)
	}
}
