package ec2test_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"pgregory.net/rapid"

	"spiderpool.dev/spiderpool/internal/cloud/cloudtest/ec2test"
)

// tryAssign asks for a prefix and returns the error.
func (w *world) tryAssign(ctx context.Context) error {
	_, err := w.AssignPrivateIpAddresses(ctx, &ec2.AssignPrivateIpAddressesInput{NetworkInterfaceId: &w.eni, Ipv4PrefixCount: aws.Int32(1)})
	return err
}

// prefixes returns the number of prefixes that the node's interface really has.
func (w *world) prefixes() int {
	i, _ := w.Interface(w.eni)
	return len(i.Prefixes)
}

func TestFaultsApply(t *testing.T) {
	for name, test := range map[string]struct {
		fault    ec2test.Fault
		code     string
		prefixes int // after one failed request
	}{
		"refused":              {ec2test.Fault{Action: "AssignPrivateIpAddresses", Times: 1, Code: "RequestLimitExceeded"}, "RequestLimitExceeded", 0},
		"any action":           {ec2test.Fault{Times: 1, Code: "InternalError"}, "InternalError", 0},
		"done, answer lost":    {ec2test.Fault{Times: 1, Code: "InternalError", Done: true}, "InternalError", 1},
		"cut":                  {ec2test.Fault{Times: 1}, "", 0},
		"done, connection cut": {ec2test.Fault{Times: 1, Done: true}, "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "m5.large")
			w.Inject(test.fault)
			if err := w.tryAssign(t.Context()); err == nil || codeOf(err) != test.code {
				t.Errorf("error %v, want code %q", err, test.code)
			}
			if got := w.prefixes(); got != test.prefixes {
				t.Errorf("%d prefixes after the fault, want %d", got, test.prefixes)
			}
			if err := w.tryAssign(t.Context()); err != nil {
				t.Errorf("the second request: %v", err)
			}
			if got := w.Failures(); got[test.code] != 1 {
				t.Errorf("failures %v", got)
			}
		})
	}
}

func TestFaultsHitTheirShare(t *testing.T) {
	w := newWorld(t, "m5.large")
	w.Inject(ec2test.Fault{Action: "DescribeVpcs", Chance: 0.5, Code: "Unavailable"})
	for range 100 {
		_, _ = w.DescribeVpcs(t.Context(), &ec2.DescribeVpcsInput{})
	}
	if failed := w.Failures()["Unavailable"]; failed < 25 || failed > 75 {
		t.Errorf("%d of 100 requests failed", failed)
	}
	w.ClearFaults()
	w.ResetCalls()
	must2(w.DescribeVpcs(t.Context(), &ec2.DescribeVpcsInput{}))(t)
	if calls := w.Calls(); len(calls) != 1 || calls["DescribeVpcs"] != 1 || len(w.Failures()) != 0 {
		t.Errorf("calls %v, failures %v", calls, w.Failures())
	}
}

func TestDescribesLagBehind(t *testing.T) {
	w := newWorld(t, "m5.large")
	w.SetLag(2 * time.Second)
	w.clock.move(time.Minute)
	w.assign(t, 1)
	w.clock.move(time.Second)
	w.assign(t, 1)
	for _, step := range []struct {
		wait time.Duration
		want int // described ranges, the primary address among them
	}{{0, 1}, {time.Second, 2}, {time.Second, 3}} {
		w.clock.move(step.wait)
		if got := w.described(t, w.eni); len(got) != step.want {
			t.Errorf("described %v, want %d ranges", got, step.want)
		}
	}
	if w.prefixes() != 2 {
		t.Errorf("%d prefixes", w.prefixes())
	}
}

func TestStaleReadsEnd(t *testing.T) {
	w := newWorld(t, "m5.large")
	w.assign(t, 1)
	w.StaleReads(2)
	for i, want := range []int{1, 1, 2} {
		if got := w.described(t, w.eni); len(got) != want {
			t.Errorf("read %d: %v, want %d ranges", i, got, want)
		}
	}
}

