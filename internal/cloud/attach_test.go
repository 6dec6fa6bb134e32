package cloud

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// needy is a node of the type m5.large in zone a without an interface at device index 1: two answers and two listings agree on that.
func needy() Attaching {
	i := instance("eni-1", "subnet-1")
	i.Type, i.Zone, i.VPC, i.Interfaces[0].SecurityGroups = "m5.large", "a", "vpc-1", []string{"sg-node"}
	in := Attaching{
		Now: start.Add(time.Minute), Network: "aws", Owner: map[string]string{TagCluster: "uid", TagNetwork: "aws"}, Tags: map[string]string{"more": "yes"},
		Wanted: []Wanted{{Device: 1, SubnetTags: "pods=yes", Subnets: []Subnet{
			{ID: "small", Zone: "a", VPC: "vpc-1", Free: 20}, {ID: "large", Zone: "a", VPC: "vpc-1", Free: 200},
			{ID: "far", Zone: "b", VPC: "vpc-1", Free: 2000}, {ID: "of another VPC", Zone: "a", VPC: "vpc-2", Free: 2000},
		}}},
		Limits: map[string]Limits{"m5.large": {Interfaces: 3}}, Described: start.Add(time.Minute), Pools: map[string]bool{}, Stops: map[string]Stop{},
	}
	in.Members = []Member{{"worker1", "i-1", History{}.Add(Answer{At: start, Instance: i}).Add(Answer{At: in.Now, Instance: i})}}
	return in.with()
}

// own is an interface of ours for device 1 of an instance.
func own(id, instance string) Interface {
	return Interface{ID: id, Tags: map[string]string{TagCluster: "uid", TagNetwork: "aws", TagInstance: instance, TagIndex: "1"}}
}

// attachedTo returns the interface as attached.
func attachedTo(i Interface, instance string, device int) Interface {
	i.Attached, i.Device = instance, device
	return i
}

// with has two listings with these interfaces.
func (in Attaching) with(is ...Interface) Attaching {
	in.Found = Listings{}.Add(Listing{start, is}).Add(Listing{in.Now, is})
	return in
}

// known replaces the answers about the node.
func (in Attaching) known(answers ...Answer) Attaching {
	in.Members = slices.Clone(in.Members)
	in.Members[0].Answers = History{}
	for _, a := range answers {
		in.Members[0].Answers = in.Members[0].Answers.Add(a)
	}
	return in
}

