//go:build awscli

package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// cli runs Debian's aws command. make cloud-clients installs it and names it in AWS.
type cli struct {
	t           *testing.T
	environment map[string]string
}

func (c cli) run(args ...string) (string, error) {
	c.t.Helper()
	program := os.Getenv("AWS")
	if program == "" {
		c.t.Fatal("AWS does not name the aws command; run make cloud-clients")
	}
	cmd := exec.CommandContext(c.t.Context(), program, append([]string{"--endpoint-url", c.environment["AWS_ENDPOINT_URL"], "--output", "json", "ec2"}, args...)...)
	cmd.Env = []string{"HOME=" + c.t.TempDir(), "PATH=" + os.Getenv("PATH"), "AWS_PAGER=", "AWS_MAX_ATTEMPTS=1"}
	for name, value := range c.environment {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// ok returns the output of a command that must succeed.
func (c cli) ok(args ...string) map[string]any {
	c.t.Helper()
	out, err := c.run(args...)
	if err != nil {
		c.t.Fatalf("aws ec2 %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	var v map[string]any
	if out != "" {
		if err := json.Unmarshal([]byte(out), &v); err != nil {
			c.t.Fatalf("aws ec2 %s: %v in\n%s", strings.Join(args, " "), err, out)
		}
	}
	return v
}

// at returns the value at a path of keys, through the first items of lists.
func at(t *testing.T, v any, path ...string) string {
	t.Helper()
	for _, key := range path {
		if list, ok := v.([]any); ok && len(list) > 0 {
			v = list[0]
		}
		object, ok := v.(map[string]any)
		if !ok {
			t.Fatalf("nothing at %v in %v", path, v)
		}
		v = object[key]
	}
	s, _ := v.(string)
	return s
}

func TestDebianCommandManagesInterfaces(t *testing.T) {
	c := cli{t, start(t)}
	interfaces := c.ok("describe-network-interfaces", "--filters", "Name=attachment.instance-id,Values=i-0a0a0a0a0a0a0a0a1")
	eni := at(t, interfaces, "NetworkInterfaces", "NetworkInterfaceId")
	subnet := at(t, interfaces, "NetworkInterfaces", "SubnetId")
	if got := at(t, interfaces, "NetworkInterfaces", "PrivateIpAddress"); got != "172.31.22.228" {
		t.Errorf("address %q", got)
	}
	assigned := c.ok("assign-private-ip-addresses", "--network-interface-id", eni, "--ipv4-prefix-count", "1")
	prefix := at(t, assigned, "AssignedIpv4Prefixes", "Ipv4Prefix")
	c.ok("unassign-private-ip-addresses", "--network-interface-id", eni, "--ipv4-prefixes", prefix)
	c.ok("assign-ipv6-addresses", "--network-interface-id", eni, "--ipv6-prefix-count", "1")

	made := at(t, c.ok("create-network-interface", "--subnet-id", subnet, "--ipv4-prefix-count", "2", "--description", "pods",
		"--tag-specifications", "ResourceType=network-interface,Tags=[{Key=cluster,Value=c1}]"), "NetworkInterface", "NetworkInterfaceId")
	attachment := at(t, c.ok("attach-network-interface", "--network-interface-id", made, "--instance-id", "i-0a0a0a0a0a0a0a0a1", "--device-index", "1"), "AttachmentId")
	c.ok("modify-network-interface-attribute", "--network-interface-id", made, "--attachment", "AttachmentId="+attachment+",DeleteOnTermination=true")
	c.ok("create-tags", "--resources", made, "--tags", "Key=owner,Value=me")
	if found := at(t, c.ok("describe-network-interfaces", "--filters", "Name=tag:owner,Values=m*", "--page-size", "5"), "NetworkInterfaces", "NetworkInterfaceId"); found != made {
		t.Errorf("found %q by tag, want %s", found, made)
	}
	c.ok("detach-network-interface", "--attachment-id", attachment)
	c.ok("delete-network-interface", "--network-interface-id", made)

	if got := at(t, c.ok("describe-instances", "--instance-ids", "i-0a0a0a0a0a0a0a0a2"), "Reservations", "Instances", "PrivateIpAddress"); got != "172.31.32.18" {
		t.Errorf("instance %q", got)
	}
	c.ok("describe-instance-types", "--instance-types", "m5.large")
	c.ok("describe-subnets")
	c.ok("describe-vpcs")
	c.ok("describe-security-groups")
	c.ok("get-subnet-cidr-reservations", "--subnet-id", subnet)
}

func TestDebianCommandShowsErrors(t *testing.T) {
	c := cli{t, start(t)}
	for want, args := range map[string][]string{
		"(InvalidNetworkInterfaceID.NotFound)": {"delete-network-interface", "--network-interface-id", "eni-0123456789abcdef0"},
		"(DryRunOperation)":                    {"describe-vpcs", "--dry-run"},
		"(InvalidAction)":                      {"describe-images"},
	} {
		if out, err := c.run(args...); err == nil || !strings.Contains(out, want) {
			t.Errorf("aws ec2 %s: %v, want %s in\n%s", strings.Join(args, " "), err, want, out)
		}
	}
}

// TestDebianCommandUsesTheRole takes the credentials from the metadata service.
func TestDebianCommandUsesTheRole(t *testing.T) {
	environment := start(t)
	delete(environment, "AWS_ACCESS_KEY_ID")
	delete(environment, "AWS_SECRET_ACCESS_KEY")
	cli{t, environment}.ok("describe-vpcs")
}