func TestBucketsRefill(t *testing.T) {
	w := newWorld(t, "m5.large")
	w.SetThrottling(ec2test.Throttle{
		Reads: ec2test.Bucket{Size: 2, Refill: 1}, Unfiltered: ec2test.Bucket{Size: 1, Refill: 1}, Changes: ec2test.Bucket{Size: 1, Refill: 0.5},
		Actions: map[string]ec2test.Bucket{"CreateTags": {Size: 3, Refill: 1}},
	})
	unfiltered := func() error {
		_, err := w.DescribeVpcs(t.Context(), &ec2.DescribeVpcsInput{})
		return err
	}
	filtered := func() error {
		_, err := w.DescribeVpcs(t.Context(), &ec2.DescribeVpcsInput{VpcIds: []string{w.vpc}})
		return err
	}
	change := func() error { return w.tryAssign(t.Context()) }
	tag := func() error {
		_, err := w.CreateTags(t.Context(), &ec2.CreateTagsInput{Resources: []string{w.eni}, Tags: []types.Tag{{Key: aws.String("a")}}})
		return err
	}
	for i, step := range []struct {
		call func() error
		wait time.Duration
		ok   bool
	}{
		{unfiltered, 0, true},
		{unfiltered, 0, false},
		{filtered, 0, true},
		{filtered, 0, true},
		{filtered, 0, false},
		{change, 0, true},
		{change, time.Second, false},
		{change, time.Second, true},
		{tag, 0, true},
		{tag, 0, true},
		{tag, 0, true},
		{tag, 0, false},
	} {
		w.clock.move(step.wait)
		err := step.call()
		if throttled := codeOf(err) == "RequestLimitExceeded"; throttled == step.ok || step.ok && err != nil {
			t.Errorf("step %d: %v, want success: %v", i, err, step.ok)
		}
	}
}

func TestLatencyDelaysAnAction(t *testing.T) {
	w := newWorld(t, "m5.large")
	w.SetLatency(map[string]time.Duration{"AssignPrivateIpAddresses": time.Hour})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := w.tryAssign(ctx); err == nil {
		t.Error("an answer came before its latency")
	}
	if w.prefixes() != 0 {
		t.Error("a request took effect before its latency")
	}
	if len(w.described(t, w.eni)) != 1 {
		t.Error("another action has no answer")
	}
}

// TestTypicalLatencyCoversEveryAction compares the table with the actions that the fake has.
func TestTypicalLatencyCoversEveryAction(t *testing.T) {
	w := newWorld(t, "m5.large")
	for action := range ec2test.TypicalLatency() {
		if body := w.raw(t, url.Values{"Action": {action}, "Version": {"2016-11-15"}}); strings.Contains(body, "InvalidAction") {
			t.Errorf("the fake has no action %s", action)
		}
	}
}

// raw posts a form and returns the answer's body.
func (w *world) raw(t *testing.T, form url.Values) string {
	t.Helper()
	request := must2(http.NewRequestWithContext(t.Context(), http.MethodPost, w.server.URL, strings.NewReader(form.Encode())))(t)
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+testKey+"/20261129/"+region+"/ec2/aws4_request, SignedHeaders=host, Signature=0")
	response := must2(http.DefaultClient.Do(request))(t)
	defer func() { _ = response.Body.Close() }()
	var body strings.Builder
	if err := response.Write(&body); err != nil {
		t.Fatal(err)
	}
	return body.String()
}

func TestUnknownInputIsRefused(t *testing.T) {
	w := newWorld(t, "m5.large")
	for _, test := range []struct {
		query, want string
	}{
		{"Action=DescribeVpcs&Version=2016-11-15&Colour=red", "UnknownParameter"},
		{"Action=DescribeVpcs&Version=2016-11-15&Filter.1.Colour=red", "UnknownParameter"},
		{"Action=DescribeVpcs&Version=2016-11-15&MaxResults=many", "InvalidParameterValue"},
		{"Action=DescribeVpcs&Version=2016-11-15&NextToken=xyz", "InvalidNextToken"},
		{"Action=DescribeVpcs&Version=2010-01-01", "NoSuchVersion"},
		{"Action=RunInstances&Version=2016-11-15", "InvalidAction"},
		{"Action=DeleteNetworkInterface&Version=2016-11-15", "MissingParameter"},
		{"Action=AssignPrivateIpAddresses&Version=2016-11-15&NetworkInterfaceId=eni-1&Ipv4Prefix.1=abc", "InvalidParameterValue"},
	} {
		form := must2(url.ParseQuery(test.query))(t)
		if body := w.raw(t, form); !strings.Contains(body, "<Code>"+test.want+"</Code>") {
			t.Errorf("%s: no %s in\n%s", test.query, test.want, body)
		}
	}
	if response := must2(http.Post(w.server.URL+"/?Action=DescribeVpcs&Version=2016-11-15", "", nil))(t); response.StatusCode != http.StatusUnauthorized {
		t.Errorf("without credentials: %s", response.Status)
	}
}

