package pool

import (
	"fmt"
	"slices"
	"strings"

	"spiderpool.dev/spiderpool/api/names"
	"spiderpool.dev/spiderpool/internal/inet"
)

// Cause classifies a Rejection.
type Cause string

// Causes of a Rejection.
const (
	CauseUnknown     Cause = "unknown"     // no such pool
	CauseInvalid     Cause = "invalid"     // the resource breaks a rule
	CauseTerminating Cause = "terminating" // the pool is being deleted
	CauseDisabled    Cause = "disabled"    // spec.disable
	CauseForeign     Cause = "foreign"     // status.allocatedIPs of another release
	CauseVersion     Cause = "version"     // the other IP family
	CauseNotDefault  Cause = "not-default" // not named, and spec.default is false
	CauseNode        Cause = "node"        // spec.nodeName, spec.nodeAffinity
	CauseNamespace   Cause = "namespace"   // spec.namespaceName, spec.namespaceAffinity
	CausePod         Cause = "pod"         // spec.podAffinity
	CauseMultus      Cause = "multus"      // spec.multusName
	CauseMaster      Cause = "master"      // match_master_subnet
	CauseEmpty       Cause = "empty"       // all addresses excluded or reserved
)

// Rejection is the reason for not using a pool.
type Rejection struct {
	Pool   string
	Cause  Cause
	Reason string // "spec.nodeName [worker1] does not include the pod's node master"
}

// NoPoolError means that no pool can serve an interface. It holds the rejection of
// every considered pool.
type NoPoolError struct {
	Interface  string
	Family     inet.Family
	Source     Source
	Rejections []Rejection
}

// Error names every considered pool with the reason for its rejection.
func (e *NoPoolError) Error() string {
	if e.Source == SourceNone {
		const none = "the pod, its namespace and the CNI configuration name no SpiderIPPool, and no SpiderIPPool has spec.default: true"
		if len(e.Rejections) == 0 {
			return fmt.Sprintf("interface %s: %s", e.Interface, none)
		}
		return fmt.Sprintf("interface %s: %s: %s", e.Interface, none, FormatRejections(e.Rejections))
	}
	if len(e.Rejections) == 0 {
		return fmt.Sprintf("interface %s: the %s names no SpiderIPPool for it, and neither do the pod's namespace and the CNI configuration", e.Interface, e.Source)
	}
	return fmt.Sprintf("interface %s: no SpiderIPPool can provide an %s address (source: %s): %s", e.Interface, e.Family, e.Source, FormatRejections(e.Rejections))
}

// NoPools are the errors of all interfaces and IP families of a pod.
type NoPools []*NoPoolError

// Error joins the errors with "; ".
func (e NoPools) Error() string {
	texts := make([]string, len(e))
	for i, one := range e {
		texts[i] = one.Error()
	}
	return strings.Join(texts, "; ")
}

// Unwrap returns the errors, for errors.As.
func (e NoPools) Unwrap() []error {
	errs := make([]error, len(e))
	for i, one := range e {
		errs[i] = one
	}
	return errs
}

// maxRejections bounds the rejections in a text.
const maxRejections = 100

