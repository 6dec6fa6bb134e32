package ec2test

import (
	"net/netip"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"spiderpool.dev/spiderpool/internal/cloud/cloudtest/policytest"
)

// settings are the faults that are switched on.
type settings struct {
	lag       time.Duration
	stale     int
	attaching time.Duration
	detaching time.Duration
	latency   map[string]time.Duration
	throttle  *Throttle
	buckets   map[string]*rate.Limiter
	faults    []*Fault
	policies  map[string]*policytest.Policy // by principal
}

// Fault makes requests fail.
type Fault struct {
	Action string  // e.g. AssignPrivateIpAddresses; empty for every action
	Times  int     // requests that fail; 0 for all until ClearFaults
	Chance float64 // of each request, e.g. 0.1; 0 for certainty
	// Code is the error code, e.g. RequestLimitExceeded. An empty one cuts the connection without an answer.
	Code string
	// Done says that the request takes effect before it fails: the answer is lost. A refused request has its own error.
	Done bool
}

// Inject adds a fault. The first fault that fits a request applies.
func (c *Cloud) Inject(f Fault) {
	c.set(func() { c.mu.faults = append(c.mu.faults, &f) })
}

// ClearFaults removes every fault, lag, latency, delay and throttling. Policies stay.
func (c *Cloud) ClearFaults() {
	c.set(func() { c.mu.settings = settings{policies: c.mu.policies} })
}

// SetLag makes describes and metadata show the state of a while ago, because EC2 is eventually consistent
// (https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html). Changes work on the current state.
func (c *Cloud) SetLag(lag time.Duration) { c.set(func() { c.mu.lag = lag }) }

// StaleReads makes the next describes show the state before the last change.
func (c *Cloud) StaleReads(requests int) { c.set(func() { c.mu.stale = requests }) }

// SetLatency delays each request of an action. TypicalLatency returns a table.
func (c *Cloud) SetLatency(byAction map[string]time.Duration) {
	c.set(func() { c.mu.latency = byAction })
}

// SetAttachDelays makes an attachment "attaching", and a detachment "detaching", for a while.
func (c *Cloud) SetAttachDelays(attach, detach time.Duration) {
	c.set(func() { c.mu.attaching, c.mu.detaching = attach, detach })
}

// SetThrottling limits the rate of requests. The buckets are full at first.
func (c *Cloud) SetThrottling(t Throttle) {
	c.set(func() { c.mu.throttle, c.mu.buckets = &t, map[string]*rate.Limiter{} })
}

// SetPolicy gives a principal an IAM policy, a JSON document. The principal is an access key ID, or role/NAME for the
// credentials that the metadata service hands out to an instance with the role. A principal without a policy may do
// everything. It returns an error for elements that the fake cannot evaluate.
func (c *Cloud) SetPolicy(principal, document string) error {
	p, err := policytest.Parse(document, conditionKeys)
	if err == nil {
		c.set(func() { c.mu.policies[principal] = p })
	}
	return err
}

