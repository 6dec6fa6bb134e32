package service

import (
	"cmp"
	"maps"
	"slices"
)

// Table is the desired content of the maps for one node. Each change of an object returns the changes of the map
// entries, at the cost of the one service that the object concerns. A Table is not safe for concurrent use.
type Table struct {
	node     Node
	services map[Name]*record
	// sliceOf finds the record of a slice, because the label with the service's name may change.
	sliceOf map[Name]*record
	claims  map[FrontendKey]claim
	// known are IDs of an earlier Table, by frontend. Each is used again once at most.
	known  map[FrontendKey]ID
	ids    map[ID]bool
	lastID ID
}

// record is a service with its slices, either of which may be missing.
type record struct {
	name    Name
	service *Service
	slices  []*Slice // sorted by name
	// sets are those of the service, in no order.
	sets []*set
	// frontends are sorted by key. Another service may own the key.
	frontends []frontend
}

// frontend is a frontend that a record claims.
type frontend struct {
	FrontendEntry
	kind Kind
}

// claim is the state of a key that at least one record claims.
type claim struct {
	owner  *record
	others []*record
}

// NewTable returns an empty table for the node. known are the IDs in the maps of an earlier process: a frontend keeps
// its ID, and with it the affinity of its clients. It may be nil.
func NewTable(node Node, known map[FrontendKey]ID) *Table {
	t := &Table{
		node:     node,
		services: map[Name]*record{}, sliceOf: map[Name]*record{}, claims: map[FrontendKey]claim{},
		known: maps.Clone(known), ids: map[ID]bool{},
	}
	for _, id := range known {
		t.lastID = max(t.lastID, id)
	}
	return t
}

// SetService adds or replaces a service.
func (t *Table) SetService(s *Service) Diff {
	r := t.record(s.Name)
	r.service = s
	return t.update(r)
}

// DeleteService removes a service, and keeps its slices.
func (t *Table) DeleteService(name Name) Diff {
	r := t.record(name)
	r.service = nil
	return t.update(r)
}

// SetSlice adds or replaces a slice.
func (t *Table) SetSlice(s *Slice) Diff {
	r := t.record(Name{s.Name.Namespace, s.Service})
	changed := []*record{r}
	if former := t.sliceOf[s.Name]; former != nil && former != r {
		former.removeSlice(s.Name)
		changed = append(changed, former)
	}
	at, found := r.findSlice(s.Name)
	if found {
		r.slices[at] = s
	} else {
		r.slices = slices.Insert(r.slices, at, s)
	}
	t.sliceOf[s.Name] = r
	return t.update(changed...)
}

// DeleteSlice removes a slice.
func (t *Table) DeleteSlice(name Name) Diff {
	r := t.sliceOf[name]
	if r == nil {
		return Diff{}
	}
	delete(t.sliceOf, name)
	r.removeSlice(name)
	return t.update(r)
}

// SetNode replaces the node. Its name does not change. A change costs as much as all services.
func (t *Table) SetNode(node Node) Diff {
	if t.node.Zone == node.Zone && slices.Equal(t.node.Addrs, node.Addrs) {
		return Diff{}
	}
	t.node = node
	return t.update(t.sorted()...)
}

// All returns the changes from empty maps to the present state.
func (t *Table) All() Diff {
	records := t.sorted()
	d := roomFor(records)
	for _, r := range records {
		for _, s := range r.sets {
			for i, backend := range s.slots {
				d.SetBackends = append(d.SetBackends, BackendEntry{Slot{s.id, uint32(i)}, backend})
			}
			d.SetMembers = append(d.SetMembers, s.members...)
		}
		for _, f := range r.frontends {
			if t.claims[f.FrontendKey].owner == r {
				d.SetFrontends = append(d.SetFrontends, f.FrontendEntry)
			}
		}
	}
	return d
}

