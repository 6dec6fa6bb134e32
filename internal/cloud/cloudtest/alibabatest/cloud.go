// Package alibabatest is a fake of Alibaba Cloud that speaks on the wire: the actions of ECS and VPC that
// internal/cloud/alibaba sends, with their signatures, errors, pages and RAM policies. The addresses, interfaces and
// instances are those of cloudtest.Fake.
//
//	world := alibabatest.New("cn-hangzhou")
//	for name, value := range world.Start(t) {
//		t.Setenv(name, value)
//	}
//	provider, err := alibaba.New("cn-hangzhou")
//
// The fake does what Alibaba Cloud documents. An unknown parameter is an error, so that no test passes because the
// fake ignored a wish. Where the documentation is silent (the codes for prefixes), the fake takes the code for single addresses.
//
// Sources: https://api.alibabacloud.com/document/Ecs/2014-05-26, https://api.alibabacloud.com/document/Vpc/2016-04-28, and the
// signature of version 3 (https://www.alibabacloud.com/help/en/sdk/product-overview/v3-request-structure-and-signature).
package alibabatest

import (
	"fmt"
	"maps"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/cloud/cloudtest"
	"spiderpool.dev/spiderpool/internal/cloud/cloudtest/policytest"
)

var _ cloudtest.PolicyWorld = (*Cloud)(nil)

const (
	// AccessKey is the access key of Start.
	AccessKey = "LTAIfakefakefakefake"
	account   = "1234567890123456"
	allowAll  = `{"Version":"1","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`
	denyOne   = `{"Version":"1","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"},{"Effect":"Deny","Action":%q,"Resource":"*"}]}`
)

// Cloud is one region of one account. Its methods may be called concurrently.
type Cloud struct {
	*cloudtest.Fake
	region string
	change sync.Mutex // held while a request looks and changes

	mu struct {
		sync.Mutex
		keys     map[string]Key
		policies map[string]*policytest.Policy // by access key
		subnets  []string
		calls    map[string]int // by action
	}
}

// Key is the secret of an access key.
type Key struct {
	Secret string
	Token  string // of the security token service; empty for the key of a user
}

// New returns an empty cloud.
func New(region string) *Cloud {
	c := &Cloud{Fake: cloudtest.NewFake(), region: region}
	c.Layout = cloud.RouterLast
	c.mu.keys = map[string]Key{AccessKey: {Secret: "fake secret"}}
	c.mu.policies, c.mu.calls = map[string]*policytest.Policy{}, map[string]int{}
	return c
}

// Start serves ECS and VPC on a loopback address, and returns the environment of a client.
func (c *Cloud) Start(t *testing.T) map[string]string {
	t.Helper()
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	return map[string]string{
		"ALIBABA_CLOUD_REGION_ID":    c.region,
		"ALIBABA_CLOUD_ECS_ENDPOINT": server.URL, "ALIBABA_CLOUD_VPC_ENDPOINT": server.URL,
		"ALIBABA_CLOUD_ACCESS_KEY_ID": AccessKey, "ALIBABA_CLOUD_ACCESS_KEY_SECRET": c.mu.keys[AccessKey].Secret,
	}
}

// AddKey adds an access key.
func (c *Cloud) AddKey(id string, k Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.keys[id] = k
}

// SetPolicy gives an access key a RAM policy, a JSON document. A key without one may do everything.
func (c *Cloud) SetPolicy(key, document string) error {
	p, err := policytest.Parse(document, conditionKeys)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.policies[key] = p
	return nil
}

// Calls returns the number of requests by action, refused ones included.
func (c *Cloud) Calls() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.mu.calls)
}

// AddSubnet implements cloudtest.World.
func (c *Cloud) AddSubnet(zone string, tags map[string]string, cidrs ...netip.Prefix) string {
	id := c.Fake.AddSubnet(zone, tags, cidrs...)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.subnets = append(c.mu.subnets, id)
	return id
}

// ProviderID implements cloudtest.World.
func (c *Cloud) ProviderID(instance string) string { return "alicloud://" + c.region + "." + instance }