func (c *Cloud) set(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

// fault returns the fault of a request, or nil.
func (c *Cloud) fault(action string) *Fault {
	c.mu.Lock()
	defer c.mu.Unlock()
	for at, f := range c.mu.faults {
		if f.Action != "" && f.Action != action || f.Chance > 0 && c.mu.random.Float64() >= f.Chance {
			continue
		}
		applied := *f
		if f.Times == 1 {
			c.mu.faults = slices.Delete(c.mu.faults, at, at+1)
		} else if f.Times > 1 {
			f.Times--
		}
		return &applied
	}
	return nil
}

// Bucket is a token bucket: a burst of Size requests, then Refill requests a second.
type Bucket struct {
	Size   int
	Refill float64
}

// Throttle are the token buckets of an account. Each action has a bucket of its own.
type Throttle struct {
	Reads      Bucket            // actions that change nothing
	Unfiltered Bucket            // the same without filters, IDs and MaxResults
	Changes    Bucket            // actions that change something
	Actions    map[string]Bucket // exceptions by action
}

// DocumentedThrottle returns AWS' default buckets by category. An account may have others.
// https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html
func DocumentedThrottle() Throttle {
	return Throttle{Reads: Bucket{100, 20}, Unfiltered: Bucket{50, 10}, Changes: Bucket{50, 5}}
}

// throttled takes a token from the bucket of an action. It reports whether there was none.
func (c *Cloud) throttled(action string, reads, unfiltered bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.mu.throttle
	if t == nil {
		return false
	}
	key, size := action, t.Changes
	switch {
	case reads && unfiltered:
		key, size = action+" unfiltered", t.Unfiltered
	case reads:
		size = t.Reads
	}
	if own, ok := t.Actions[action]; ok {
		key, size = action, own
	}
	bucket := c.mu.buckets[key]
	if bucket == nil {
		bucket = rate.NewLimiter(rate.Limit(size.Refill), size.Size)
		c.mu.buckets[key] = bucket
	}
	return !bucket.AllowN(c.options.Now(), 1)
}

// TypicalLatency returns a latency for each action. AWS publishes no medians. The only published figure is for creating
// and attaching an interface, which "can take up to 10 seconds"
// (https://github.com/aws/amazon-vpc-cni-k8s/blob/master/docs/eni-and-ip-target.md). The other values are estimates of
// the right order.
func TypicalLatency() map[string]time.Duration {
	const read, assign = 100 * time.Millisecond, 400 * time.Millisecond
	return map[string]time.Duration{
		"DescribeInstances": read, "DescribeInstanceTypes": read, "DescribeNetworkInterfaces": read, "DescribeSubnets": read,
		"DescribeSecurityGroups": read, "DescribeTags": read, "DescribeVpcs": read, "GetSubnetCidrReservations": read,
		"AssignPrivateIpAddresses": assign, "UnassignPrivateIpAddresses": assign, "AssignIpv6Addresses": assign, "UnassignIpv6Addresses": assign,
		"CreateNetworkInterface": time.Second, "AttachNetworkInterface": time.Second, "DetachNetworkInterface": time.Second,
		"DeleteNetworkInterface": assign, "ModifyNetworkInterfaceAttribute": assign, "CreateTags": assign, "DeleteTags": assign,
		"CreateSubnetCidrReservation": assign,
	}
}

// Fragment blocks one address in each free /28 of a subnet, as another service's addresses would: single addresses stay
// available, prefixes do not (InsufficientCidrBlocks).
func (c *Cloud) Fragment(subnet string) {
	c.editSubnet(subnet, func(x *session, n *Subnet) {
		room := x.room(n, true)
		for {
			block, rest, ok := room.RemoveFreePrefix(uint8(prefixBits(true)))
			if !ok {
				return
			}
			n.Blocked = append(n.Blocked, block.Addr())
			room = rest
		}
	})
}

// Fill blocks free IPv4 addresses of a subnet until only some are left.
func (c *Cloud) Fill(subnet string, left int) {
	c.editSubnet(subnet, func(x *session, n *Subnet) {
		free := x.room(n, true)
		excess := count(free) - left
		for _, r := range slices.Backward(free.Ranges()) {
			for a := r.To(); excess > 0 && r.Contains(a); a = a.Prev() {
				n.Blocked = append(n.Blocked, a)
				excess--
			}
		}
	})
}

// Defragment frees the blocked addresses of a subnet.
func (c *Cloud) Defragment(subnet string) {
	c.editSubnet(subnet, func(_ *session, n *Subnet) { n.Blocked = nil })
}

// Reserve adds a CIDR reservation to a subnet: ReservedForPrefixes or ReservedExplicitly.
func (c *Cloud) Reserve(subnet string, cidr netip.Prefix, kind string) {
	c.editSubnet(subnet, func(x *session, n *Subnet) {
		n.Reservations = append(slices.Clip(n.Reservations), Reservation{x.newID("scr"), cidr, kind})
	})
}

func (c *Cloud) editSubnet(id string, change func(*session, *Subnet)) {
	c.must(func(x *session) *Error {
		n, err := find(x.subnets, id)
		if err != nil {
			return err
		}
		edited := *n
		edited.Blocked = slices.Clip(edited.Blocked)
		change(x, &edited)
		x.subnets[id] = &edited
		return nil
	})
}

// TakePrefix removes a prefix or an address from an interface, as an administrator would.
func (c *Cloud) TakePrefix(iface string, p netip.Prefix) {
	c.must(func(x *session) *Error {
		_, err := x.edit(iface, func(i *Interface) *Error { return withdraw(i, []netip.Prefix{p}) })
		return err
	})
}

// AddInterface adds an interface of another owner to a subnet, without an instance, and returns its ID.
func (c *Cloud) AddInterface(i Interface) string {
	c.must(func(x *session) *Error {
		x.identify(&i.ID, "eni")
		i.MAC, i.created = x.newMAC(), x.now
		addresses, prefixes := slices.Concat(i.IPv4, i.IPv6), i.Prefixes
		i.IPv4, i.IPv6, i.Prefixes = nil, nil, nil
		return x.equip(&i, addresses, prefixes)
	})
	return i.ID
}

// Vanish terminates an instance at once. Interfaces that were created with it, or that were marked, vanish with it.
func (c *Cloud) Vanish(instance string) {
	c.must(func(x *session) *Error {
		if _, err := find(x.instances, instance); err != nil {
			return err
		}
		x.vanish(instance)
		return nil
	})
}

// SetState changes the state of an instance, e.g. to stopped.
func (c *Cloud) SetState(instance, state string) {
	c.must(func(x *session) *Error {
		i, err := find(x.instances, instance)
		if err != nil {
			return err
		}
		changed := *i
		changed.State = state
		x.instances[instance] = &changed
		return nil
	})
}