// text describes a plan.
func (p AttachPlan) text() string {
	var lines []string
	for _, c := range p.Create {
		lines = append(lines, fmt.Sprintf("create in %s for %s with %v", c.Subnet, c.Position, c.SecurityGroups))
	}
	for _, a := range p.Attach {
		lines = append(lines, fmt.Sprintf("attach %s to %s", a.Interface, a.Position))
	}
	for _, i := range p.Delete {
		lines = append(lines, "delete "+i.ID)
	}
	for id := range p.Unneeded {
		lines = append(lines, "unneeded "+id)
	}
	for _, i := range p.Issues {
		lines = append(lines, string(i.Reason))
	}
	for name, set := range map[string]bool{"ask": len(p.Ask) > 0, "ask again": len(p.Again) > 0, "list": p.List, "list again": p.Relist, "describe": p.Describe, "clean": p.Clean} {
		if set {
			lines = append(lines, name)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

const creates = "create in large for i-1/1 with [sg-node]"

func TestAttachPlans(t *testing.T) {
	with := func(is ...Interface) func(*Attaching) { return func(in *Attaching) { *in = in.with(is...) } }
	stop := func(place string, due bool) func(*Attaching) {
		return func(in *Attaching) { in.Stops[place] = Stop{Issue{Reason: "PermissionMissing", Text: "no"}, due} }
	}
	for _, tc := range []struct {
		name   string
		change func(*Attaching)
		want   []string
	}{
		{"missing", nil, []string{"InterfaceMissing", "clean", creates}},
		{"groups of the user", func(in *Attaching) { in.Wanted[0].SecurityGroups = []string{"sg-1", "sg-2"} },
			[]string{"InterfaceMissing", "clean", "create in large for i-1/1 with [sg-1 sg-2]"}},
		{"of another owner", func(in *Attaching) {
			i := *in.Members[0].Answers.latest.Instance
			i.Interfaces = append(i.Interfaces, Interface{ID: "eni-theirs", Device: 1})
			*in = in.known(Answer{in.Now, &i})
		}, []string{"clean"}},
		{"created, not attached", with(own("eni-2", "i-1")), []string{"InterfaceMissing", "attach eni-2 to i-1/1"}},
		{"created twice", with(own("eni-3", "i-1"), own("eni-2", "i-1")), []string{"InterfaceMissing", "attach eni-2 to i-1/1", "unneeded eni-3"}},
		{"attached, the answer is older", with(attachedTo(own("eni-2", "i-1"), "i-1", 1)), []string{"InterfaceMissing", "ask again", "clean"}},
		{"attached without a position", with(attachedTo(own("eni-2", "i-1"), "i-1", UnknownDevice)), []string{"InterfaceMissing", "attach eni-2 to i-1/1", "clean"}},
		{"would be left", func(in *Attaching) {
			i := attachedTo(own("eni-2", "i-9"), "i-9", 1)
			i.Survives = true
			*in = in.with(i)
		}, []string{"InterfaceMissing", "attach eni-2 to i-9/1", creates}},

		{"old answer", func(in *Attaching) { in.Now = in.Now.Add(Apart); in.Found.latest.At = in.Now }, []string{"InterfaceMissing", "ask", "clean"}},
		{"old listing", func(in *Attaching) { in.Found = in.Found.Add(Listing{At: start.Add(30 * time.Second)}) }, []string{"InterfaceMissing", "clean", creates}},
		{"very old listing", func(in *Attaching) { in.Found.latest = &Listing{At: in.Now.Add(-listingFresh)} }, []string{"InterfaceMissing", "clean", "list"}},
		{"old listing with the interface", func(in *Attaching) {
			*in = in.with(own("eni-2", "i-1"))
			in.Found.latest.At = in.Now.Add(-Apart)
		}, []string{"InterfaceMissing", "list"}},
		{"the interface was created by us", func(in *Attaching) {
			*in = in.with(own("eni-2", "i-1"))
			in.Found.latest.At, in.Made = in.Now.Add(-Apart), map[string]bool{"eni-2": true}
		}, []string{"InterfaceMissing", "attach eni-2 to i-1/1"}},
		{"no listing", func(in *Attaching) { in.Found = Listings{} }, []string{"InterfaceMissing", "list"}},
		{"one listing", func(in *Attaching) { in.Found = Listings{}.Add(Listing{At: in.Now}) }, []string{"InterfaceMissing", "list again"}},
		{"the listings differ", func(in *Attaching) {
			in.Found = Listings{}.Add(Listing{start, []Interface{own("eni-2", "i-1")}}).Add(Listing{At: in.Now})
		}, []string{"InterfaceMissing", "list again"}},
		{"the answers differ", func(in *Attaching) {
			i := *in.Members[0].Answers.latest.Instance
			i.Interfaces = append(slices.Clone(i.Interfaces), Interface{ID: "eni-2", Device: 1})
			*in = in.known(Answer{start, &i}, Answer{in.Now, in.Members[0].Answers.latest.Instance})
		}, []string{"InterfaceMissing", "ask again", "clean"}},
		{"one answer", func(in *Attaching) { *in = in.known(*in.Members[0].Answers.latest) }, []string{"InterfaceMissing", "clean", creates}},
		{"one answer, and a pool", func(in *Attaching) {
			*in = in.known(*in.Members[0].Answers.latest)
			in.Pools["aws-worker1-1-v6"] = true
		},
			[]string{"InterfaceMissing", "ask again", "clean"}},
		{"no answer", func(in *Attaching) { *in = in.known() }, []string{"clean"}},
		{"no instance", func(in *Attaching) { *in = in.known(Answer{At: in.Now}) }, []string{"clean"}},
		{"a call is open", func(in *Attaching) { in.Busy = map[string]bool{"worker1": true} }, []string{"InterfaceMissing", "clean"}},
		{"old subnets", func(in *Attaching) { in.Described = in.Now.Add(-subnetsFresh) }, []string{"InterfaceMissing", "clean", "describe"}},

		{"old subnets without room", func(in *Attaching) {
			in.Wanted[0].Subnets, in.Described = []Subnet{{ID: "small", Zone: "a", VPC: "vpc-1"}}, in.Now.Add(-subnetsMax)
		}, []string{"InterfaceMissing", "clean", "describe"}},
		{"old subnets with room", func(in *Attaching) { in.Described = in.Now.Add(-subnetsMax) }, []string{"InterfaceMissing", "clean", creates}},

		{"unknown type", func(in *Attaching) { in.Limits = nil }, []string{"UnknownType", "clean"}},
		{"limit of the type", func(in *Attaching) { in.Limits = map[string]Limits{"m5.large": {Interfaces: 1}} }, []string{"TypeLimit", "clean"}},
		{"two devices, room for one", func(in *Attaching) {
			second := in.Wanted[0]
			second.Device = 2
			in.Wanted = append(in.Wanted, second)
			in.Limits = map[string]Limits{"m5.large": {Interfaces: 2}}
		}, []string{"InterfaceMissing", "TypeLimit", "clean", creates}},
		{"no subnet in the zone and the VPC", func(in *Attaching) { in.Wanted[0].Subnets = in.Wanted[0].Subnets[2:] }, []string{"SubnetMissing", "clean"}},
		{"no subnet lately, old answers", func(in *Attaching) { in.Wanted[0].Subnets = nil; in.Now = in.Now.Add(2 * time.Minute) }, []string{"SubnetMissing", "clean"}},
		{"no free address", func(in *Attaching) { in.Wanted[0].Subnets = []Subnet{{ID: "small", Zone: "a", VPC: "vpc-1"}} }, []string{"NoCapacity", "clean"}},
		{"a full subnet", stop("large", false), []string{"InterfaceMissing", "clean", "create in small for i-1/1 with [sg-node]"}},
		{"no permission", stop(Everywhere, false), []string{"PermissionMissing", "clean"}},
		{"no permission, try again", stop(Everywhere, true), []string{"InterfaceMissing", "PermissionMissing", "clean", creates}},
		{"refused at the instance", stop("i-1/1", false), []string{"PermissionMissing", "clean"}},

		{"instance gone", with(own("eni-2", "i-9")), []string{"InterfaceMissing", creates, "unneeded eni-2"}},
		{"not for long", func(in *Attaching) { with(own("eni-2", "i-9"))(in); in.Unneeded = map[string]time.Time{"eni-2": start} },
			[]string{"InterfaceMissing", creates, "unneeded eni-2"}},
		{"gone for long", goneForLong, []string{"InterfaceMissing", creates, "delete eni-2", "unneeded eni-2"}},
		{"gone for long, attached before", func(in *Attaching) {
			goneForLong(in)
			in.Found.earlier = &Listing{start, []Interface{attachedTo(own("eni-2", "i-9"), "i-9", 1)}}
		}, []string{"InterfaceMissing", creates, "list again", "unneeded eni-2"}},
		{"gone for long, old listing", func(in *Attaching) { goneForLong(in); in.Now = in.Now.Add(Apart) }, []string{"InterfaceMissing", "ask", "list", "unneeded eni-2"}},
		{"the cloud deletes nothing", func(in *Attaching) { goneForLong(in); stop(Deletion, false)(in) }, []string{"InterfaceMissing", "PermissionMissing", creates, "unneeded eni-2"}},
		{"the last answer lacks the instance", func(in *Attaching) {
			*in = in.with(own("eni-2", "i-1")).known(*in.Members[0].Answers.latest, Answer{At: in.Now.Add(Apart)})
		}, []string{""}},
		{"two answers lack the instance", func(in *Attaching) {
			*in = in.with(own("eni-2", "i-1")).known(Answer{At: start}, Answer{At: in.Now})
		}, []string{"unneeded eni-2"}},
		{"nothing is wanted", func(in *Attaching) { with(own("eni-2", "i-1"))(in); in.Wanted = nil }, []string{"unneeded eni-2"}},
		{"nothing is wanted, one listing", func(in *Attaching) { in.Wanted, in.Found = nil, Listings{}.Add(Listing{At: in.Now}) }, []string{"list again"}},
		{"nothing is wanted, the listings differ", func(in *Attaching) {
			in.Wanted = nil
			in.Found = Listings{}.Add(Listing{start, []Interface{own("eni-2", "i-9")}}).Add(Listing{At: in.Now})
		}, []string{"list again"}},
		{"detached by a user, the answer is older", func(in *Attaching) {
			i := *in.Members[0].Answers.latest.Instance
			i.Interfaces = append(slices.Clone(i.Interfaces), Interface{ID: "eni-2", Device: 1})
			*in = in.with(own("eni-2", "i-1")).known(Answer{start, &i}, Answer{start.Add(time.Minute), &i})
			in.Unneeded = map[string]time.Time{"eni-2": start.Add(-Grace)}
		}, []string{"ask again"}},
		{"two nodes of one instance", func(in *Attaching) {
			in.Wanted[0].Subnets = []Subnet{{ID: "x", Zone: "a", VPC: "vpc-1", Free: 100}, {ID: "y", Zone: "a", VPC: "vpc-1", Free: 90}}
			in.Members = append(in.Members, Member{"former-name", "i-1", in.Members[0].Answers})
		}, []string{"InterfaceMissing", "clean", "create in x for i-1/1 with [sg-node]"}},
		{"tags of the user", with(Interface{ID: "eni-2", Tags: map[string]string{TagCluster: "uid", TagNetwork: "aws"}}), []string{"InterfaceMissing", "clean", creates}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := needy()
			if tc.change != nil {
				tc.change(&in)
			}
			slices.Sort(tc.want)
			if diff := cmp.Diff(strings.Join(tc.want, "\n"), Attach(in).text()); diff != "" {
				t.Errorf("plan (-want +got)\n%s", diff)
			}
		})
	}
}

func goneForLong(in *Attaching) {
	*in = in.with(own("eni-2", "i-9"))
	in.Unneeded = map[string]time.Time{"eni-2": in.Now.Add(-Grace)}
}

func TestNodesShareSubnets(t *testing.T) {
	in := needy()
	in.Wanted[0].Subnets = []Subnet{{ID: "x", Zone: "a", VPC: "vpc-1", Free: 100}, {ID: "y", Zone: "a", VPC: "vpc-1", Free: 90}}
	for n := range 5 {
		m := in.Members[0]
		i := *m.Answers.latest.Instance
		i.ID = fmt.Sprintf("i-%d", n+2)
		m.Node, m.Instance, m.Answers = i.ID, i.ID, History{}.Add(Answer{in.Now, &i})
		in.Members = append(in.Members, m)
	}
	count := map[string]int{}
	tokens := map[string]bool{}
	for _, c := range Attach(in).Create {
		count[c.Subnet]++
		tokens[c.Token] = true
	}
	if diff := cmp.Diff(map[string]int{"x": 3, "y": 3}, count); diff != "" || len(tokens) != 6 {
		t.Errorf("%d tokens, interfaces by subnet (-want +got)\n%s", len(tokens), diff)
	}
}

func TestDueRefusalIsTriedOnce(t *testing.T) {
	in := needy()
	m := in.Members[0]
	i := *m.Answers.latest.Instance
	i.ID = "i-2"
	in.Members = append(in.Members, Member{"worker2", "i-2", History{}.Add(Answer{in.Now, &i})})
	in.Stops[Everywhere] = Stop{Issue{Reason: "PermissionMissing", Text: "the action is not allowed"}, true}
	plan := Attach(in)
	if len(plan.Create) != 1 {
		t.Errorf("%d interfaces are created, want one", len(plan.Create))
	}
	if text := plan.Issues[len(plan.Issues)-1].Text; text != "node worker1 and 1 others need network interfaces: the action is not allowed" {
		t.Errorf("the issue says %q", text)
	}
}

func TestDueSubnetIsTriedOnce(t *testing.T) {
	in := needy()
	m := in.Members[0]
	i := *m.Answers.latest.Instance
	i.ID = "i-2"
	in.Members = append(in.Members, Member{"worker2", "i-2", History{}.Add(Answer{in.Now, &i})})
	in.Wanted[0].Subnets = in.Wanted[0].Subnets[1:2]
	in.Stops["large"] = Stop{Issue{Reason: "CloudUnavailable", Text: "no such group"}, true}
	plan := Attach(in)
	if len(plan.Create) != 1 || plan.Issues[len(plan.Issues)-1].Text != "node worker2 needs a network interface: no such group" {
		t.Errorf("%d interfaces are created, and the issues are %v", len(plan.Create), plan.Issues)
	}
}

func TestTokenFollowsRequest(t *testing.T) {
	token := func(change func(*Attaching)) string {
		in := needy()
		change(&in)
		return Attach(in).Create[0].Token
	}
	same := token(func(*Attaching) {})
	if again := token(func(in *Attaching) { in.Now = in.Now.Add(time.Second) }); again != same {
		t.Errorf("a repetition has the token %s instead of %s", again, same)
	}
	groups := func(list ...string) func(*Attaching) {
		return func(in *Attaching) { in.Wanted[0].SecurityGroups = list }
	}
	if token(groups("sg-1", "sg-2")) != token(groups("sg-2", "sg-1")) {
		t.Error("the order of security groups changes the token")
	}
	for name, change := range map[string]func(*Attaching){
		"subnet":  func(in *Attaching) { in.Stops["large"] = Stop{} },
		"groups":  func(in *Attaching) { in.Wanted[0].SecurityGroups = []string{"sg-1"} },
		"attempt": func(in *Attaching) { in.Attempts = map[Position]int{{"i-1", 1}: 1} },
		"cluster": func(in *Attaching) { in.Owner = map[string]string{TagCluster: "other", TagNetwork: "aws"} },
	} {
		if other := token(change); other == same || len(other) > 64 {
			t.Errorf("another %s has the token %s", name, other)
		}
	}
}
