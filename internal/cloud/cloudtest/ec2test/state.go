package ec2test

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// state is everything that the cloud knows. Its entities are immutable: a change replaces them in a copy of the maps, so
// that an older state stays readable, and a refused change leaves no trace.
type state struct {
	vpcs       map[string]*VPC
	subnets    map[string]*Subnet
	groups     map[string]*SecurityGroup
	interfaces map[string]*Interface
	instances  map[string]*Instance
	tokens     map[string]createdBy // client tokens
	serial     int                  // of the last ID
}

// createdBy is the result of a request with a client token.
type createdBy struct {
	request string // the parameters, to tell a repetition from another request
	id      string
}

func emptyState() *state {
	return &state{
		vpcs: map[string]*VPC{}, subnets: map[string]*Subnet{}, groups: map[string]*SecurityGroup{},
		interfaces: map[string]*Interface{}, instances: map[string]*Instance{}, tokens: map[string]createdBy{},
	}
}

func (s *state) clone() *state {
	return &state{
		vpcs: maps.Clone(s.vpcs), subnets: maps.Clone(s.subnets), groups: maps.Clone(s.groups),
		interfaces: maps.Clone(s.interfaces), instances: maps.Clone(s.instances), tokens: maps.Clone(s.tokens),
		serial: s.serial,
	}
}

// newID returns an unused ID, e.g. eni-00000000000000001.
func (s *state) newID(prefix string) string {
	s.serial++
	return fmt.Sprintf("%s-%017x", prefix, s.serial)
}

// newMAC returns an unused MAC address. Like EC2's, it is a local one.
func (s *state) newMAC() string {
	s.serial++
	return fmt.Sprintf("0a:58:%02x:%02x:%02x:%02x", byte(s.serial>>24), byte(s.serial>>16), byte(s.serial>>8), byte(s.serial))
}

// find returns the resource with an ID, or an error that names the ID.
func find[T any](resources map[string]*T, id string) (*T, *Error) {
	if r, ok := resources[id]; ok {
		return r, nil
	}
	return nil, missing(id)
}

// sorted returns the resources by ID.
func sorted[T any](resources map[string]*T) []*T {
	var list []*T
	for _, id := range slices.Sorted(maps.Keys(resources)) {
		list = append(list, resources[id])
	}
	return list
}

// of returns the interfaces of an instance by device index.
func (s *state) of(instance string) []*Interface {
	var list []*Interface
	for _, i := range s.interfaces {
		if i.Attachment != nil && i.Attachment.Instance == instance {
			list = append(list, i)
		}
	}
	slices.SortFunc(list, func(a, b *Interface) int {
		return cmp.Or(cmp.Compare(a.Attachment.Device, b.Attachment.Device), strings.Compare(a.ID, b.ID))
	})
	return list
}

// limits returns the type of the instance that has an interface; ok is false for an interface without an instance.
func (s *state) limits(i *Interface) (Type, bool) {
	if i.Attachment == nil {
		return Type{}, false
	}
	instance, ok := s.instances[i.Attachment.Instance]
	if !ok {
		return Type{}, false
	}
	return typeNamed(instance.Type)
}

// at returns the state with the attachments removed whose detachment is complete at a time.
func (s *state) at(now time.Time) *state {
	var ended []*Interface
	for _, i := range s.interfaces {
		if a := i.Attachment; a != nil && !a.until.IsZero() && !now.Before(a.until) {
			ended = append(ended, i)
		}
	}
	if len(ended) == 0 {
		return s
	}
	s = s.clone()
	for _, i := range ended {
		free := i.clone()
		free.Attachment = nil
		s.interfaces[i.ID] = free
	}
	return s
}

// vanish ends an instance and forgets it.
func (s *state) vanish(instance string) {
	s.release(instance)
	delete(s.instances, instance)
}

// release ends the attachments of an instance. Interfaces that were created with it, or that were marked, are deleted;
// the others become available.
func (s *state) release(instance string) {
	for _, i := range s.of(instance) {
		if i.Attachment.DeleteOnTermination {
			delete(s.interfaces, i.ID)
			continue
		}
		free := i.clone()
		free.Attachment = nil
		s.interfaces[i.ID] = free
	}
}

// retagged replaces a resource by one with other tags. Older states keep the former.
func retagged[T any](all map[string]*T, id string, tagsOf func(*T) *map[string]string, change func(map[string]string)) {
	n := *all[id]
	tags := tagsOf(&n)
	*tags = changed(*tags, change)
	all[id] = &n
}

// retag changes the tags of a resource.
func (s *state) retag(id string, change func(tags map[string]string)) *Error {
	switch {
	case s.interfaces[id] != nil:
		i := s.interfaces[id].clone()
		i.Tags = changed(i.Tags, change)
		s.interfaces[id] = i
	case s.subnets[id] != nil:
		retagged(s.subnets, id, func(n *Subnet) *map[string]string { return &n.Tags }, change)
	case s.instances[id] != nil:
		retagged(s.instances, id, func(n *Instance) *map[string]string { return &n.Tags }, change)
	case s.vpcs[id] != nil:
		retagged(s.vpcs, id, func(n *VPC) *map[string]string { return &n.Tags }, change)
	case s.groups[id] != nil:
		retagged(s.groups, id, func(n *SecurityGroup) *map[string]string { return &n.Tags }, change)
	default:
		return missing(id)
	}
	return nil
}

// tags returns the tags of every resource by its ID.
func (s *state) tags() map[string]map[string]string {
	all := map[string]map[string]string{}
	for id, r := range s.vpcs {
		all[id] = r.Tags
	}
	for id, r := range s.subnets {
		all[id] = r.Tags
	}
	for id, r := range s.groups {
		all[id] = r.Tags
	}
	for id, r := range s.instances {
		all[id] = r.Tags
	}
	for id, r := range s.interfaces {
		all[id] = r.Tags
	}
	return all
}

// changed returns a changed copy of tags.
func changed(tags map[string]string, change func(map[string]string)) map[string]string {
	tags = maps.Clone(tags)
	if tags == nil {
		tags = map[string]string{}
	}
	change(tags)
	return tags
}

// owner returns the interface that has an address of a subnet, itself or within a prefix.
func (s *state) owner(subnet string, a netip.Addr) *Interface {
	for _, i := range s.interfaces {
		if i.Subnet == subnet && slices.ContainsFunc(i.ranges(), func(p netip.Prefix) bool { return p.Contains(a) }) {
			return i
		}
	}
	return nil
}
