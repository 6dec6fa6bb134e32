package cloudtest

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/inet"
)

// PolicyWorld is a World with a permission for each action.
type PolicyWorld interface {
	World
	// Permit limits the provider to a policy, a JSON document.
	Permit(document string) error
	// Used returns the permissions that the calls so far have needed, e.g. ec2:CreateTags.
	Used() map[string]bool
}

// Policies runs every call of a provider with the policies of a documentation page, and once more without each of their
// actions. The page has a policy as JSON below each of the headings Discover and Attach, with CLUSTER for the name of the cluster.
func Policies(t *testing.T, page string, start func(t *testing.T) (cloud.Provider, PolicyWorld), limits Limits) {
	begin := func(t *testing.T) (scene, PolicyWorld) {
		var w PolicyWorld
		s := setUp(t, func(t *testing.T) (p cloud.Provider, _ World) {
			p, w = start(t)
			return p, w
		}, limits)
		return s, w
	}
	for mode, run := range map[string]func(scene, context.Context) error{"Discover": scene.discover, "Attach": scene.change} {
		policy := documented(t, page, mode)
		actions := actionsOf(policy)
		t.Run(mode, func(t *testing.T) {
			s, w := begin(t)
			must(t, w.Permit(policy))
			must(t, run(s, t.Context()))
			if diff := cmp.Diff(w.Used(), actions); diff != "" {
				t.Errorf("calls and policy differ (-calls +policy):\n%s", diff)
			}
		})
		for action := range maps.Keys(actions) {
			t.Run(mode+" without "+action, func(t *testing.T) {
				s, w := begin(t)
				must(t, w.Permit(withoutAction(t, policy, action)))
				if e := wantKind(t, run(s, t.Context()), cloud.Permission); e.Action != action {
					t.Errorf("error %v, want the permission %s", e, action)
				}
			})
		}
	}
	t.Run("foreign interfaces", func(t *testing.T) {
		s, w := begin(t)
		checkForeignInterface(t, s, func() { must(t, w.Permit(documented(t, page, "Attach"))) })
	})
}

// documented returns the policy below a heading.
func documented(t *testing.T, page, heading string) string {
	t.Helper()
	content, err := os.ReadFile(page)
	must(t, err)
	match := regexp.MustCompile("(?s)\n## " + heading + "\n.*?```json\n(.*?)```").FindSubmatch(content)
	if match == nil {
		t.Fatalf("%s has no JSON below %s", page, heading)
	}
	return strings.ReplaceAll(string(match[1]), "CLUSTER", "test")
}

// actionsOf returns the actions of a policy. A condition key may look like one.
func actionsOf(policy string) map[string]bool {
	found := map[string]bool{}
	for _, action := range regexp.MustCompile(`"((?:ec2|ecs|vpc):[A-Z][A-Za-z0-9]+)"`).FindAllStringSubmatch(strings.ReplaceAll(policy, "ec2:CreateAction", ""), -1) {
		found[action[1]] = true
	}
	return found
}

// withoutAction returns a policy that also denies an action.
func withoutAction(t *testing.T, policy, action string) string {
	t.Helper()
	var document map[string]any
	must(t, json.Unmarshal([]byte(policy), &document))
	document["Statement"] = append(document["Statement"].([]any), map[string]any{"Effect": "Deny", "Action": action, "Resource": "*"})
	return string(get(json.Marshal(document))(t))
}

// discover makes every call of the mode Discover.
func (s scene) discover(ctx context.Context) error {
	return errors.Join(errorOf(s.Instances(ctx, []string{s.instance})), errorOf(s.Subnets(ctx, []string{s.subnet}, nil)))
}

// change makes every call of SpiderCloudNetworks. None of them detaches interfaces.
func (s scene) change(ctx context.Context) error {
	all := []error{s.discover(ctx), errorOf(s.Limits(ctx, []string{typeLarge})), errorOf(s.Interfaces(ctx, cloud.Query{Tags: map[string]string{cloud.TagCluster: "test"}}))}
	eth1, err := s.Create(ctx, s.owned("test"))
	if err != nil {
		return errors.Join(append(all, err)...)
	}
	all = append(all, s.Attach(ctx, eth1.ID, s.instance, 1))
	for _, family := range []inet.Family{inet.IPv4, inet.IPv6} {
		pieces, err := s.Assign(ctx, cloud.Assignment{Interface: eth1.ID, Family: family, Unit: cloud.Prefixes, Count: 1})
		all = append(all, err, s.Unassign(ctx, eth1.ID, pieces))
	}
	idle, err := s.Create(ctx, s.owned("test"))
	if err == nil {
		err = s.Delete(ctx, idle.ID)
	}
	return errors.Join(append(all, err)...)
}

// owned describes an interface of a cluster.
func (s scene) owned(cluster string) cloud.NewInterface {
	return cloud.NewInterface{Subnet: s.subnet, SecurityGroups: []string{s.SecurityGroup()}, Tags: map[string]string{cloud.TagCluster: cluster}}
}

// checkForeignInterface shows that the policy spares the interfaces of other clusters.
func checkForeignInterface(t *testing.T, s scene, limit func()) {
	ctx := t.Context()
	foreign := get(s.Create(ctx, s.owned("other")))(t)
	limit()
	wantKind(t, s.Attach(ctx, foreign.ID, s.instance, 1), cloud.Permission)
	wantKind(t, s.Delete(ctx, foreign.ID), cloud.Permission)
	untagged := s.owned("")
	untagged.Tags = nil
	wantKind(t, errorOf(s.Create(ctx, untagged)), cloud.Permission)
	s.describe(t, foreign.ID)
}
