package ec2test

import (
	"encoding/base64"
	"maps"
	"slices"
	"strings"

	"spiderpool.dev/spiderpool/internal/cloud/cloudtest/policytest"
)

type filter struct {
	Name   string   `query:"Name"`
	Values []string `query:"Value"`
}

// paging are the parameters that all describing actions have.
type paging struct {
	Filters []filter `query:"Filter"`
	Max     *int     `query:"MaxResults"`
	Token   string   `query:"NextToken"`
}

// resource describes how a kind of resource is listed.
type resource[T any] struct {
	all     func(s *state) map[string]*T
	tags    func(*T) map[string]string
	missing func(id string) *Error
	filters map[string]func(x *session, r *T) []string // by name
	// The bounds of MaxResults.
	least, most int
}

// listed returns the resources of a request, by ID, and the token of the next page.
//
// Like EC2, it refuses MaxResults together with IDs, unknown filters, and IDs that do not exist. Values of filters may
// contain * and ?. https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Filtering.html
func (k resource[T]) listed(x *session, ids []string, p paging) (list []*T, next string, err *Error) {
	if err := k.checked(ids, p); err != nil {
		return nil, "", err
	}
	all := k.all(x.state)
	after, err := decodeToken(p.Token)
	if err != nil {
		return nil, "", err
	}
	for _, id := range ids {
		if all[id] == nil {
			return nil, "", k.missing(id)
		}
	}
	last := ""
	for _, id := range slices.Sorted(maps.Keys(all)) {
		r := all[id]
		if id <= after || len(ids) > 0 && !slices.Contains(ids, id) || !k.matches(x, r, p.Filters) {
			continue
		}
		if p.Max != nil && len(list) == *p.Max {
			return list, encodeToken(last), nil
		}
		list, last = append(list, r), id
	}
	return list, "", nil
}

// checked returns an error for parameters that EC2 refuses.
func (k resource[T]) checked(ids []string, p paging) *Error {
	for _, f := range p.Filters {
		if k.filters[f.Name] == nil && !strings.HasPrefix(f.Name, "tag:") && f.Name != "tag-key" {
			return refuse("InvalidParameterValue", "The filter '%s' is invalid", f.Name)
		}
		// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Filtering.html: at most 200 values in a request.
		if len(f.Values) > 200 {
			return refuse("FilterLimitExceeded", "The maximum number of filter values specified on a single call is 200")
		}
	}
	switch {
	case p.Max != nil && len(ids) > 0:
		return refuse("InvalidParameterCombination", "The parameter of IDs cannot be used with the parameter maxResults")
	case p.Max != nil && (*p.Max < k.least || *p.Max > k.most):
		return refuse("InvalidParameterValue", "Value ( %d ) for parameter maxResults is invalid. Expecting a value between %d and %d.", *p.Max, k.least, k.most)
	case len(ids) > 1000:
		return refuse("InvalidParameterValue", "The number of IDs cannot exceed 1000")
	}
	return nil
}

// matches reports whether a resource passes every filter.
func (k resource[T]) matches(x *session, r *T, filters []filter) bool {
	for _, f := range filters {
		var have []string
		key, byTag := strings.CutPrefix(f.Name, "tag:")
		switch {
		case byTag:
			if value, ok := k.tags(r)[key]; ok {
				have = []string{value}
			}
		case f.Name == "tag-key":
			have = slices.Collect(maps.Keys(k.tags(r)))
		default:
			have = k.filters[f.Name](x, r)
		}
		if !slices.ContainsFunc(have, func(value string) bool {
			return slices.ContainsFunc(f.Values, func(pattern string) bool { return policytest.Wildcard(pattern, value) })
		}) {
			return false
		}
	}
	return true
}

func encodeToken(last string) string {
	return base64.URLEncoding.EncodeToString([]byte("after " + last))
}

func decodeToken(token string) (string, *Error) {
	text, err := base64.URLEncoding.DecodeString(token)
	after, ok := strings.CutPrefix(string(text), "after ")
	if token != "" && (err != nil || !ok) {
		return "", refuse("InvalidNextToken", "The token '%s' is invalid", token)
	}
	return after, nil
}

// one returns a filter over a single value.
func one[T any](value func(*T) string) func(*session, *T) []string {
	return func(_ *session, r *T) []string { return []string{value(r)} }
}

var vpcs = resource[VPC]{
	all: func(s *state) map[string]*VPC { return s.vpcs }, tags: func(v *VPC) map[string]string { return v.Tags },
	missing: missing, least: 5, most: 1000,
	filters: map[string]func(*session, *VPC) []string{
		"vpc-id": one(func(v *VPC) string { return v.ID }),
		"cidr":   one(func(v *VPC) string { return v.IPv4.String() }),
		"state":  one(func(*VPC) string { return "available" }),
	},
}