// FormatRejections returns the rejections in one line, "a: reason; b: reason", and only
// the number of those after the first 100.
func FormatRejections(rejections []Rejection) string {
	var texts []string
	for _, rejection := range rejections[:min(len(rejections), maxRejections)] {
		texts = append(texts, rejection.Pool+": "+rejection.Reason)
	}
	if more := len(rejections) - maxRejections; more > 0 {
		texts = append(texts, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(texts, "; ")
}

// filter returns the rejection of p for the request, and false if p is usable.
func filter(c *Catalog, p *Pool, req *Request, family inet.Family) (Rejection, bool) {
	for _, check := range []func(*Pool, *Request) (Cause, string){
		func(p *Pool, _ *Request) (Cause, string) { return p.checkState(family) },
		checkNode, checkNamespace, checkPod, checkMultus, checkMaster,
	} {
		if cause, reason := check(p, req); reason != "" {
			return Rejection{p.Name, cause, reason}, true
		}
	}
	if c.Usable(p.Name).IsEmpty() {
		return Rejection{p.Name, CauseEmpty, p.emptyReason()}, true
	}
	return Rejection{}, false
}

func (p *Pool) checkState(family inet.Family) (Cause, string) {
	switch {
	case p.Invalid != "":
		return CauseInvalid, "it is invalid: " + shorten(p.Invalid)
	case p.Family != family:
		return CauseVersion, fmt.Sprintf("the pool is %s, but the interface needs %s", p.Family, family)
	case p.Terminating:
		return CauseTerminating, "it is being deleted"
	case p.Disabled:
		return CauseDisabled, "spec.disable is true"
	case p.Foreign != "":
		return CauseForeign, fmt.Sprintf("status.allocatedIPs has %s of another Spiderpool release, which this release would give to other pods; delete these pods, then clear the status", p.Foreign)
	}
	return "", ""
}

func (p *Pool) emptyReason() string {
	if p.IPs.IsEmpty() {
		return "spec.ips is empty"
	}
	return fmt.Sprintf("all addresses of spec.ips [%s] are excluded by spec.excludeIPs, a gateway of the subnet, a next hop of spec.routes, the subnet's network and broadcast addresses, the node's own addresses or a SpiderReservedIP",
		strings.Join(p.IPs.Strings(), " "))
}

func checkNode(p *Pool, req *Request) (Cause, string) {
	if len(p.NodeNames) > 0 {
		if slices.Contains(p.NodeNames, req.Node.Name) {
			return "", ""
		}
		// Every pool of another node gives this rejection, so it avoids Sprintf.
		return CauseNode, "spec.nodeName " + list(p.NodeNames) + " does not include the pod's node " + req.Node.Name
	}
	if unmet, ok := p.NodeAffinity.unmet(lookup(req.Node.Labels)); ok {
		return CauseNode, fmt.Sprintf("spec.nodeAffinity requires %s of the pod's node %s", unmet, req.Node.Name)
	}
	return "", ""
}

// BoundTo reports whether the pool is restricted to certain nodes, including this
// one.
func (p *Pool) BoundTo(node NodeFacts) bool {
	if len(p.NodeNames) == 0 && p.NodeAffinity == nil {
		return false
	}
	_, reason := checkNode(p, &Request{Node: node})
	return reason == ""
}

// OpenTo returns "" if pods on the node may use the pool, as far as the pool's state and its node decide. Otherwise it
// returns the reason, like a Rejection.
func (p *Pool) OpenTo(node NodeFacts) string {
	if _, reason := p.checkState(p.Family); reason != "" {
		return reason
	}
	_, reason := checkNode(p, &Request{Node: node})
	return reason
}

func checkNamespace(p *Pool, req *Request) (Cause, string) {
	if len(p.NamespaceNames) > 0 {
		if slices.Contains(p.NamespaceNames, req.Namespace.Name) {
			return "", ""
		}
		return CauseNamespace, fmt.Sprintf("spec.namespaceName %s does not include the pod's namespace %s", list(p.NamespaceNames), req.Namespace.Name)
	}
	if unmet, ok := p.NamespaceAffinity.unmet(lookup(req.Namespace.Labels)); ok {
		return CauseNamespace, fmt.Sprintf("spec.namespaceAffinity requires %s of the pod's namespace %s", unmet, req.Namespace.Name)
	}
	return "", ""
}

func checkPod(p *Pool, req *Request) (Cause, string) {
	if unmet, ok := p.PodAffinity.unmet(req.Pod.label); ok {
		return CausePod, fmt.Sprintf("spec.podAffinity requires %s of the pod %s/%s", unmet, req.Pod.Namespace, req.Pod.Name)
	}
	return "", ""
}

func checkMultus(p *Pool, req *Request) (Cause, string) {
	if len(p.MultusNames) == 0 {
		return "", ""
	}
	for _, name := range p.MultusNames {
		if req.Attachment.matches(name) {
			return "", ""
		}
	}
	if req.Attachment == (NetworkAttachment{}) {
		return CauseMultus, fmt.Sprintf("spec.multusName %s: interface %s has no network attachment", list(p.MultusNames), req.Interface)
	}
	return CauseMultus, fmt.Sprintf("spec.multusName %s does not include %s, the network attachment of interface %s",
		list(p.MultusNames), req.Attachment, req.Interface)
}

func checkMaster(p *Pool, req *Request) (Cause, string) {
	if !req.MatchMasterSubnet || slices.Contains(req.MasterSubnets, p.Subnet) {
		return "", ""
	}
	texts := make([]string, 0, len(req.MasterSubnets))
	for _, subnet := range req.MasterSubnets {
		texts = append(texts, subnet.String())
	}
	return CauseMaster, fmt.Sprintf("match_master_subnet: spec.subnet %s is not a network of the master interface %s", p.Subnet, list(texts))
}

// matches reports whether an entry of spec.multusName selects a: "namespace/name", or
// "name" for any namespace.
func (a NetworkAttachment) matches(entry string) bool {
	if a == (NetworkAttachment{}) {
		return false
	}
	if namespace, name, ok := strings.Cut(entry, "/"); ok {
		return a == NetworkAttachment{Namespace: namespace, Name: name}
	}
	return a.Name == entry
}

// label returns the value of a pod label, or of a key about its application
// (ipam.spidernet.io/app-…).
func (p *PodFacts) label(key string) (string, bool) {
	if !strings.HasPrefix(key, names.AffinityAppPrefix) {
		v, ok := p.Labels[key]
		return v, ok
	}
	if p.App == nil {
		return "", false
	}
	switch key {
	case names.AffinityAppAPIGroup:
		return p.App.APIGroup, true
	case names.AffinityAppAPIVersion:
		return p.App.APIVersion, true
	case names.AffinityAppKind:
		return p.App.Kind, true
	case names.AffinityAppNamespace:
		return p.App.Namespace, true
	case names.AffinityAppName:
		return p.App.Name, true
	}
	return "", false
}

func lookup(labels map[string]string) func(string) (string, bool) {
	return func(key string) (string, bool) { v, ok := labels[key]; return v, ok }
}

// list formats names as [a b c], with at most ten names.
func list(names []string) string {
	const most = 10
	if len(names) == 1 {
		return "[" + names[0] + "]"
	}
	texts := make([]string, 0, min(len(names), most+1))
	for i, name := range names {
		if i == most {
			texts = append(texts, fmt.Sprintf("and %d more", len(names)-most))
			break
		}
		texts = append(texts, name)
	}
	return "[" + strings.Join(texts, " ") + "]"
}
