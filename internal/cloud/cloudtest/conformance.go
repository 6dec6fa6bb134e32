package cloudtest

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/inet"
)

// Start makes an empty cloud, and a provider for it.
type Start func(t *testing.T) (cloud.Provider, World)

// Interfacing are the methods that make and unmake interfaces. A provider may lack them
// together.
var Interfacing = []string{"Create", "Attach", "Detach", "Delete"}

// Features that a cloud may lack.
const (
	// Moving is Assignment.Move. Without it, Assign must return Invalid.
	Moving = "Moving"
	// ExplicitReservations are ranges for requests that name an address.
	ExplicitReservations = "ExplicitReservations"
	// TypesWithoutPrefixes are instance types that take single addresses only.
	TypesWithoutPrefixes = "TypesWithoutPrefixes"
)

// Limits of a provider change the contract.
type Limits struct {
	// Without lists methods that the provider does not have. Each must return Invalid.
	Without []string
	// Lacking lists features that the cloud does not have.
	Lacking []string
	// Layout of the cloud's subnets.
	Layout cloud.Layout
	// AnyNode says that InstanceID cannot tell the nodes of other clouds.
	AnyNode bool
}

// Conformance runs the contract of cloud.Provider against a provider.
func Conformance(t *testing.T, start Start, limits Limits) {
	without, absent := limits.Without, slices.Concat(limits.Without, limits.Lacking)
	for name, check := range contract {
		if slices.ContainsFunc(check.needs, func(need string) bool { return slices.Contains(absent, need) }) {
			continue
		}
		t.Run(name, func(t *testing.T) { check.run(t, setUp(t, start, limits)) })
	}
	if slices.Contains(absent, Moving) {
		t.Run("MoveIsRefused", func(t *testing.T) { checkNoMove(t, setUp(t, start, limits)) })
	}
	if !limits.AnyNode {
		t.Run("NodesOfOtherClouds", func(t *testing.T) { checkForeignID(t, setUp(t, start, limits)) })
	}
	for _, method := range without {
		t.Run("without "+method, func(t *testing.T) {
			s := setUp(t, start, limits)
			wantKind(t, s.lacking(t.Context(), method), cloud.Invalid)
		})
	}
	for _, method := range methods {
		if slices.Contains(without, method) {
			continue
		}
		for name, run := range faults {
			t.Run(method+" "+name, func(t *testing.T) { run(t, setUp(t, start, limits), method) })
		}
	}
}

// contract is the suite: the behaviour, with the features and the methods that it needs besides the describing ones.
var contract = map[string]struct {
	needs []string
	run   func(t *testing.T, s scene)
}{
	"InstanceOfNode":                {nil, checkInstanceID},
	"InstanceHasItsInterfaces":      {nil, checkInstance},
	"UnknownIDsAreAbsent":           {nil, checkUnknownIDs},
	"DescriptionsCrossPages":        {nil, checkPages},
	"EmptyQuerySelectsNothing":      {nil, checkEmptyQuery},
	"TerminatedInstanceIsAbsent":    {nil, checkTerminated},
	"SubnetsByIDAndTags":            {nil, checkSubnets},
	"LimitsOfTypes":                 {nil, checkLimits},
	"AssignedPiecesAreDescribed":    {nil, checkAssign},
	"ExactPieces":                   {nil, checkExact},
	"MovedAddress":                  {[]string{Moving}, checkMove},
	"RepeatedUnassign":              {nil, checkUnassign},
	"QuotaAssignsNothing":           {nil, checkQuota},
	"TypeWithoutPrefixes":           {[]string{TypesWithoutPrefixes}, checkNoPrefixes},
	"FullSubnet":                    {nil, checkFull},
	"FragmentedSubnet":              {nil, checkFragmented},
	"ReservationsAreKept":           {[]string{ExplicitReservations}, checkReservation},
	"UnknownInterfaceIsGone":        {nil, checkGone},
	"TakenPieceIsAbsent":            {nil, checkTakenAway},
	"ConcurrentAssignsDiffer":       {nil, checkConcurrent},
	"StaleDescriptions":             {nil, checkStale},
	"LostAssign":                    {nil, checkLostAssign},
	"LostUnassign":                  {nil, checkLostUnassign},
	"CreateByToken":                 {Interfacing, checkCreate},
	"CreateWithoutItsPlace":         {Interfacing, checkCreateGone},
	"AttachAndDetach":               {Interfacing, checkAttach},
	"AttachBeyondQuota":             {Interfacing, checkAttachQuota},
	"PrimaryInterfaceStays":         {Interfacing, checkPrimary},
	"AttachedInterfaceDiesWithNode": {Interfacing, checkDiesWithInstance},
	"LostCreate":                    {Interfacing, checkLostCreate},
	"LostAttach":                    {Interfacing, checkLostAttach},
}