func TestVanishedInstanceTakesItsInterfaces(t *testing.T) {
	w := newWorld(t, "m5.large")
	if err := attachNew("subnet", 1)(w); err != nil {
		t.Fatal(err)
	}
	kept := w.Interfaces(w.node)[1].ID
	w.Vanish(w.node)
	if left := w.Interfaces(""); len(left) != 1 || left[0].ID != kept || left[0].Attachment != nil {
		t.Errorf("left: %+v, want %s without an instance", left, kept)
	}
	if _, err := w.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{InstanceIds: []string{w.node}}); codeOf(err) != "InvalidInstanceID.NotFound" {
		t.Errorf("the instance: %v", err)
	}
}

func TestRoutesFollowChanges(t *testing.T) {
	w := newWorld(t, "m5.large")
	routes := map[netip.Prefix]string{}
	w.OnChange(func(added, removed []ec2test.Route) {
		for _, r := range removed {
			delete(routes, r.Prefix)
		}
		for _, r := range added {
			routes[r.Prefix] = r.Instance
		}
	})
	p := prefix(w.assign(t, 1)[0])
	if len(routes) != 1 || routes[p] != w.node {
		t.Errorf("routes %v, want %s", routes, p)
	}
	w.TakePrefix(w.eni, p)
	if len(routes) != 0 {
		t.Errorf("routes %v after the prefix was taken", routes)
	}
	if err := attachNew("subnet", 1)(w); err != nil {
		t.Fatal(err)
	}
	second := w.Interfaces(w.node)[1]
	if got := routes[netip.PrefixFrom(second.IPv4[0], 32)]; got != w.node || len(w.Routes()) != 2 {
		t.Errorf("routes %v, want the second interface's address", routes)
	}
	w.SetAttachDelays(0, time.Hour)
	must2(w.DetachNetworkInterface(t.Context(), &ec2.DetachNetworkInterfaceInput{AttachmentId: &second.Attachment.ID}))(t)
	if len(routes) != 0 {
		t.Errorf("routes %v while the interface detaches", routes)
	}
}

func TestPolicyDecides(t *testing.T) {
	w := newWorld(t, "m5.large")
	policy := func(statements ...string) string {
		return `{"Version": "2012-10-17", "Statement": [` + strings.Join(statements, ",") + `]}`
	}
	const (
		describe = `{"Effect": "Allow", "Action": "ec2:Describe*", "Resource": "*"}`
		assign   = `{"Effect": "Allow", "Action": ["ec2:AssignPrivateIpAddresses"], "Resource": "arn:aws:ec2:*:*:network-interface/*"}`
		create   = `{"Effect": "Allow", "Action": "ec2:CreateNetworkInterface", "Resource": "*"}`
		tag      = `{"Effect": "Allow", "Action": "ec2:CreateTags", "Resource": "*", "Condition": {"StringEquals": {"ec2:CreateAction": "CreateNetworkInterface"}}}`
		own      = `{"Effect": "Allow", "Action": "ec2:DeleteNetworkInterface", "Resource": "*", "Condition": {"StringEquals": {"aws:ResourceTag/cluster": "c1"}}}`
		never    = `{"Effect": "Deny", "Action": "*", "Resource": "arn:aws:ec2:*:*:subnet/*"}`
	)
	makeTagged := func() error {
		_, err := w.CreateNetworkInterface(t.Context(), &ec2.CreateNetworkInterfaceInput{SubnetId: &w.subnet, TagSpecifications: tagged("cluster", "c1")})
		return err
	}
	deleteOf := func(tags map[string]string) func() error {
		id := w.AddInterface(ec2test.Interface{Subnet: w.subnet, Tags: tags})
		return func() error {
			_, err := w.DeleteNetworkInterface(t.Context(), &ec2.DeleteNetworkInterfaceInput{NetworkInterfaceId: &id})
			return err
		}
	}
	look := func() error {
		_, err := w.DescribeVpcs(t.Context(), &ec2.DescribeVpcsInput{})
		return err
	}
	for name, test := range map[string]struct {
		policy string
		call   func() error
		denied string // the action that the error names
	}{
		"describes only":         {policy(describe), look, ""},
		"no assignment":          {policy(describe), func() error { return w.tryAssign(t.Context()) }, "ec2:AssignPrivateIpAddresses"},
		"assignment":             {policy(assign), func() error { return w.tryAssign(t.Context()) }, ""},
		"nothing else":           {policy(assign), look, "ec2:DescribeVpcs"},
		"creation with tags":     {policy(create), makeTagged, "ec2:CreateTags"},
		"creation, tags allowed": {policy(create, tag), makeTagged, ""},
		"a deny wins":            {policy(create, tag, never), makeTagged, "ec2:CreateNetworkInterface"},
		"own interface":          {policy(own), deleteOf(map[string]string{"cluster": "c1"}), ""},
		"foreign interface":      {policy(own), deleteOf(map[string]string{"cluster": "c2"}), "ec2:DeleteNetworkInterface"},
	} {
		if err := w.SetPolicy(testKey, test.policy); err != nil {
			t.Fatal(err)
		}
		err := test.call()
		if got := codeOf(err); (got == "UnauthorizedOperation") != (test.denied != "") || test.denied == "" && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if test.denied == "" {
			continue
		}
		_, encoded, _ := strings.Cut(err.Error(), "Encoded authorization failure message: ")
		decoded, decodeErr := base64.RawURLEncoding.DecodeString(encoded)
		if !strings.Contains(err.Error(), "not authorized to perform: "+test.denied+" on resource: ") || !strings.Contains(string(decoded), test.denied) || decodeErr != nil {
			t.Errorf("%s: the error does not name %s: %v", name, test.denied, err)
		}
	}
}