// denied are the actions that Deny refuses, by the methods that send them.
var denied = map[string]string{
	"Instances": "ecs:DescribeInstances", "Interfaces": "ecs:DescribeNetworkInterfaces", "Subnets": "vpc:DescribeVSwitches",
	"Limits": "ecs:DescribeInstanceTypes", "Assign": "ecs:AssignPrivateIpAddresses", "Unassign": "ecs:UnassignPrivateIpAddresses",
	"Create": "ecs:CreateNetworkInterface", "Attach": "ecs:AttachNetworkInterface", "Detach": "ecs:DetachNetworkInterface",
	"Delete": "ecs:DeleteNetworkInterface",
}

// Deny implements cloudtest.World.
func (c *Cloud) Deny(method string) string {
	c.must(c.SetPolicy(AccessKey, fmt.Sprintf(denyOne, denied[method])))
	return denied[method]
}

// Allow implements cloudtest.World.
func (c *Cloud) Allow(string) { c.must(c.SetPolicy(AccessKey, allowAll)) }

func (c *Cloud) must(err error) {
	if err != nil {
		panic(err)
	}
}

// Page implements cloudtest.World: the least that Alibaba Cloud takes.
func (c *Cloud) Page() int { return 10 }

// Requests implements cloudtest.World.
func (c *Cloud) Requests() (n int) {
	for _, calls := range c.Calls() {
		n += calls
	}
	return n
}

// Permit implements cloudtest.PolicyWorld.
func (c *Cloud) Permit(document string) error { return c.SetPolicy(AccessKey, document) }

// Used implements cloudtest.PolicyWorld.
func (c *Cloud) Used() map[string]bool {
	used := map[string]bool{}
	for action := range c.Calls() {
		used[actions[action].service+":"+action] = true
	}
	return used
}

// conditionKeys are the condition keys of policies.
var conditionKeys = []string{"acs:RequestTag/", "acs:ResourceTag/"}

// authorize returns the refusal of a request, unless the policy of its access key allows it on all its resources.
func (c *Cloud) authorize(r request) *refusal {
	c.mu.Lock()
	p := c.mu.policies[r.key]
	c.mu.Unlock()
	if p == nil {
		return nil
	}
	for _, use := range c.uses(r) {
		if !p.Allows(use) {
			refused := refuse(403, "Forbidden.RAM", "User not authorized to operate on the specified resource, or this API doesn't support RAM.")
			refused.detail = map[string]any{"AuthAction": use.Action, "NoPermissionType": "ImplicitDeny", "PolicyType": "AccountLevelIdentityBasedPolicy"}
			return refused
		}
	}
	return nil
}

// kinds are the resources in the parameters of changing actions: service and kind of the resource name.
var kinds = map[string]string{
	"NetworkInterfaceId": "ecs:%s:eni/", "ResourceId": "ecs:%s:eni/", "InstanceId": "ecs:%s:instance/",
	"SecurityGroupIds": "ecs:%s:securitygroup/", "VSwitchId": "vpc:%s:vswitch/",
}

// uses returns what a request does: a description uses *, a change each of its resources, a creation also the new interface.
func (c *Cloud) uses(r request) []policytest.Use {
	action := actions[r.action].service + ":" + r.action
	if !actions[r.action].changes {
		return []policytest.Use{{Action: action, Resource: "*"}}
	}
	tags := map[string]map[string]string{}
	for _, i := range c.Present() {
		tags[i.ID] = i.Tags
	}
	requested := map[string]string{}
	for name := range r.form {
		if prefix, ok := strings.CutSuffix(name, ".Key"); ok {
			requested["acs:RequestTag/"+r.form.Get(name)] = r.form.Get(prefix + ".Value")
		}
	}
	use := func(kind, id string) policytest.Use {
		keys := maps.Clone(requested)
		for key, value := range tags[id] {
			keys["acs:ResourceTag/"+key] = value
		}
		return policytest.Use{Action: action, Resource: "acs:" + fmt.Sprintf(kind, c.region+":"+account) + id, Keys: keys}
	}
	var uses []policytest.Use
	if r.action == "CreateNetworkInterface" {
		uses = append(uses, use(kinds["NetworkInterfaceId"], "*"))
	}
	for name, values := range r.form {
		parameter, _, _ := strings.Cut(name, ".")
		if kind, ok := kinds[parameter]; ok {
			uses = append(uses, use(kind, values[0]))
		}
	}
	return uses
}
