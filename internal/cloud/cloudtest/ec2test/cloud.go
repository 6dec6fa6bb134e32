package ec2test

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"spiderpool.dev/spiderpool/internal/cloud/cloudtest/policytest"
)

// Options configure a Cloud. The zero value is usable.
type Options struct {
	Region  string           // default eu-central-1
	Account string           // 12 digits; default 123456789012
	Now     func() time.Time // default time.Now; for lag, token buckets and attachments
	Seed    uint64           // of Fault.Chance
}

// Cloud is one region of one account.
type Cloud struct {
	options Options

	mu struct {
		sync.Mutex
		// versions are states by the time of their change, the current one last. Older ones serve late describes.
		versions []version
		settings
		calls    map[string]int // by action
		failures map[string]int // by error code
		hooks    []func(added, removed []Route)
		random   *rand.Rand
	}
}

// version is a state and the time since when it holds.
type version struct {
	*state
	since time.Time
}

// New returns a cloud without a VPC.
func New(o Options) *Cloud {
	if o.Region == "" {
		o.Region = "eu-central-1"
	}
	if o.Account == "" {
		o.Account = "123456789012"
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	c := &Cloud{options: o}
	c.mu.versions = []version{{state: emptyState()}}
	c.mu.settings = settings{policies: map[string]*policytest.Policy{}}
	c.mu.calls, c.mu.failures = map[string]int{}, map[string]int{}
	c.mu.random = rand.New(rand.NewPCG(o.Seed, o.Seed))
	return c
}

// session is one request's view of the cloud: a state, the time, and the account. A change works on a copy of the state.
type session struct {
	*state
	now       time.Time
	options   Options
	attaching time.Duration
	detaching time.Duration
	request   string // the parameters, to compare repetitions with a client token
}

func (c *Cloud) session(s *state, now time.Time) *session {
	return &session{state: s, now: now, options: c.options, attaching: c.mu.attaching, detaching: c.mu.detaching}
}

// change runs f on a copy of the current state, and makes the copy the current state unless f fails.
func (c *Cloud) change(f func(x *session) *Error) *Error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.commit(f)
}

// commit is change for a caller that holds the lock.
func (c *Cloud) commit(f func(x *session) *Error) *Error {
	now := c.options.Now()
	before := c.current()
	after := before.clone()
	if err := f(c.session(after, now)); err != nil {
		return err
	}
	c.mu.versions = append(c.mu.versions, version{after, now})
	// Keep the previous state, and what a describe with the lag may still show.
	for len(c.mu.versions) > 2 && !c.mu.versions[1].since.After(now.Add(-c.mu.lag)) {
		c.mu.versions = c.mu.versions[1:]
	}
	if len(c.mu.hooks) > 0 {
		if added, removed := difference(before, after); len(added)+len(removed) > 0 {
			for _, hook := range c.mu.hooks {
				hook(added, removed)
			}
		}
	}
	return nil
}

// current returns the newest state.
func (c *Cloud) current() *state {
	return c.mu.versions[len(c.mu.versions)-1].at(c.options.Now())
}

// seen returns the state that a describe shows at a time: the newest that is older than the lag.
func (c *Cloud) seen(now time.Time) *state {
	versions := c.mu.versions
	if c.mu.stale > 0 && len(versions) > 1 {
		c.mu.stale--
		return versions[len(versions)-2].at(now)
	}
	for _, v := range slices.Backward(versions) {
		if !v.since.After(now.Add(-c.mu.lag)) {
			return v.at(now)
		}
	}
	return versions[0].at(now)
}

// difference returns the routes that a change added and removed. Entities are immutable: equal pointers are equal.
func difference(before, after *state) (added, removed []Route) {
	for id, i := range after.interfaces {
		if old := before.interfaces[id]; old != i {
			had, has := old.routes(), i.routes()
			added = append(added, without(has, had)...)
			removed = append(removed, without(had, has)...)
		}
	}
	for id, old := range before.interfaces {
		if after.interfaces[id] == nil {
			removed = append(removed, old.routes()...)
		}
	}
	return added, removed
}

func without(routes, other []Route) []Route {
	return slices.DeleteFunc(slices.Clone(routes), func(r Route) bool { return slices.Contains(other, r) })
}

// OnChange calls hook after each change of routes, in order. The hook must not call the Cloud.
func (c *Cloud) OnChange(hook func(added, removed []Route)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.hooks = append(c.mu.hooks, hook)
}

// Routes returns the destinations that the VPCs deliver now, whatever describes say.
func (c *Cloud) Routes() []Route {
	c.mu.Lock()
	defer c.mu.Unlock()
	var routes []Route
	for _, i := range sorted(c.current().interfaces) {
		routes = append(routes, i.routes()...)
	}
	return routes
}

// Interface returns an interface as it is now, whatever describes say.
func (c *Cloud) Interface(id string) (Interface, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i, ok := c.current().interfaces[id]; ok {
		return *i.clone(), true
	}
	return Interface{}, false
}