// roomFor returns an empty diff with room for all entries of the records: to grow step by step would take twice the memory.
func roomFor(records []*record) Diff {
	frontends, backends, members := 0, 0, 0
	for _, r := range records {
		frontends += len(r.frontends)
		for _, s := range r.sets {
			backends += len(s.slots)
			members += len(s.members)
		}
	}
	return Diff{
		SetFrontends: make([]FrontendEntry, 0, frontends),
		SetBackends:  make([]BackendEntry, 0, backends),
		SetMembers:   make([]MemberEntry, 0, members),
	}
}

// Owner returns the service that a frontend belongs to, whatever its kind.
func (t *Table) Owner(key FrontendKey) (name Name, ok bool) {
	if owner := t.claims[key].owner; owner != nil {
		return owner.name, true
	}
	return Name{}, false
}

func (t *Table) sorted() []*record {
	return slices.SortedFunc(maps.Values(t.services), func(a, b *record) int { return a.name.compare(b.name) })
}

func (t *Table) record(name Name) *record {
	r := t.services[name]
	if r == nil {
		r = &record{name: name}
		t.services[name] = r
	}
	return r
}

func (r *record) findSlice(name Name) (int, bool) {
	return slices.BinarySearchFunc(r.slices, name, func(s *Slice, name Name) int { return s.Name.compare(name) })
}

func (r *record) removeSlice(name Name) {
	if at, found := r.findSlice(name); found {
		r.slices = slices.Delete(r.slices, at, at+1)
	}
}

// update plans the records again and returns the changes.
func (t *Table) update(records ...*record) Diff {
	var d Diff
	before := map[FrontendKey]Frontend{} // of the touched keys; the zero value if there was no entry
	for _, r := range records {
		var frontends []frontend
		if r.service != nil {
			planned, sets := plan(r.service, r.slices, &t.node)
			t.replaceSets(r, sets, planned, &d)
			frontends = r.complete(planned)
		} else {
			t.replaceSets(r, nil, nil, &d)
		}
		for _, f := range slices.Concat(r.frontends, frontends) {
			if _, ok := before[f.FrontendKey]; !ok {
				before[f.FrontendKey] = t.current(f.FrontendKey)
			}
		}
		t.replaceFrontends(r, frontends)
		if r.service == nil && len(r.slices) == 0 {
			delete(t.services, r.name)
		}
	}
	for _, key := range slices.SortedFunc(maps.Keys(before), compareKeys) {
		switch now := t.current(key); {
		case now == before[key]:
		case now == Frontend{}:
			d.DeleteFrontends = append(d.DeleteFrontends, key)
		default:
			d.SetFrontends = append(d.SetFrontends, FrontendEntry{key, now})
		}
	}
	return d
}

// replaceSets gives the record the planned sets. A new set gets its ID before an old one returns its own.
func (t *Table) replaceSets(r *record, planned []plannedSet, frontends []plannedFrontend, d *Diff) {
	old, ofKey := r.sets, r.setOf()
	r.sets = nil
	for _, p := range planned {
		if len(p.backends)+len(p.draining) == 0 {
			continue
		}
		s := ofKey[p.key]
		if s == nil {
			s = &set{key: p.key, id: t.newID(p.key, frontends)}
		}
		delete(ofKey, p.key)
		s.change(p, d)
		r.sets = append(r.sets, s)
	}
	for _, s := range old {
		if ofKey[s.key] != nil {
			s.change(plannedSet{}, d)
			delete(t.ids, s.id)
		}
	}
}

func (r *record) setOf() map[setKey]*set {
	ofKey := make(map[setKey]*set, len(r.sets))
	for _, s := range r.sets {
		ofKey[s.key] = s
	}
	return ofKey
}

