package console

import (
	"context"
	"strings"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/tokenauth"
	"spiderpool.dev/spiderpool/internal/lease"
	"spiderpool.dev/spiderpool/internal/view"
)

// maxNamespaces limits the namespaces that one page asks about. A user with the right for all namespaces needs one question.
const maxNamespaces = 500

// sight is the part of the cluster that one user may see, for one page. A right that the API server does not confirm is none.
type sight struct {
	ctx    context.Context
	access access
	user   tokenauth.User
	asked  map[tokenauth.Right]bool
	// err is the first error of the API server, and cut whether there were too many namespaces.
	err error
	cut bool
}

func newSight(ctx context.Context, access access, user tokenauth.User) *sight {
	return &sight{ctx: ctx, access: access, user: user, asked: map[tokenauth.Right]bool{}}
}

func (s *sight) may(group, resource, namespace string) bool {
	right := tokenauth.Right{Group: group, Resource: resource, Namespace: namespace}
	if allowed, known := s.asked[right]; known {
		return allowed
	}
	if len(s.asked) >= maxNamespaces || s.ctx.Err() != nil { // without a reader, no further question
		s.cut = true
		return false
	}
	allowed, err := s.access.MayList(s.ctx, s.user, right)
	if err != nil && s.err == nil {
		s.err = err
	}
	s.asked[right] = allowed
	return allowed
}

// in reports whether the user may list the resource in all namespaces, or in this one.
func (s *sight) in(group, resource, namespace string) bool {
	return s.may(group, resource, "") || namespace != "" && s.may(group, resource, namespace)
}

var ours = v2beta1.GroupVersion.Group

func (s *sight) pools() bool { return s.may(ours, "spiderippools", "") }
func (s *sight) nodes() bool { return s.may("", "nodes", "") }

func (s *sight) pods(namespace string) bool   { return s.in("", "pods", namespace) }
func (s *sight) events(namespace string) bool { return s.in("", "events", namespace) }

// networks reports whether the user may see the NetworkAttachmentDefinitions in a namespace.
func (s *sight) networks(namespace string) bool {
	return s.in("k8s.cni.cncf.io", "network-attachment-definitions", namespace)
}

// everyHolder reports whether the user may see the leases of all namespaces.
func (s *sight) everyHolder() bool { return s.may(ours, "spideripblocks", "") }

// holders reports whether the user may see the addresses of the pods in a namespace.
func (s *sight) holders(namespace string) bool {
	return s.everyHolder() || namespace != "" && s.in(ours, "spiderendpoints", namespace)
}

// sees reports whether the user may see the holder of an address.
func (s *sight) sees(a view.Address) bool { return s.holders(namespaceOf(a)) }

// namespaceOf returns the namespace of the holder, "" if it has none.
func namespaceOf(a view.Address) string {
	if namespace := lease.ParsePodKey(a.Pod).Namespace; namespace != "" {
		return namespace
	}
	return lease.ParseOwner(a.FixedFor).Namespace
}

// address returns an address without its holder, unless the user may see it.
func (s *sight) address(a view.Address) view.Address {
	if s.sees(a) {
		return a
	}
	return view.Address{Addr: a.Addr, State: a.State, Pool: a.Pool, Until: a.Until}
}

// addresses returns those whose holders the user may see, and the number of the others.
func (s *sight) addresses(all []view.Address) (seen []view.Address, hidden int) {
	for _, a := range all {
		if s.sees(a) {
			seen = append(seen, a)
		} else {
			hidden++
		}
	}
	return seen, hidden
}

// workload reports whether the user may see a workload of view.Count, e.g. "Deployment/shop/web".
func (s *sight) workload(name string) bool { return s.holders(lease.ParseOwner(name).Namespace) }

// findings returns the findings without those about addresses whose holder the user may not see.
func (s *sight) findings(all []view.Finding, of []view.Address) (seen []view.Finding) {
	hidden := map[string]bool{}
	for _, a := range of {
		if !s.sees(a) {
			hidden["address "+a.Addr.String()] = true
		}
	}
	for _, f := range all {
		if !hidden[f.Subject] {
			seen = append(seen, f)
		}
	}
	return seen
}

// flows returns the flows with an end in a namespace whose pods the user may list. The other end has its address only,
// unless the user may list its pods, too.
func (s *sight) flows(all []view.Flow) (seen []view.Flow) {
	for _, f := range all {
		source := f.Source.Pod != "" && s.pods(f.Source.Namespace)
		destination := f.Destination.Pod != "" && s.pods(f.Destination.Namespace)
		if !source && !destination {
			continue
		}
		if !source {
			f.Source = anonymous(f.Source)
		}
		if !destination {
			f.Destination = anonymous(f.Destination)
		}
		if namespace, _, _ := strings.Cut(f.Service, "/"); f.Service != "" && !s.pods(namespace) {
			f.Service = ""
		}
		if !source || !destination {
			f.By = ""
		}
		seen = append(seen, f)
	}
	return seen
}

func anonymous(e view.FlowEnd) view.FlowEnd { return view.FlowEnd{Addr: e.Addr, Port: e.Port} }
