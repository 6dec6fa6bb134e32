package console

import (
	"maps"
	"net"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"spiderpool.dev/spiderpool/internal/view"
)

type searchContent struct {
	Text      string
	Addresses []view.Address
	Pools     []view.Pool
	Nodes     []string
	Pods      []string
	Who       *addressContent
	// Cut is whether there are more results, and Nothing whether there is none.
	Cut, Nothing bool
}

func (searchContent) title() string { return "Search" }

// maxFound limits the results of each kind.
const maxFound = 100

// searchPage finds an address, a MAC address, or a part of the name of a pod, node or pool. It asks for the rights of the user
// before it compares the text: neither the time of the answer nor the reviews tell of a match in a hidden namespace.
func (s *site) searchPage(v *visit) (any, error) {
	c := searchContent{Text: strings.TrimSpace(v.URL.Query().Get("q"))}
	if c.Text == "" {
		return c, nil
	}
	if addr, ok := parseAddr(c.Text); ok && v.sight.pools() {
		who := v.who(addr)
		c.Who = &who
		return c, nil
	}
	if mac, err := net.ParseMAC(c.Text); err == nil {
		seen := v.permitted("", v.sight.holders)
		for _, a := range v.state.WithMAC(mac) {
			if seen(namespaceOf(a)) {
				c.Addresses = append(c.Addresses, a)
			}
		}
	} else {
		v.find(&c)
	}
	c.Nothing = len(c.Addresses)+len(c.Pools)+len(c.Nodes)+len(c.Pods) == 0
	return c, nil
}

func (v *visit) find(c *searchContent) {
	part := strings.ToLower(c.Text)
	if v.sight.pools() {
		for _, p := range v.state.Pools() {
			if strings.Contains(p.Name, part) && len(c.Pools) < maxFound {
				c.Pools = append(c.Pools, p)
			}
		}
	}
	if v.sight.nodes() {
		for name := range v.nodes {
			if strings.Contains(name, part) {
				c.Nodes = append(c.Nodes, name)
			}
		}
	}
	seen := v.permitted(part, v.sight.pods)
	for key := range v.pods {
		if seen(key.Namespace) && strings.Contains(key.String(), part) {
			c.Pods = append(c.Pods, key.String())
		}
	}
	slices.Sort(c.Nodes)
	slices.Sort(c.Pods)
	c.Cut = max(len(c.Nodes), len(c.Pods)) > maxFound || len(c.Pools) == maxFound
	c.Nodes, c.Pods = c.Nodes[:min(len(c.Nodes), maxFound)], c.Pods[:min(len(c.Pods), maxFound)]
}

// permitted asks about every namespace, and first about that of a text such as "shop/web", whether it exists or not: the number
// of questions has a limit. The returned function asks nothing.
func (v *visit) permitted(text string, may func(namespace string) bool) func(namespace string) bool {
	if may("") {
		return func(string) bool { return true }
	}
	all, seen := map[string]bool{}, map[string]bool{}
	for name := range v.namespaces {
		all[name] = true
	}
	for key := range v.pods { // the watch of namespaces may be behind
		all[key.Namespace] = true
	}
	names := slices.Sorted(maps.Keys(all))
	if name, _, named := strings.Cut(text, "/"); named && len(validation.IsDNS1123Label(name)) == 0 {
		names = append([]string{name}, names...)
	}
	for _, name := range names {
		seen[name] = may(name)
	}
	return func(namespace string) bool { return seen[namespace] }
}