// Interfaces returns the interfaces of an instance by device index, or all if instance is empty.
func (c *Cloud) Interfaces(instance string) []Interface {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := sorted(c.current().interfaces)
	if instance != "" {
		list = c.current().of(instance)
	}
	var copies []Interface
	for _, i := range list {
		copies = append(copies, *i.clone())
	}
	return copies
}

// Calls returns the number of requests by action, refused ones included.
func (c *Cloud) Calls() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.mu.calls)
}

// Failures returns the number of refused requests by error code; cut connections count as "".
func (c *Cloud) Failures() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.mu.failures)
}

// ResetCalls sets the counters of Calls and Failures to zero.
func (c *Cloud) ResetCalls() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.mu.calls)
	clear(c.mu.failures)
}

// AddVPC adds a VPC and returns its ID.
func (c *Cloud) AddVPC(v VPC) string {
	c.must(func(x *session) *Error {
		x.identify(&v.ID, "vpc")
		x.vpcs[v.ID] = &v
		return nil
	})
	return v.ID
}

// AddSubnet adds a subnet and returns its ID. It panics if the VPC does not contain the subnet, or if subnets overlap.
func (c *Cloud) AddSubnet(n Subnet) string {
	c.must(func(x *session) *Error {
		vpc, err := find(x.vpcs, n.VPC)
		if err != nil {
			return err
		}
		x.identify(&n.ID, "subnet")
		if !contains(vpc.IPv4, n.IPv4) || n.IPv6.IsValid() && !contains(vpc.IPv6, n.IPv6) {
			return refuse("InvalidSubnet.Range", "The CIDR of %s is outside %s", n.ID, n.VPC)
		}
		for _, other := range x.subnets {
			if other.VPC == n.VPC && (other.IPv4.Overlaps(n.IPv4) || other.IPv6.IsValid() && n.IPv6.IsValid() && other.IPv6.Overlaps(n.IPv6)) {
				return refuse("InvalidSubnet.Conflict", "The CIDR of %s conflicts with subnet %s", n.ID, other.ID)
			}
		}
		for i := range n.Reservations {
			x.identify(&n.Reservations[i].ID, "scr")
		}
		x.subnets[n.ID] = &n
		return nil
	})
	return n.ID
}

// AddSecurityGroup adds a security group and returns its ID.
func (c *Cloud) AddSecurityGroup(g SecurityGroup) string {
	c.must(func(x *session) *Error {
		x.identify(&g.ID, "sg")
		x.groups[g.ID] = &g
		return nil
	})
	return g.ID
}

// AddInstance adds a running instance with its primary interface and returns its ID. It panics if the type or the subnet
// is unknown, or if the address is not free.
func (c *Cloud) AddInstance(i Instance) string {
	c.must(func(x *session) *Error {
		if _, ok := typeNamed(i.Type); !ok {
			return refuse("InvalidInstanceType", "The instance type %s is not in ec2test.Types", i.Type)
		}
		x.identify(&i.ID, "i")
		if i.State == "" {
			i.State = "running"
		}
		i.launched = x.now
		primary := &Interface{ID: x.newID("eni"), Subnet: i.Subnet, MAC: cmp.Or(i.MAC, x.newMAC()), Groups: i.Groups, created: x.now}
		primary.Attachment = &Attachment{ID: x.newID("eni-attach"), Instance: i.ID, DeleteOnTermination: true, since: x.now}
		x.instances[i.ID] = &i
		if err := x.equip(primary, []netip.Addr{i.Address, i.Address6}, i.Prefixes); err != nil {
			return err
		}
		i.Address = primary.IPv4[0]
		return nil
	})
	return i.ID
}

// equip adds an interface with addresses and prefixes; without an IPv4 address, the cloud chooses the primary one.
func (x *session) equip(i *Interface, addresses []netip.Addr, prefixes []netip.Prefix) *Error {
	x.interfaces[i.ID] = i
	wishes := []wish{{v4: true}, {v4: true, prefixes: true}, {}, {prefixes: true}}
	for _, a := range addresses {
		if at := 0; a.IsValid() {
			if a.Is6() {
				at = 2
			}
			wishes[at].exact = append(wishes[at].exact, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	for _, p := range prefixes {
		at := 1
		if p.Addr().Is6() {
			at = 3
		}
		wishes[at].exact = append(wishes[at].exact, p)
	}
	if len(wishes[0].exact) == 0 {
		wishes[0].count = 1
	}
	for _, w := range wishes {
		if err := x.grant(i, w); err != nil {
			return err
		}
	}
	return nil
}

// identify gives a resource an ID unless it has one.
func (x *session) identify(id *string, prefix string) {
	if *id == "" {
		*id = x.newID(prefix)
	}
}

// must changes the state for a test, and panics on the test's mistakes.
func (c *Cloud) must(f func(x *session) *Error) {
	if err := c.change(f); err != nil {
		panic(fmt.Sprintf("ec2test: %v", err))
	}
}

func contains(outer, inner netip.Prefix) bool {
	return outer.IsValid() && inner.IsValid() && outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}