var groups = resource[SecurityGroup]{
	all: func(s *state) map[string]*SecurityGroup { return s.groups }, tags: func(g *SecurityGroup) map[string]string { return g.Tags },
	missing: missing, least: 5, most: 1000,
	filters: map[string]func(*session, *SecurityGroup) []string{
		"group-id":   one(func(g *SecurityGroup) string { return g.ID }),
		"group-name": one(func(g *SecurityGroup) string { return g.Name }),
		"vpc-id":     one(func(g *SecurityGroup) string { return g.VPC }),
	},
}

var subnets = resource[Subnet]{
	all: func(s *state) map[string]*Subnet { return s.subnets }, tags: func(n *Subnet) map[string]string { return n.Tags },
	missing: missing, least: 5, most: 1000,
	filters: map[string]func(*session, *Subnet) []string{
		"subnet-id":         one(func(n *Subnet) string { return n.ID }),
		"vpc-id":            one(func(n *Subnet) string { return n.VPC }),
		"availability-zone": one(func(n *Subnet) string { return n.Zone }),
		"cidr-block":        one(func(n *Subnet) string { return n.IPv4.String() }),
		"state":             one(func(*Subnet) string { return "available" }),
	},
}

var instances = resource[Instance]{
	all: func(s *state) map[string]*Instance { return s.instances }, tags: func(i *Instance) map[string]string { return i.Tags },
	missing: missing, least: 5, most: 1000,
	filters: map[string]func(*session, *Instance) []string{
		"instance-id":         one(func(i *Instance) string { return i.ID }),
		"instance-type":       one(func(i *Instance) string { return i.Type }),
		"instance-state-name": one(func(i *Instance) string { return i.State }),
		"subnet-id":           one(func(i *Instance) string { return i.Subnet }),
		"private-ip-address":  one(func(i *Instance) string { return i.Address.String() }),
		"private-dns-name":    func(x *session, i *Instance) []string { return []string{x.hostname(i.Address)} },
		"availability-zone":   func(x *session, i *Instance) []string { return []string{x.subnets[i.Subnet].Zone} },
		"vpc-id":              func(x *session, i *Instance) []string { return []string{x.subnets[i.Subnet].VPC} },

		"network-interface.network-interface-id": func(x *session, i *Instance) (ids []string) {
			for id, n := range x.interfaces {
				if n.Attachment != nil && n.Attachment.Instance == i.ID {
					ids = append(ids, id)
				}
			}
			return ids
		},
	},
}

var interfaces = resource[Interface]{
	all: func(s *state) map[string]*Interface { return s.interfaces }, tags: func(i *Interface) map[string]string { return i.Tags },
	missing: missing, least: 5, most: 1000,
	filters: map[string]func(*session, *Interface) []string{
		"network-interface-id":         one(func(i *Interface) string { return i.ID }),
		"subnet-id":                    one(func(i *Interface) string { return i.Subnet }),
		"mac-address":                  one(func(i *Interface) string { return i.MAC }),
		"description":                  one(func(i *Interface) string { return i.Description }),
		"interface-type":               one(func(*Interface) string { return "interface" }),
		"status":                       func(x *session, i *Interface) []string { return []string{x.status(i)} },
		"vpc-id":                       func(x *session, i *Interface) []string { return []string{x.subnets[i.Subnet].VPC} },
		"availability-zone":            func(x *session, i *Interface) []string { return []string{x.subnets[i.Subnet].Zone} },
		"group-id":                     func(_ *session, i *Interface) []string { return i.Groups },
		"addresses.private-ip-address": func(_ *session, i *Interface) []string { return texts(i.IPv4) },
		"private-ip-address":           func(_ *session, i *Interface) []string { return texts(i.IPv4[:min(1, len(i.IPv4))]) },
		"ipv6-addresses.ipv6-address":  func(_ *session, i *Interface) []string { return texts(i.IPv6) },
		"attachment.attachment-id":     attachmentFilter(func(_ *session, a *Attachment) string { return a.ID }),
		"attachment.instance-id":       attachmentFilter(func(_ *session, a *Attachment) string { return a.Instance }),
		"attachment.device-index":      attachmentFilter(func(_ *session, a *Attachment) string { return number(a.Device) }),
		"attachment.status":            attachmentFilter(func(x *session, a *Attachment) string { return a.status(x.now) }),
	},
}

func attachmentFilter(value func(*session, *Attachment) string) func(*session, *Interface) []string {
	return func(x *session, i *Interface) []string {
		if i.Attachment == nil {
			return nil
		}
		return []string{value(x, i.Attachment)}
	}
}

var types = resource[Type]{
	all: func(*state) map[string]*Type {
		byName := map[string]*Type{}
		for i := range Types {
			byName[Types[i].Name] = &Types[i]
		}
		return byName
	},
	tags: func(*Type) map[string]string { return nil },
	missing: func(name string) *Error {
		return refuse("InvalidInstanceType", "The following supplied instance types do not exist: [%s]", name)
	},
	least: 5, most: 100,
	filters: map[string]func(*session, *Type) []string{
		"instance-type": one(func(t *Type) string { return t.Name }),
		"hypervisor":    one(func(t *Type) string { return t.hypervisor() }),
	},
}
