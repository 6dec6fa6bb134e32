package iaas

import (
	"context"
	"errors"
	"net/netip"
	"strings"

	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/inet"
)

// The requests of the service, below /v1/iaas.network.io/ipam/.
const (
	allocate           = "allocate-ips"
	release            = "release-ip"
	describeInstances  = "describe-instances"
	describeInterfaces = "describe-interfaces"
	describeSubnets    = "describe-subnets"
	describeTypes      = "describe-types"
)

type instance struct {
	ID         string  `json:"id"`
	Type       string  `json:"type"`
	Zone       string  `json:"zone"`
	Subnet     string  `json:"subnet"`
	Interfaces []iface `json:"interfaces"`
}

type iface struct {
	ID             string            `json:"id"`
	MAC            string            `json:"mac"`
	Device         int               `json:"device"`
	Subnet         string            `json:"subnet"`
	SecurityGroups []string          `json:"securityGroups,omitempty"`
	Primary        []netip.Addr      `json:"primary"`
	Assigned       []netip.Prefix    `json:"assigned"`
	Fixed          []netip.Prefix    `json:"-"` // of the controller
	Tags           map[string]string `json:"tags,omitempty"`
	Attached       string            `json:"attached,omitempty"`
	Survives       bool              `json:"-"` // of interfaces that a provider creates
}

type subnet struct {
	ID       string            `json:"id"`
	Zone     string            `json:"zone"`
	CIDRs    []netip.Prefix    `json:"cidrs"`
	Free     int               `json:"free"`
	Reserved []reservation     `json:"reserved,omitempty"`
	Tags     map[string]string `json:"tags,omitempty"`
}

type reservation struct {
	CIDR     netip.Prefix `json:"cidr"`
	Prefixes bool         `json:"prefixes"`
}

type limits struct {
	Interfaces int  `json:"interfaces"`
	IPv4       int  `json:"ipv4"`
	IPv6       int  `json:"ipv6"`
	Prefixes   bool `json:"prefixes"`
}

type query struct {
	IDs       []string          `json:"ids,omitempty"`
	Instances []string          `json:"instances,omitempty"`
	Tags      map[string]string `json:"tags,omitempty"`
}

type assignment struct {
	Interface string         `json:"interface"`
	Family    string         `json:"family"`
	Unit      cloud.Unit     `json:"unit"`
	Count     int            `json:"count,omitempty"`
	Exact     []netip.Prefix `json:"exact,omitempty"`
	Move      bool           `json:"move,omitempty"`
}

type pieces struct {
	Interface string         `json:"interface,omitempty"`
	Pieces    []netip.Prefix `json:"pieces"`
}

type described struct {
	Instances  []instance        `json:"instances,omitempty"`
	Interfaces []iface           `json:"interfaces,omitempty"`
	Subnets    []subnet          `json:"subnets,omitempty"`
	Types      map[string]limits `json:"types,omitempty"`
}

// maxIDs is the number of IDs in one request.
const maxIDs = 500

// Instances implements cloud.Provider.
func (p *Provider) Instances(ctx context.Context, ids []string) (found []cloud.Instance, err error) {
	for start := 0; start < len(ids); start += maxIDs {
		var answer described
		if err := p.post(ctx, describeInstances, query{IDs: ids[start:min(start+maxIDs, len(ids))]}, &answer); err != nil {
			return nil, err
		}
		for _, i := range answer.Instances {
			found = append(found, i.value())
		}
	}
	return found, nil
}

// Interfaces implements cloud.Provider.
func (p *Provider) Interfaces(ctx context.Context, q cloud.Query) (found []cloud.Interface, err error) {
	if q.Empty() {
		return nil, nil
	}
	var answer described
	if err := p.post(ctx, describeInterfaces, query(q), &answer); err != nil {
		return nil, err
	}
	for _, i := range answer.Interfaces {
		found = append(found, i.value())
	}
	return found, nil
}

// Subnets implements cloud.Provider.
func (p *Provider) Subnets(ctx context.Context, ids []string, tags map[string]string) (found []cloud.Subnet, err error) {
	if len(ids) == 0 && len(tags) == 0 {
		return nil, nil
	}
	q := query{IDs: ids}
	if len(ids) == 0 {
		q.Tags = tags
	}
	var answer described
	if err := p.post(ctx, describeSubnets, q, &answer); err != nil {
		return nil, err
	}
	for _, s := range answer.Subnets {
		value := cloud.Subnet{ID: s.ID, Zone: s.Zone, CIDRs: s.CIDRs, Free: s.Free, Tags: s.Tags}
		for _, r := range s.Reserved {
			value.Reserved = append(value.Reserved, cloud.Reservation(r))
		}
		found = append(found, value)
	}
	return found, nil
}

// Limits implements cloud.Provider.
func (p *Provider) Limits(ctx context.Context, types []string) (map[string]cloud.Limits, error) {
	found := map[string]cloud.Limits{}
	if len(types) == 0 {
		return found, nil
	}
	var answer described
	if err := p.post(ctx, describeTypes, query{IDs: types}, &answer); err != nil {
		return nil, err
	}
	for name, l := range answer.Types {
		found[name] = cloud.Limits(l)
	}
	return found, nil
}

// Assign implements cloud.Provider.
func (p *Provider) Assign(ctx context.Context, a cloud.Assignment) ([]netip.Prefix, error) {
	if (a.Count > 0) == (len(a.Exact) > 0) || a.Family != inet.IPv4 && a.Family != inet.IPv6 {
		return nil, &cloud.Error{Kind: cloud.Invalid, Action: allocate, Err: errors.New("give an IP family, and either a number of pieces or the pieces")}
	}
	in := assignment{a.Interface, a.Family.String(), a.Unit, a.Count, a.Exact, a.Move}
	var answer pieces
	if err := p.post(ctx, allocate, in, &answer); err != nil {
		return nil, explained(err, a)
	}
	if err := checkPieces(answer.Pieces, a); err != nil {
		return nil, &cloud.Error{Kind: cloud.Unknown, Action: allocate, Err: err}
	}
	return answer.Pieces, nil
}

// Unassign implements cloud.Provider.
func (p *Provider) Unassign(ctx context.Context, id string, old []netip.Prefix) error {
	if len(old) == 0 {
		return nil
	}
	return p.post(ctx, release, pieces{id, old}, &struct{}{})
}

func (i instance) value() cloud.Instance {
	value := cloud.Instance{ID: i.ID, Type: i.Type, Zone: i.Zone, Subnet: i.Subnet}
	for _, n := range i.Interfaces {
		n.Attached = i.ID
		value.Interfaces = append(value.Interfaces, n.value())
	}
	return value
}

func (i iface) value() cloud.Interface {
	value := cloud.Interface(i)
	value.MAC = strings.ToLower(i.MAC)
	return value
}
