package cloudtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"spiderpool.dev/spiderpool/internal/cloud"
)

var (
	_ cloud.Provider = (*Fake)(nil)
	_ World          = (*Fake)(nil)
)

// Fake is a cloud in memory, and the provider for it. Its actions are named fake:Assign and
// so on, its IDs i-1, eni-2, subnet-3.
type Fake struct {
	// Layout of all subnets. Set it before the first one.
	Layout cloud.Layout

	mu     sync.Mutex
	state  state
	stale  *view // the answer to every description while it is set
	faults []Fault
	denied map[string]bool
	calls  map[string]int
	lastID int
}

// state is the truth of the cloud.
type state struct {
	types     map[string]cloud.Limits
	subnets   map[string]*subnet
	instances map[string]cloud.Instance // without Interfaces
	ifaces    map[string]*cloud.Interface
	dies      map[string]bool   // interfaces that are deleted with their instance
	tokens    map[string]string // interface by the token of its creation
}

type subnet struct {
	cloud.Subnet
	*space
}

// view is what descriptions return.
type view struct {
	instances []cloud.Instance
	ifaces    []cloud.Interface
	subnets   []cloud.Subnet
}

// Fault is an error of the cloud.
type Fault struct {
	Method string // of cloud.Provider, e.g. "Assign"; empty for each
	Kind   cloud.Kind
	// Done makes the change happen before the error is returned: a lost answer.
	Done bool
	// Times is the number of calls that fail; 0 is one.
	Times int
	After time.Duration // of cloud.Error
}

// NewFake returns an empty cloud.
func NewFake() *Fake {
	return &Fake{
		state: state{
			types: map[string]cloud.Limits{}, subnets: map[string]*subnet{}, instances: map[string]cloud.Instance{},
			ifaces: map[string]*cloud.Interface{}, dies: map[string]bool{}, tokens: map[string]string{},
		},
		denied: map[string]bool{}, calls: map[string]int{},
	}
}

// AddType implements World.
func (f *Fake) AddType(name string, l cloud.Limits) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state.types[name] = l
}

// AddSubnet implements World.
func (f *Fake) AddSubnet(zone string, tags map[string]string, cidrs ...netip.Prefix) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := f.newID("subnet")
	f.state.subnets[id] = &subnet{cloud.Subnet{ID: id, Zone: zone, VPC: "vpc-1", CIDRs: slices.Clone(cidrs), Tags: maps.Clone(tags), Layout: f.Layout, ReserveCommand: "fake reserve " + id}, newSpace(cidrs, f.Layout)}
	return id
}

// Reserve implements World.
func (f *Fake) Reserve(subnet string, r cloud.Reservation) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.state.subnets[subnet]
	s.reserved = append(s.reserved, r)
}

// SecurityGroup implements World.
func (f *Fake) SecurityGroup() string { return "sg-1" }

// AddInstance implements World.
func (f *Fake) AddInstance(instanceType, subnet string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := f.newID("i")
	f.state.instances[id] = cloud.Instance{ID: id, Type: instanceType, Zone: f.state.subnets[subnet].Zone, VPC: f.state.subnets[subnet].VPC, Subnet: subnet}
	primary, kind := f.newInterface(cloud.NewInterface{Subnet: subnet, SecurityGroups: []string{f.SecurityGroup()}})
	if kind != "" {
		panic("cloudtest: no address for the instance: " + kind)
	}
	primary.Attached = id
	f.state.dies[primary.ID] = true
	return id
}

// ProviderID implements World.
func (f *Fake) ProviderID(instance string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return "fake:///" + f.state.instances[instance].Zone + "/" + instance
}

// Terminate implements World.
func (f *Fake) Terminate(instance string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, i := range f.state.ifaces {
		if i.Attached != instance {
			continue
		}
		i.Attached, i.Device = "", 0
		if f.state.dies[id] {
			f.deleteInterface(i)
		}
	}
	delete(f.state.instances, instance)
}

// Occupy implements World.
func (f *Fake) Occupy(subnet string, ranges ...netip.Prefix) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range ranges {
		for p := range pieces(r, cloud.Addresses) {
			f.state.subnets[subnet].take(p)
		}
	}
}

