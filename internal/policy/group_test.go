package policy_test

import (
	"slices"
	"testing"

	"spiderpool.dev/spiderpool/internal/policy"
	"spiderpool.dev/spiderpool/internal/service"
)

// Controllers and agents of different releases find one group by its name.
func TestGroupNamesNeverChange(t *testing.T) {
	web := policy.Selector{{Key: "app", Values: []string{"web"}}}
	seen := map[string]string{}
	for _, tc := range []struct {
		group      policy.Group
		text, name string
	}{
		{policy.Group{Namespaces: policy.Selector{}}, "all pods in all namespaces", "55d162ccd682aea44068c8f088fc138784ade490"},
		{policy.Group{Namespace: "shop", Pods: web}, "pods app=web in its namespace shop", "b8398cc2a4c0d1acffcb9154bbf278040c77a2c4"},
		{policy.Group{Namespaces: policy.Selector{{Key: "team", Operator: policy.Exists}}, Pods: web}, "pods app=web in namespaces team", "e4e2ce2c49d80c14ebf5263d593370665731c258"},
		{policy.Group{Namespace: "shop", Pods: policy.Selector{{Key: "app", Operator: policy.NotIn, Values: []string{"web"}}}}, "pods app notin (web) in its namespace shop", "95b69f1fbef56392dce83ccd529649481d44f411"},
		{policy.Group{Namespace: "shop", Port: "http"}, "all pods in its namespace shop with port http", "eef3aae41f5f1aa708ee752fec61a7982ba3411f"},
		{policy.Group{Namespace: "shop", Networks: []policy.Name{{Namespace: "shop", Name: "storage"}, {Namespace: "shop", Name: "backup"}}},
			"all pods in its namespace shop on networks shop/storage, shop/backup", "fdec3827d7452514c004b9bb973543586e80538c"},
	} {
		if got := tc.group.String(); got != tc.text {
			t.Errorf("%q, want %q", got, tc.text)
		}
		if got := tc.group.Name(); got != tc.name {
			t.Errorf("%s has name %s, want %s", tc.text, got, tc.name)
		}
		if other := seen[tc.group.Name()]; other != "" {
			t.Errorf("%s and %s have one name", tc.text, other)
		}
		seen[tc.group.Name()] = tc.text
	}
}

func TestPolicyNamesItsGroups(t *testing.T) {
	web, db := policy.Selector{{Key: "app", Values: []string{"web"}}}, policy.Selector{{Key: "app", Values: []string{"db"}}}
	named, numbered := policy.Port{Protocol: service.TCP, Name: "http"}, policy.Port{Protocol: service.TCP, From: 80, To: 80}
	for _, tc := range []struct {
		name string
		rule policy.Rule
		want []string // of egress
	}{
		{"a selector", policy.Rule{AnyPort: true, Peers: []policy.Peer{{Pods: &web}, {Pods: &web}}}, []string{"pods app=web in its namespace n"}},
		{"two selectors", policy.Rule{Ports: []policy.Port{numbered}, Peers: []policy.Peer{{Pods: &web}, {Namespaces: &db}}}, []string{"all pods in namespaces app=db", "pods app=web in its namespace n"}},
		{"a block", policy.Rule{AnyPort: true, Peers: []policy.Peer{{Block: &policy.Block{}}}}, nil},
		{"an invalid peer", policy.Rule{AnyPort: true, Peers: []policy.Peer{{}}}, nil},
		{"anyone", policy.Rule{AnyPeer: true, AnyPort: true}, nil},
		{"anyone with a named port", policy.Rule{AnyPeer: true, Ports: []policy.Port{named}}, []string{"all pods in all namespaces with port http"}},
		{"a block with a named port", policy.Rule{Ports: []policy.Port{named}, Peers: []policy.Peer{{Block: &policy.Block{}}}}, []string{"all pods in all namespaces with port http"}},
		{"a selector with a named port", policy.Rule{Ports: []policy.Port{named, numbered}, Peers: []policy.Peer{{Pods: &web}}}, []string{"pods app=web in its namespace n", "pods app=web in its namespace n with port http"}},
	} {
		p := &policy.Policy{Name: policy.Name{Namespace: "n", Name: "p"}, Egress: policy.Section{Isolates: true, Rules: []policy.Rule{tc.rule}}}
		if got := texts(p.Groups()); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
		p.Egress.Isolates = false
		if got := texts(p.Groups()); len(got) > 0 {
			t.Errorf("%s: rules without effect need %q", tc.name, got)
		}
	}
}

func texts(groups []policy.Group) (all []string) {
	for _, g := range groups {
		all = append(all, g.String())
	}
	slices.Sort(all)
	return all
}
