package aws

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/cloud/cloudtest"
	"spiderpool.dev/spiderpool/internal/cloud/cloudtest/ec2test"
)

const (
	region    = "eu-central-1"
	principal = "AKIAFAKEFAKEFAKEFAKE" // of ec2test.Server.Environment
	allowAll  = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`
	denyOne   = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"},{"Effect":"Deny","Action":%q,"Resource":"*"}]}`
)

// actions are the actions that the suite breaks, by the methods that send them.
var actions = map[string]string{
	"Instances": "DescribeInstances", "Interfaces": "DescribeNetworkInterfaces", "Subnets": "DescribeSubnets", "Limits": "DescribeInstanceTypes",
	"Assign": "AssignPrivateIpAddresses", "Unassign": "UnassignPrivateIpAddresses",
	"Create": "CreateNetworkInterface", "Attach": "AttachNetworkInterface", "Detach": "DetachNetworkInterface", "Delete": "DeleteNetworkInterface",
}

// world is the fake EC2 as the suite sees it.
type world struct {
	*ec2test.Cloud
	t          *testing.T
	vpc, group string
	zones      map[string]string // by instance
	subnets    map[string]string // zones by subnet
	clock      clock
}

// clock is the time of the fake.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// listen returns an empty fake EC2, and its server.
func listen(t *testing.T) (*world, *ec2test.Server) {
	t.Helper()
	w := &world{t: t, zones: map[string]string{}, subnets: map[string]string{}}
	w.clock.now = time.Now()
	w.Cloud = ec2test.New(ec2test.Options{Region: region, Now: w.clock.Now})
	w.vpc = w.AddVPC(ec2test.VPC{IPv4: netip.MustParsePrefix("10.0.0.0/16"), IPv6: netip.MustParsePrefix("2001:db8::/56")})
	w.group = w.AddSecurityGroup(ec2test.SecurityGroup{VPC: w.vpc, Name: "pods"})
	return w, w.Cloud.Start(t)
}

// start returns a provider for an empty fake EC2 on the wire.
func start(t *testing.T) (*Provider, *world) {
	t.Helper()
	w, server := listen(t)
	setEnvironment(t, server.Environment("")...)
	p, err := New(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	p.page = 5 // the least that EC2 takes
	return p, w
}

// setEnvironment sets variables, and keeps those of the user away.
func setEnvironment(t *testing.T, variables ...string) {
	t.Helper()
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, "") // restores it at the end
			if err := os.Unsetenv(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, v := range append(variables, "AWS_CONFIG_FILE=/nonexistent", "AWS_SHARED_CREDENTIALS_FILE=/nonexistent") {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
}

func TestProviderConforms(t *testing.T) {
	cloudtest.Conformance(t, func(t *testing.T) (cloud.Provider, cloudtest.World) { return start(t) }, cloudtest.Limits{})
}

func (w *world) AddType(name string, l cloud.Limits) {
	for _, known := range ec2test.Types {
		if known.Name == name {
			if got := (cloud.Limits{Interfaces: known.Interfaces, IPv4: known.IPv4, IPv6: known.IPv6, Prefixes: !known.Xen}); got != l {
				w.t.Fatalf("the suite wants %s to have %+v, EC2 has %+v", name, l, got)
			}
			return
		}
	}
	w.t.Fatalf("the fake has no type %s", name)
}

func (w *world) AddSubnet(zone string, tags map[string]string, cidrs ...netip.Prefix) string {
	s := ec2test.Subnet{VPC: w.vpc, Zone: zone, Tags: tags}
	for _, cidr := range cidrs {
		if cidr.Addr().Is4() {
			s.IPv4 = cidr
		} else {
			s.IPv6 = cidr
		}
	}
	id := w.Cloud.AddSubnet(s)
	w.subnets[id] = zone
	return id
}

func (w *world) Reserve(subnet string, r cloud.Reservation) {
	kind := ec2test.ReservedExplicitly
	if r.Prefixes {
		kind = ec2test.ReservedForPrefixes
	}
	w.Cloud.Reserve(subnet, r.CIDR, kind)
}

func (w *world) SecurityGroup() string { return w.group }

func (w *world) AddInstance(instanceType, subnet string) string {
	id := w.Cloud.AddInstance(ec2test.Instance{Type: instanceType, Subnet: subnet, Groups: []string{w.group}})
	w.zones[id] = w.subnets[subnet]
	return id
}

func (w *world) ProviderID(instance string) string {
	return "aws:///" + w.zones[instance] + "/" + instance
}

func (w *world) Terminate(instance string) { w.Vanish(instance) }

// Occupy gives the addresses to interfaces of another owner. The cloud's own addresses are taken already.
func (w *world) Occupy(subnet string, ranges ...netip.Prefix) {
	for _, r := range ranges {
		if r.Bits() < 32 {
			w.Fill(subnet, 0)
			continue
		}
		w.AddInterface(ec2test.Interface{Subnet: subnet, IPv4: []netip.Addr{r.Addr()}})
	}
}

func (w *world) TakeAway(iface string, pieces ...netip.Prefix) {
	for _, p := range pieces {
		w.TakePrefix(iface, p)
	}
}

func (w *world) Throttle(method string) {
	w.Inject(ec2test.Fault{Action: actions[method], Times: 1, Code: "RequestLimitExceeded"})
}

func (w *world) Lose(method string) {
	w.Inject(ec2test.Fault{Action: actions[method], Times: 1, Done: true})
}

func (w *world) Deny(method string) string {
	action := service + actions[method]
	w.policy(fmt.Sprintf(denyOne, action))
	return action
}

func (w *world) Allow(string) { w.policy(allowAll) }

func (w *world) policy(document string) {
	if err := w.SetPolicy(principal, document); err != nil {
		w.t.Fatal(err)
	}
}

// Freeze lets the present state become old enough to be seen, and the later ones not.
func (w *world) Freeze() {
	w.clock.add(2 * time.Hour)
	w.SetLag(time.Hour)
}

func (w *world) Thaw() { w.SetLag(0) }

func (w *world) Page() int { return 5 }

func (w *world) Requests() (n int) {
	for calls := range maps.Values(w.Calls()) {
		n += calls
	}
	return n
}