// faults is run for each method.
var faults = map[string]func(t *testing.T, s scene, method string){
	"throttled": checkThrottled,
	"denied":    checkDenied,
	"cancelled": checkCancelled,
}

// scene is a cloud with one dual-stack subnet and one node.
type scene struct {
	cloud.Provider
	World
	limits           Limits
	subnet, instance string
	eth0             cloud.Interface
}

const (
	typeLarge = "m5.large"
	typeOld   = "c4.large"
)

// limitsLarge are those that AWS lists for the type.
var limitsLarge = cloud.Limits{Interfaces: 3, IPv4: 10, IPv6: 10, Prefixes: true}

// limitsOld returns the limits of a type that takes no prefixes, if the cloud has one.
func (s scene) limitsOld() cloud.Limits {
	return cloud.Limits{Interfaces: 3, IPv4: 10, IPv6: 10, Prefixes: slices.Contains(s.limits.Lacking, TypesWithoutPrefixes)}
}

var (
	cidrIPv4 = netip.MustParsePrefix("10.0.1.0/24")
	cidrIPv6 = netip.MustParsePrefix("2001:db8:0:1::/64")
)

func setUp(t *testing.T, start Start, limits Limits) scene {
	t.Helper()
	p, w := start(t)
	s := scene{Provider: p, World: w, limits: limits}
	w.AddType(typeLarge, limitsLarge)
	w.AddType(typeOld, s.limitsOld())
	s.subnet = w.AddSubnet("eu-central-1a", map[string]string{"role": "pods"}, cidrIPv4, cidrIPv6)
	s.instance, s.eth0 = s.addNode(t, typeLarge, s.subnet)
	return s
}

// addNode starts an instance and returns it with its primary interface.
func (s scene) addNode(t *testing.T, instanceType, subnet string) (string, cloud.Interface) {
	t.Helper()
	id := s.AddInstance(instanceType, subnet)
	found := get(s.Instances(t.Context(), []string{id}))(t)
	if len(found) != 1 || len(found[0].Interfaces) != 1 {
		t.Fatalf("the new instance is described as %+v", found)
	}
	return id, found[0].Interfaces[0]
}

// methods are the methods of the port that call the cloud.
var methods = []string{"Instances", "Interfaces", "Subnets", "Limits", "Assign", "Unassign", "Create", "Attach", "Detach", "Delete"}

// method returns a call of the method that succeeds. It makes what the call needs.
func (s scene) method(t *testing.T, name string) func(ctx context.Context) error {
	switch name {
	case "Instances":
		return func(ctx context.Context) error { return errorOf(s.Instances(ctx, []string{s.instance})) }
	case "Interfaces":
		return func(ctx context.Context) error {
			return errorOf(s.Interfaces(ctx, cloud.Query{IDs: []string{s.eth0.ID}}))
		}
	case "Subnets":
		return func(ctx context.Context) error { return errorOf(s.Subnets(ctx, []string{s.subnet}, nil)) }
	case "Limits":
		return func(ctx context.Context) error { return errorOf(s.Limits(ctx, []string{typeLarge})) }
	case "Assign":
		a := cloud.Assignment{Interface: s.eth0.ID, Family: inet.IPv4, Unit: cloud.Addresses, Count: 1}
		return func(ctx context.Context) error { return errorOf(s.Assign(ctx, a)) }
	case "Unassign":
		pieces := s.assign(t, s.eth0.ID, inet.IPv4, cloud.Addresses, 1)
		return func(ctx context.Context) error { return s.Unassign(ctx, s.eth0.ID, pieces) }
	case "Create":
		return func(ctx context.Context) error { return errorOf(s.Create(ctx, s.wanted("token"))) }
	}
	eth1 := get(s.Create(t.Context(), s.wanted("token")))(t).ID
	switch name {
	case "Attach":
		return func(ctx context.Context) error { return s.Attach(ctx, eth1, s.instance, 1) }
	case "Detach":
		must(t, s.Attach(t.Context(), eth1, s.instance, 1))
		return func(ctx context.Context) error { return s.Detach(ctx, eth1) }
	case "Delete":
		return func(ctx context.Context) error { return s.Delete(ctx, eth1) }
	}
	t.Fatalf("cloud.Provider has no method %s", name)
	return nil
}

