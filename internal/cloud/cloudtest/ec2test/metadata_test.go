package ec2test_test

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"spiderpool.dev/spiderpool/internal/cloud/cloudtest/ec2test"
)

// metadata returns the value at a path of the node's metadata service, or the error.
func (w *world) metadata(ctx context.Context, path string) (string, error) {
	client := imds.New(imds.Options{Endpoint: w.server.MetadataURL(w.node)})
	out, err := client.GetMetadata(ctx, &imds.GetMetadataInput{Path: path})
	if err != nil {
		return "", err
	}
	defer func() { _ = out.Content.Close() }()
	content, err := io.ReadAll(out.Content)
	return string(content), err
}

func TestMetadataDescribesTheInstance(t *testing.T) {
	w := newWorld(t, "m5.large")
	assigned := w.assign(t, 2)
	mac := w.Interfaces(w.node)[0].MAC
	macs := "network/interfaces/macs/"
	for path, want := range map[string]string{
		"instance-id":                          w.node,
		"instance-type":                        "m5.large",
		"local-ipv4":                           "172.31.16.10",
		"local-hostname":                       "ip-172-31-16-10.eu-central-1.compute.internal",
		"placement/availability-zone":          "eu-central-1a",
		"placement/region":                     region,
		"mac":                                  mac,
		macs:                                   mac + "/",
		macs + mac + "/device-number":          "0",
		macs + mac + "/interface-id":           w.eni,
		macs + mac + "/subnet-id":              w.subnet,
		macs + mac + "/vpc-id":                 w.vpc,
		macs + mac + "/security-group-ids":     w.group,
		macs + mac + "/subnet-ipv4-cidr-block": "172.31.16.0/24",
		macs + mac + "/vpc-ipv4-cidr-blocks":   "172.31.0.0/16",
		macs + mac + "/local-ipv4s":            "172.31.16.10",
		macs + mac + "/ipv4-prefix":            strings.Join(assigned, "\n"),
		"iam/security-credentials/":            "node",
	} {
		if got := must2(w.metadata(t.Context(), path))(t); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
	if _, err := w.metadata(t.Context(), macs+mac+"/ipv6s"); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("the IPv6 addresses of an interface without any: %v, want 404", err)
	}
	client := imds.New(imds.Options{Endpoint: w.server.MetadataURL(w.node)})
	if got := must2(client.GetRegion(t.Context(), &imds.GetRegionInput{}))(t).Region; got != region {
		t.Errorf("region %q in the identity document", got)
	}
}

func TestMetadataNeedsAToken(t *testing.T) {
	w := newWorld(t, "m5.large")
	get := func(instance, token string) int {
		request := must2(http.NewRequestWithContext(t.Context(), http.MethodGet, w.server.MetadataURL(instance)+"/latest/meta-data/instance-id", nil))(t)
		request.Header.Set("X-aws-ec2-metadata-token", token)
		response := must2(http.DefaultClient.Do(request))(t)
		_ = response.Body.Close()
		return response.StatusCode
	}
	newToken := func(ttl string) (string, int) {
		request := must2(http.NewRequestWithContext(t.Context(), http.MethodPut, w.server.MetadataURL(w.node)+"/latest/api/token", nil))(t)
		request.Header.Set("X-aws-ec2-metadata-token-ttl-seconds", ttl)
		response := must2(http.DefaultClient.Do(request))(t)
		defer func() { _ = response.Body.Close() }()
		return string(must2(io.ReadAll(response.Body))(t)), response.StatusCode
	}
	token, _ := newToken("60")
	other := w.AddInstance(ec2test.Instance{Type: "m5.large", Subnet: w.subnet})
	for name, test := range map[string]struct {
		instance, token string
		want            int
	}{
		"with it":            {w.node, token, http.StatusOK},
		"without":            {w.node, "", http.StatusUnauthorized},
		"another instance's": {other, token, http.StatusUnauthorized},
	} {
		if got := get(test.instance, test.token); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
	w.clock.move(time.Minute)
	if got := get(w.node, token); got != http.StatusUnauthorized {
		t.Errorf("an expired token: %d", got)
	}
	if _, status := newToken("21601"); status != http.StatusBadRequest {
		t.Errorf("a token for more than six hours: %d", status)
	}
}

func TestMetadataLagsBehind(t *testing.T) {
	w := newWorld(t, "m5.large")
	w.SetLag(2 * time.Second)
	w.clock.move(time.Minute)
	w.assign(t, 1)
	path := "network/interfaces/macs/" + w.Interfaces(w.node)[0].MAC + "/ipv4-prefix"
	if got, err := w.metadata(t.Context(), path); err == nil {
		t.Errorf("the prefix %s is there at once", got)
	}
	w.clock.move(2 * time.Second)
	must2(w.metadata(t.Context(), path))(t)
}

// TestRoleCredentialsNameTheRole uses the credentials of the metadata service for the API.
func TestRoleCredentialsNameTheRole(t *testing.T) {
	w := newWorld(t, "m5.large")
	document := must2(w.metadata(t.Context(), "iam/security-credentials/node"))(t)
	_, rest, _ := strings.Cut(document, `"AccessKeyId": "`)
	key, _, _ := strings.Cut(rest, `"`)
	if err := w.SetPolicy("role/node", `{"Statement": [{"Effect": "Allow", "Action": "ec2:DescribeVpcs", "Resource": "*"}]}`); err != nil {
		t.Fatal(err)
	}
	client := w.client(key, region)
	must2(client.DescribeVpcs(t.Context(), &ec2.DescribeVpcsInput{}))(t)
	_, err := client.DescribeSubnets(t.Context(), &ec2.DescribeSubnetsInput{})
	if codeOf(err) != "UnauthorizedOperation" || !strings.Contains(err.Error(), "assumed-role/node/") {
		t.Errorf("a forbidden call: %v", err)
	}
	if environment := w.server.Environment(w.node); !slices.Contains(environment, "AWS_EC2_METADATA_SERVICE_ENDPOINT="+w.server.MetadataURL(w.node)+"/") {
		t.Errorf("environment %v", environment)
	}
}
