package cli

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/kube/compile"
	"spiderpool.dev/spiderpool/internal/service"
)

// cluster has the services as one node sees them.
type cluster struct {
	node  service.Node
	table *service.Table
	// without says why a Service has no frontends.
	without map[service.Name]string
	// invalid are the parts of Services and EndpointSlices without effect.
	invalid map[service.Name][]string
	// nodePorts says whether a service in the table has a node port.
	nodePorts map[service.Name]bool
	// externalIPs is whether they are frontends, and leftExternal has the services whose external IPs are not.
	externalIPs  bool
	leftExternal map[service.Name]bool
}

// translatesExternalIPs returns the value in the configuration of this pod, or the default.
func translatesExternalIPs() bool {
	file, err := config.Load(config.DefaultPath)
	if err != nil {
		file = config.Default()
	}
	return file.Service.ExternalIPs
}

func newCluster(node service.Node, externalIPs bool) *cluster {
	return &cluster{
		node: node, table: service.NewTable(node, nil), externalIPs: externalIPs, leftExternal: map[service.Name]bool{},
		without: map[service.Name]string{}, invalid: map[service.Name][]string{}, nodePorts: map[service.Name]bool{},
	}
}

// readCluster reads all Services, because two may claim one frontend, and the EndpointSlices of one Service, or of all
// if the name is empty.
func readCluster(ctx context.Context, r reader, node string, of service.Name) (*cluster, error) {
	object, err := readKnownNode(ctx, r, node)
	if err != nil {
		return nil, err
	}
	c := newCluster(compile.ServiceNode(object), translatesExternalIPs())
	if err := r.EachService(ctx, c.addService); err != nil {
		return nil, err
	}
	if err := r.EachEndpointSlice(ctx, of, c.addSlice); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *cluster) addService(object *corev1.Service) {
	name := service.Name{Namespace: object.Namespace, Name: object.Name}
	compiled, reason, errs := compile.Service(object)
	c.addInvalid(name, "Service", object.Name, errs)
	if compiled == nil {
		c.without[name] = reason
		return
	}
	c.nodePorts[name] = false
	for _, p := range compiled.Ports {
		c.nodePorts[name] = c.nodePorts[name] || p.NodePort != 0
	}
	if !c.externalIPs && len(compiled.ExternalIPs) > 0 {
		compiled.ExternalIPs, c.leftExternal[name] = nil, true
	}
	c.table.SetService(compiled)
}

func (c *cluster) addSlice(object *discoveryv1.EndpointSlice) {
	compiled, errs := compile.EndpointSlice(object)
	if compiled == nil {
		return
	}
	c.addInvalid(service.Name{Namespace: object.Namespace, Name: compiled.Service}, "EndpointSlice", object.Name, errs)
	c.table.SetSlice(compiled)
}

func (c *cluster) addInvalid(name service.Name, kind, object string, errs field.ErrorList) {
	for _, err := range errs {
		c.invalid[name] = append(c.invalid[name], fmt.Sprintf("%s %s: %v", kind, object, err))
	}
}

// frontendView is a frontend, for users and scripts.
type frontendView struct {
	Service  string `json:"service"`
	Frontend string `json:"frontend"`
	Kind     string `json:"kind"`
	// Result is translate, refuse, or pass; other if another service has the frontend.
	Result   string   `json:"result"`
	Backends []string `json:"backends,omitempty"`
	// Affinity is the timeout of the session affinity in seconds.
	Affinity uint32 `json:"affinitySeconds,omitempty"`
	// Note gives the reason of a result other than translate.
	Note string `json:"note,omitempty"`
}

// explanation tells users where the connections to a service go.
type explanation struct {
	Service   string         `json:"service"`
	Clients   string         `json:"clients"`
	Zone      string         `json:"zone,omitempty"`
	Without   string         `json:"withoutFrontends,omitempty"` // why there are none
	Frontends []frontendView `json:"frontends,omitempty"`
	Endpoints []endpointView `json:"endpoints,omitempty"`
	Invalid   []string       `json:"invalid,omitempty"`
	Notes     []string       `json:"notes,omitempty"`
}

// endpointView is an endpoint of one service port, with the verdict on it.
type endpointView struct {
	// Set describes the port and the policy of the set, e.g. "http 80/TCP, IPv4".
	Set     string `json:"set"`
	Address string `json:"address"`
	Node    string `json:"node,omitempty"`
	Pod     string `json:"pod,omitempty"`
	Chosen  bool   `json:"chosen"`
	Why     string `json:"why,omitempty"`
}