// TakeAway implements World.
func (f *Fake) TakeAway(iface string, pieces ...netip.Prefix) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.release(f.state.ifaces[iface], pieces)
}

// Fail orders a fault.
func (f *Fake) Fail(fault Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fault.Times = max(1, fault.Times)
	f.faults = append(f.faults, fault)
}

// Throttle implements World.
func (f *Fake) Throttle(method string) { f.Fail(Fault{Method: method, Kind: cloud.Throttled}) }

// Lose implements World.
func (f *Fake) Lose(method string) { f.Fail(Fault{Method: method, Kind: cloud.Unknown, Done: true}) }

// Deny implements World.
func (f *Fake) Deny(method string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.denied[method] = true
	return action(method)
}

// Allow implements World.
func (f *Fake) Allow(method string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.denied, method)
}

// Freeze implements World.
func (f *Fake) Freeze() {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.describe()
	f.stale = &now
}

// Thaw implements World.
func (f *Fake) Thaw() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stale = nil
}

// Page implements World. The fake has no pages.
func (f *Fake) Page() int { return 5 }

// Requests implements World.
func (f *Fake) Requests() int { return f.Calls("") }

// Calls counts the calls of a method, e.g. "Assign", or of all.
func (f *Fake) Calls(method string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for m, count := range f.calls {
		if method == "" || m == method {
			n += count
		}
	}
	return n
}

// Present returns the interfaces as they are now, whatever descriptions say.
func (f *Fake) Present() []cloud.Interface {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.describe().ifaces
}

// Tag adds tags to an interface that exists.
func (f *Fake) Tag(iface string, tags map[string]string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := f.state.ifaces[iface]
	if i.Tags == nil {
		i.Tags = map[string]string{}
	}
	maps.Copy(i.Tags, tags)
}

func (f *Fake) newID(kind string) string {
	f.lastID++
	return fmt.Sprintf("%s-%d", kind, f.lastID)
}

func action(method string) string { return "fake:" + method }

// failure is a refusal, without the name of the action.
type failure struct {
	kind cloud.Kind
	text string
}

func fail(kind cloud.Kind, format string, args ...any) *failure {
	return &failure{kind, fmt.Sprintf(format, args...)}
}

// call runs one method under the lock, with the faults that are due.
func call[T any](ctx context.Context, f *Fake, method string, do func() (T, *failure)) (T, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var none T
	refuse := func(kind cloud.Kind, after time.Duration, err error) (T, error) {
		return none, &cloud.Error{Kind: kind, Action: action(method), After: after, Err: err}
	}
	f.calls[method]++
	if err := ctx.Err(); err != nil {
		return refuse(cloud.Unknown, 0, err)
	}
	if f.denied[method] {
		return refuse(cloud.Permission, 0, errors.New("the test denied the action"))
	}
	fault, due := f.nextFault(method)
	if due && !fault.Done {
		return refuse(fault.Kind, fault.After, errors.New("the test ordered a fault"))
	}
	answer, failed := do()
	if failed != nil {
		return refuse(failed.kind, 0, errors.New(failed.text))
	}
	if due {
		return refuse(fault.Kind, fault.After, errors.New("the test ordered a lost answer"))
	}
	return answer, nil
}

// nextFault takes the first fault for a method from the list.
func (f *Fake) nextFault(method string) (Fault, bool) {
	i := slices.IndexFunc(f.faults, func(fault Fault) bool { return fault.Method == "" || fault.Method == method })
	if i < 0 {
		return Fault{}, false
	}
	fault := f.faults[i]
	if f.faults[i].Times--; f.faults[i].Times == 0 {
		f.faults = slices.Delete(f.faults, i, i+1)
	}
	return fault, true
}

// InstanceID implements cloud.Provider for fake:///zone/i-1.
func (f *Fake) InstanceID(providerID string) (string, bool) {
	path, ok := strings.CutPrefix(providerID, "fake:///")
	_, id, found := strings.Cut(path, "/")
	return id, ok && found && strings.HasPrefix(id, "i-")
}