// lacking calls a method that the provider does not have.
func (s scene) lacking(ctx context.Context, name string) error {
	switch name {
	case "Create":
		return errorOf(s.Create(ctx, s.wanted("token")))
	case "Attach":
		return s.Attach(ctx, s.eth0.ID, s.instance, 1)
	case "Detach":
		return s.Detach(ctx, s.eth0.ID)
	case "Delete":
		return s.Delete(ctx, s.eth0.ID)
	}
	return nil
}

// wanted describes an interface in the subnet.
func (s scene) wanted(token string) cloud.NewInterface {
	return cloud.NewInterface{
		Subnet: s.subnet, SecurityGroups: []string{s.SecurityGroup()}, Description: "of the suite", Token: token,
		Tags: map[string]string{"cluster": "suite", "instance": s.instance},
	}
}

// describe returns the interface as the cloud describes it now.
func (s scene) describe(t *testing.T, id string) cloud.Interface {
	t.Helper()
	found := get(s.Interfaces(t.Context(), cloud.Query{IDs: []string{id}}))(t)
	if len(found) != 1 {
		t.Fatalf("%d interfaces have the ID %s", len(found), id)
	}
	return found[0]
}

// assign assigns pieces that the cloud chooses.
func (s scene) assign(t *testing.T, iface string, f inet.Family, unit cloud.Unit, n int) []netip.Prefix {
	t.Helper()
	return get(s.Assign(t.Context(), cloud.Assignment{Interface: iface, Family: f, Unit: unit, Count: n}))(t)
}

// get fails the test on an error: get(f())(t).
func get[T any](value T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantKind fails the test unless err is a *cloud.Error of one of the kinds, with an action.
func wantKind(t *testing.T, err error, kinds ...cloud.Kind) *cloud.Error {
	t.Helper()
	e, ok := errors.AsType[*cloud.Error](err)
	if !ok || !slices.Contains(kinds, e.Kind) || e.Action == "" || e.Err == nil {
		t.Fatalf("error %v, want a *cloud.Error of %v with an action", err, kinds)
	}
	return e
}

func wantPieces(t *testing.T, got []netip.Prefix, want ...netip.Prefix) {
	t.Helper()
	order := func(pieces []netip.Prefix) []netip.Prefix {
		return slices.SortedFunc(slices.Values(pieces), netip.Prefix.Compare)
	}
	if diff := cmp.Diff(order(want), order(got), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Fatalf("pieces differ (-want +got):\n%s", diff)
	}
}

func checkThrottled(t *testing.T, s scene, method string) {
	run := s.method(t, method)
	s.Throttle(method)
	before := s.Requests()
	wantKind(t, run(t.Context()), cloud.Throttled)
	if n := s.Requests() - before; n > 3 { // one to look, two to change
		t.Errorf("%d calls for one throttled %s: a provider retries nothing", n, method)
	}
	must(t, run(t.Context()))
}

func checkDenied(t *testing.T, s scene, method string) {
	run := s.method(t, method)
	action := s.Deny(method)
	if e := wantKind(t, run(t.Context()), cloud.Permission); e.Action != action {
		t.Errorf("the error names the action %s, want %s", e.Action, action)
	}
	s.Allow(method)
	must(t, run(t.Context()))
}

func checkCancelled(t *testing.T, s scene, method string) {
	run := s.method(t, method)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := run(ctx)
	if wantKind(t, err, cloud.Unknown, cloud.Throttled); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want one that wraps context.Canceled", err)
	}
}