// newID returns an unused ID, that of an earlier process if possible.
func (t *Table) newID(key setKey, frontends []plannedFrontend) ID {
	for _, f := range frontends {
		if f.set != key || f.pass != "" {
			continue
		}
		id, ok := t.known[f.FrontendKey]
		delete(t.known, f.FrontendKey)
		if ok && id != 0 && !t.ids[id] {
			t.ids[id] = true
			return id
		}
	}
	for {
		t.lastID++
		if t.lastID != 0 && !t.ids[t.lastID] {
			t.ids[t.lastID] = true
			return t.lastID
		}
	}
}

// complete adds the sets to the planned frontends.
func (r *record) complete(planned []plannedFrontend) []frontend {
	frontends, ofKey := make([]frontend, len(planned)), r.setOf()
	for i, p := range planned {
		f := frontend{FrontendEntry{FrontendKey: p.FrontendKey}, p.kind}
		set := ofKey[p.set]
		switch {
		case p.pass != "":
			f.Flags = Pass
		case set == nil || len(set.slots) == 0:
			f.Flags = Refuse
		default:
			f.ID, f.Count = set.id, uint32(len(set.slots))
			if r.service.Affinity > 0 {
				f.Flags, f.Timeout = Affinity, r.service.Affinity
			}
		}
		frontends[i] = f
	}
	return frontends
}

// replaceFrontends changes the claims of the record.
func (t *Table) replaceFrontends(r *record, frontends []frontend) {
	old := &record{frontends: r.frontends}
	r.frontends = frontends
	for _, f := range old.frontends {
		if _, still := r.find(f.FrontendKey); !still {
			t.drop(f.FrontendKey, r)
		}
	}
	for _, f := range frontends {
		_, had := old.find(f.FrontendKey)
		t.claim(f.FrontendKey, r, had)
	}
}

// drop ends the claim of a record.
func (t *Table) drop(key FrontendKey, r *record) {
	c := t.claims[key]
	switch {
	case c.owner != r:
		at := slices.Index(c.others, r)
		c.others = slices.Delete(c.others, at, at+1)
	case len(c.others) == 0:
		delete(t.claims, key)
		return
	default:
		c.owner, c.others = c.others[0], c.others[1:]
		c.elect(key)
	}
	t.claims[key] = c
}

// claim adds a claim of a record, or reads an old one again. Many services may claim one external IP, so only a
// change of the owner costs a look at all of them.
func (t *Table) claim(key FrontendKey, r *record, had bool) {
	c := t.claims[key]
	switch {
	case c.owner == nil:
		c.owner = r
	case !had:
		c.others = append(c.others, r)
		if r.precedes(c.owner, key) {
			c.owner, c.others[len(c.others)-1] = r, c.owner
		}
	case c.owner == r && len(c.others) > 0, c.owner != r && r.precedes(c.owner, key):
		c.elect(key) // r may have another kind now
	default:
		return
	}
	t.claims[key] = c
}

// elect makes the first claimant in the order of precedence the owner.
func (c *claim) elect(key FrontendKey) {
	for i, other := range c.others {
		if other.precedes(c.owner, key) {
			c.owner, c.others[i] = other, c.owner
		}
	}
}

// precedes reports whether r, and not the other claimant, gets the key: the lower kind, then the older service.
func (r *record) precedes(other *record, key FrontendKey) bool {
	mine, _ := r.find(key)
	theirs, _ := other.find(key)
	return cmp.Or(cmp.Compare(mine.kind, theirs.kind), r.service.Created.Compare(other.service.Created), r.name.compare(other.name)) < 0
}

func (r *record) find(key FrontendKey) (frontend, bool) {
	at, ok := slices.BinarySearchFunc(r.frontends, key, func(f frontend, key FrontendKey) int { return compareKeys(f.FrontendKey, key) })
	if !ok {
		return frontend{}, false
	}
	return r.frontends[at], true
}

// current returns the present entry of a key, the zero value without one.
func (t *Table) current(key FrontendKey) Frontend {
	c := t.claims[key]
	if c.owner == nil {
		return Frontend{}
	}
	f, _ := c.owner.find(key)
	return f.Frontend
}
