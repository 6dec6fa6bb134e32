package aws

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/cloud/cloudtest/ec2test"
	"spiderpool.dev/spiderpool/internal/inet"
)

// documented returns the policy below a heading of docs/reference/aws-iam.md.
func documented(t *testing.T, heading string) string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "reference", "aws-iam.md"))
	if err != nil {
		t.Fatal(err)
	}
	match := regexp.MustCompile("(?s)\n## " + heading + "\n.*?```json\n(.*?)```").FindSubmatch(page)
	if match == nil {
		t.Fatalf("the page has no JSON below %s", heading)
	}
	return strings.ReplaceAll(string(match[1]), "CLUSTER", "test")
}

// allActions returns the actions of a policy.
func allActions(t *testing.T, policy string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	for _, action := range regexp.MustCompile(`"(ec2:[A-Z][A-Za-z0-9]+)"`).FindAllStringSubmatch(strings.ReplaceAll(policy, "ec2:CreateAction", ""), -1) {
		found[action[1]] = true
	}
	return found
}

// withoutAction returns a policy that also denies an action.
func withoutAction(t *testing.T, policy, action string) string {
	t.Helper()
	var document map[string]any
	if err := json.Unmarshal([]byte(policy), &document); err != nil {
		t.Fatal(err)
	}
	deny := map[string]any{"Effect": "Deny", "Action": action, "Resource": "*"}
	document["Statement"] = append(document["Statement"].([]any), deny)
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(document); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// discover makes every call of the mode Discover.
func discover(ctx context.Context, p *Provider, instance, subnet, _ string) error {
	_, err := p.Instances(ctx, []string{instance})
	_, err2 := p.Subnets(ctx, []string{subnet}, nil)
	return errors.Join(err, err2)
}

// change makes every call of the provider.
func change(ctx context.Context, p *Provider, instance, subnet, group string) error {
	all := []error{discover(ctx, p, instance, subnet, group)}
	note := func(err error) { all = append(all, err) }
	_, err := p.Limits(ctx, []string{"m5.large"})
	note(err)
	eth1, err := p.Create(ctx, cloud.NewInterface{
		Subnet: subnet, SecurityGroups: []string{group}, Tags: map[string]string{"spiderpool.spidernet.io/cluster": "test"},
	})
	if err != nil {
		return errors.Join(append(all, err)...)
	}
	note(p.Attach(ctx, eth1.ID, instance, 1))
	for _, family := range []inet.Family{inet.IPv4, inet.IPv6} {
		pieces, err := p.Assign(ctx, cloud.Assignment{Interface: eth1.ID, Family: family, Unit: cloud.Prefixes, Count: 1})
		note(err)
		note(p.Unassign(ctx, eth1.ID, pieces))
	}
	note(p.Detach(ctx, eth1.ID))
	note(p.Delete(ctx, eth1.ID))
	return errors.Join(all...)
}

func TestPoliciesAreEnoughAndLeast(t *testing.T) {
	for mode, run := range map[string]func(ctx context.Context, p *Provider, instance, subnet, group string) error{"Discover": discover, "Changes": change} {
		policy := documented(t, mode)
		actions := allActions(t, policy)
		t.Run(mode, func(t *testing.T) {
			p, w, instance, subnet := startWithNode(t)
			w.policy(policy)
			if err := run(t.Context(), p, instance, subnet, w.group); err != nil {
				t.Fatal(err)
			}
			called := map[string]bool{}
			for action := range w.Calls() {
				called[service+action] = true
			}
			if called["ec2:CreateNetworkInterface"] {
				called["ec2:CreateTags"] = true // the permission to create with tags
			}
			if diff := cmp.Diff(called, actions); diff != "" {
				t.Errorf("calls and policy differ (-calls +policy):\n%s", diff)
			}
		})
		for action := range maps.Keys(actions) {
			t.Run(mode+" without "+action, func(t *testing.T) {
				p, w, instance, subnet := startWithNode(t)
				w.policy(withoutAction(t, policy, action))
				err := run(t.Context(), p, instance, subnet, w.group)
				if refused, ok := errors.AsType[*cloud.Error](err); !ok || refused.Kind != cloud.Permission || refused.Action != action {
					t.Errorf("error %v, want the permission %s", err, action)
				}
			})
		}
	}
}

var (
	cidrIPv4 = netip.MustParsePrefix("10.0.1.0/24")
	cidrIPv6 = netip.MustParsePrefix("2001:db8:0:1::/64")
)

// startWithNode returns a fake EC2 with one node.
func startWithNode(t *testing.T) (p *Provider, w *world, instance, subnet string) {
	p, w = start(t)
	subnet = w.AddSubnet("eu-central-1a", nil, cidrIPv4, cidrIPv6)
	return p, w, w.AddInstance("m5.large", subnet), subnet
}

func TestChangesSpareForeignInterfaces(t *testing.T) {
	p, w, instance, subnet := startWithNode(t)
	foreign := w.AddInterface(ec2test.Interface{Subnet: subnet, Tags: map[string]string{"spiderpool.spidernet.io/cluster": "other"}})
	w.policy(documented(t, "Changes"))
	for method, err := range map[string]error{
		"Attach": p.Attach(t.Context(), foreign, instance, 1),
		"Delete": p.Delete(t.Context(), foreign),
	} {
		if kind := cloud.KindOf(err); err == nil || kind != cloud.Permission {
			t.Errorf("%s of a foreign interface: %v, want a refused permission", method, err)
		}
	}
	if _, err := p.Create(t.Context(), cloud.NewInterface{Subnet: subnet, SecurityGroups: []string{w.group}}); err == nil {
		t.Error("an interface without the tag of the cluster was created")
	}
	if !slices.ContainsFunc(w.Cloud.Interfaces(""), func(i ec2test.Interface) bool { return i.ID == foreign }) {
		t.Error("the foreign interface is gone")
	}
}