// list returns the frontends of the services in a namespace, or of all if it is empty.
func (c *cluster) list(namespace string) []frontendView {
	all := []frontendView{}
	for _, name := range c.table.Names() {
		if namespace != "" && name.Namespace != namespace {
			continue
		}
		for _, e := range c.table.Explain(name) {
			all = append(all, c.view(name, e))
		}
	}
	return all
}

func (c *cluster) view(name service.Name, e service.Explained) frontendView {
	v := frontendView{Service: name.String(), Frontend: e.FrontendKey.String(), Kind: e.Kind.String(), Affinity: e.Timeout}
	switch {
	case e.Owner != name:
		v.Result, v.Note = "other", fmt.Sprintf("service %s has this frontend, by its kind or its age", e.Owner)
	case e.Pass != "":
		v.Result, v.Note = "pass", e.Pass
	case e.Flags&service.Refuse != 0:
		v.Result, v.Note = "refuse", noBackends(e.Set)
	default:
		v.Result = "translate"
		for _, endpoint := range e.Set.Endpoints {
			if endpoint.Verdict == service.Chosen {
				v.Backends = append(v.Backends, endpoint.At.String())
			}
		}
	}
	return v
}

func noBackends(set *service.Judged) string {
	if len(set.Endpoints) == 0 {
		return "no endpoint has this port"
	}
	if set.Local {
		return "no usable endpoint on this node, and internalTrafficPolicy is Local"
	}
	return "no endpoint is ready"
}

// explain returns the explanation for clients, e.g. "pods on node n1".
func (c *cluster) explain(name service.Name, clients string) (explanation, error) {
	x := explanation{Service: name.String(), Clients: clients, Zone: c.node.Zone, Invalid: c.invalid[name], Without: c.without[name]}
	if x.Without != "" {
		return x, nil
	}
	hasNodePort, ok := c.nodePorts[name]
	if !ok {
		return x, fmt.Errorf("there is no Service %s: kubectl get services -n %s prints all names", name, name.Namespace)
	}
	seen := map[*service.Judged]bool{}
	for _, e := range c.table.Explain(name) {
		x.Frontends = append(x.Frontends, c.view(name, e))
		if e.Set == nil || seen[e.Set] {
			continue
		}
		seen[e.Set] = true
		for _, endpoint := range e.Set.Endpoints {
			view := endpointView{
				Set: setName(e.Set), Address: endpoint.At.String(), Node: endpoint.Node, Pod: endpoint.Pod, Chosen: endpoint.Verdict == service.Chosen,
			}
			if !view.Chosen {
				view.Why = endpoint.Verdict.String()
			}
			x.Endpoints = append(x.Endpoints, view)
		}
	}
	if c.leftExternal[name] {
		x.Notes = append(x.Notes, "External IPs are not translated, because service.externalIPs is false.")
	}
	if hasNodePort {
		x.Notes = append(x.Notes, "Node ports at the addresses of other nodes pass: that node translates them, with its own endpoints only if externalTrafficPolicy is Local.")
	}
	return x, nil
}

// setName returns e.g. "http 80/TCP, IPv4, internalTrafficPolicy Local".
func setName(set *service.Judged) string {
	family := "IPv6"
	if set.IPv4 {
		family = "IPv4"
	}
	text := fmt.Sprintf("%s %d/%s, %s", set.Port.Name, set.Port.Port, set.Port.Protocol, family)
	if set.Local {
		text += ", internalTrafficPolicy Local"
	}
	if set.Preference != service.NoPreference {
		text += ", hints: " + set.Preference.String()
	}
	return strings.TrimSpace(text)
}

// describe returns the result of a frontend as one sentence.
func (v frontendView) describe() string {
	switch v.Result {
	case "translate":
		text := fmt.Sprintf("%d backends, one at random for each connection", len(v.Backends))
		if len(v.Backends) == 1 {
			text = "1 backend"
		}
		if v.Affinity > 0 {
			text = fmt.Sprintf("%d backends, one for each client until %v after its last connection", len(v.Backends), time.Duration(v.Affinity)*time.Second)
		}
		return text
	case "refuse":
		return "connections are refused: " + v.Note
	case "pass":
		return "left to the node: " + v.Note
	}
	return cmp.Or(v.Note, v.Result)
}