func TestPolicyOfUnknownWordsIsRefused(t *testing.T) {
	c := ec2test.New(ec2test.Options{})
	for document, want := range map[string]string{
		`{"Statement": [{"Effect": "Maybe", "Action": "*", "Resource": "*"}]}`:                                                       "Effect",
		`{"Statement": [{"Effect": "Allow", "Action": "*"}]}`:                                                                        "needs Action and Resource",
		`{"Statement": [{"Effect": "Allow", "NotAction": "*", "Resource": "*"}]}`:                                                    "NotAction",
		`{"Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": {"IpAddress": {"aws:SourceIp": "::/0"}}}]}`: "IpAddress",
		`{"Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": {"StringLike": {"aws:SourceArn": "x"}}}]}`:  "aws:SourceArn",
	} {
		if err := c.SetPolicy("key", document); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want an error with %q", document, err, want)
		}
	}
}

// TestNoTwoInterfacesOverlap calls at random and checks the ranges of every interface after each call.
func TestNoTwoInterfacesOverlap(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		w := newWorld(t, "m5.4xlarge")
		other := w.AddInstance(ec2test.Instance{Type: "m5.4xlarge", Subnet: w.subnet})
		enis := []string{w.eni, w.Interfaces(other)[0].ID}
		for range rapid.IntRange(1, 15).Draw(r, "steps") {
			w.step(t.Context(), r, rapid.SampledFrom(enis).Draw(r, "interface"))
			checkDisjoint(r, w.Routes())
		}
	})
}

// step makes one random call for an interface. The cloud may refuse it.
func (w *world) step(ctx context.Context, r *rapid.T, eni string) {
	n := rapid.Int32Range(1, 3).Draw(r, "n")
	switch rapid.IntRange(0, 4).Draw(r, "call") {
	case 0:
		_, _ = w.AssignPrivateIpAddresses(ctx, &ec2.AssignPrivateIpAddressesInput{NetworkInterfaceId: &eni, Ipv4PrefixCount: &n})
	case 1:
		_, _ = w.AssignPrivateIpAddresses(ctx, &ec2.AssignPrivateIpAddressesInput{NetworkInterfaceId: &eni, SecondaryPrivateIpAddressCount: &n})
	case 2:
		address := fmt.Sprintf("172.31.16.%d", rapid.IntRange(0, 255).Draw(r, "address"))
		_, _ = w.AssignPrivateIpAddresses(ctx, &ec2.AssignPrivateIpAddressesInput{
			NetworkInterfaceId: &eni, PrivateIpAddresses: []string{address}, AllowReassignment: aws.Bool(rapid.Bool().Draw(r, "move")),
		})
	case 3:
		if i, _ := w.Interface(eni); len(i.Prefixes) > 0 {
			w.TakePrefix(eni, i.Prefixes[0])
		}
	case 4:
		w.Fragment(w.subnet)
		w.Defragment(w.subnet)
	}
}

func checkDisjoint(t *rapid.T, routes []ec2test.Route) {
	slices.SortFunc(routes, func(a, b ec2test.Route) int { return a.Prefix.Addr().Compare(b.Prefix.Addr()) })
	for i := 1; i < len(routes); i++ {
		if routes[i-1].Prefix.Overlaps(routes[i].Prefix) {
			t.Fatalf("%+v and %+v overlap", routes[i-1], routes[i])
		}
	}
}
