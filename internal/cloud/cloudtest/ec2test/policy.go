package ec2test

import (
	"encoding/base32"
	"encoding/base64"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"spiderpool.dev/spiderpool/internal/cloud/cloudtest/policytest"
)

// conditionKeys are the keys, or their prefixes, that the fake knows.
// https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonec2.html
var conditionKeys = []string{"aws:RequestTag/", "aws:ResourceTag/", "ec2:ResourceTag/", "ec2:CreateAction", "ec2:Region", "aws:RequestedRegion", "ec2:Vpc"}

// authorize returns UnauthorizedOperation unless the principal's policy allows the request on all its resources.
func (c *Cloud) authorize(q query) *Error {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.mu.policies[q.principal]
	if p == nil {
		return nil
	}
	for _, use := range c.session(c.current(), c.options.Now()).permissions(q) {
		if !p.Allows(use) {
			return c.unauthorized(q, use)
		}
	}
	return nil
}

// unauthorized returns the error of a missing permission. Its text ends with an encoded message, which AWS' clients
// decode with sts:DecodeAuthorizationMessage; the fake's is base64 of JSON.
func (c *Cloud) unauthorized(q query, use policytest.Use) *Error {
	user := fmt.Sprintf("arn:aws:iam::%s:user/%s", c.options.Account, q.principal)
	if role, ok := strings.CutPrefix(q.principal, rolePrincipal); ok {
		user = fmt.Sprintf("arn:aws:sts::%s:assumed-role/%s/fake", c.options.Account, role)
	}
	message := fmt.Sprintf(`{"allowed":false,"context":{"principal":%q,"action":%q,"resource":%q}}`, user, use.Action, use.Resource)
	return refuse("UnauthorizedOperation", "You are not authorized to perform this operation. User: %s is not authorized to perform: %s on resource: %s "+
		"because no identity-based policy allows the %[2]s action. Encoded authorization failure message: %[4]s",
		user, use.Action, use.Resource, base64.RawURLEncoding.EncodeToString([]byte(message)))
}

// permissions returns the uses of actions that a request needs. Describes need one on *, changes one on each resource,
// and a creation with tags ec2:CreateTags, too
// (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/supported-iam-actions-tagging.html).
func (x *session) permissions(q query) []policytest.Use {
	action := "ec2:" + q.action
	uses := []policytest.Use{}
	add := func(action, kind, id string, tags, requested map[string]string) {
		uses = append(uses, x.permission(action, kind, id, tags, requested))
	}
	tags, requested := x.tags(), tagsOf(q.form, "Tag.")
	if q.action == "CreateNetworkInterface" {
		requested = tagsOf(q.form, "TagSpecification.1.Tag.")
		add(action, "network-interface", "*", nil, requested)
		if len(requested) > 0 {
			add("ec2:CreateTags", "network-interface", "*", nil, requested)
			uses[len(uses)-1].Keys["ec2:CreateAction"] = q.action
		}
	}
	if i, err := x.attached(q.form.Get("AttachmentId")); err == nil {
		add(action, "network-interface", i.ID, i.Tags, requested)
		add(action, "instance", i.Attachment.Instance, nil, requested)
	}
	for name, values := range q.form {
		if parameter, _, _ := strings.Cut(name, "."); slices.Contains(resourceParameters, parameter) {
			add(action, kindOf(values[0]), values[0], tags[values[0]], requested)
		}
	}
	if a := actions[q.action]; a.reads || len(uses) == 0 {
		uses = []policytest.Use{x.permission(action, "", "*", nil, requested)}
	}
	slices.SortFunc(uses, func(a, b policytest.Use) int { return strings.Compare(a.Action+a.Resource, b.Action+b.Resource) })
	return uses
}

// resourceParameters are the parameters with IDs of resources.
var resourceParameters = []string{"NetworkInterfaceId", "InstanceId", "SubnetId", "SecurityGroupId", "ResourceId"}

// kindOf returns the kind of a resource in ARNs, by its ID.
func kindOf(id string) string {
	prefix, _, _ := strings.Cut(id, "-")
	if kind, ok := map[string]string{"eni": "network-interface", "i": "instance", "sg": "security-group"}[prefix]; ok {
		return kind
	}
	return prefix
}

func (x *session) permission(action, kind, id string, tags, requested map[string]string) policytest.Use {
	region := x.options.Region
	use := policytest.Use{Action: action, Resource: "*", Keys: map[string]string{"ec2:Region": region, "aws:RequestedRegion": region}}
	if kind != "" {
		use.Resource = fmt.Sprintf("arn:aws:ec2:%s:%s:%s/%s", region, x.options.Account, kind, id)
	}
	for key, value := range tags {
		use.Keys["aws:ResourceTag/"+key], use.Keys["ec2:ResourceTag/"+key] = value, value
	}
	for key, value := range requested {
		use.Keys["aws:RequestTag/"+key] = value
	}
	if n := x.subnets[id]; n != nil {
		use.Keys["ec2:Vpc"] = fmt.Sprintf("arn:aws:ec2:%s:%s:vpc/%s", region, x.options.Account, n.VPC)
	}
	return use
}

// tagsOf returns the tags in a request's parameters, e.g. Tag.1.Key and Tag.1.Value for the prefix "Tag.".
func tagsOf(form url.Values, prefix string) map[string]string {
	tags := map[string]string{}
	for name, values := range form {
		if index, ok := strings.CutPrefix(name, prefix); ok && strings.HasSuffix(index, ".Key") {
			tags[values[0]] = form.Get(prefix + strings.TrimSuffix(index, "Key") + "Value")
		}
	}
	return tags
}

const (
	rolePrincipal = "role/"
	// roleKey is the beginning of the access keys of roles; the role follows in base32.
	roleKey = "ASIA"
)

// accessKey returns the access key ID of a role's credentials.
func accessKey(role string) string {
	return roleKey + base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString([]byte(role))
}

// principalOf returns the principal of an access key ID: role/NAME for a role's credentials, otherwise the key itself.
func principalOf(key string) string {
	if encoded, ok := strings.CutPrefix(key, roleKey); ok {
		if role, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(encoded); err == nil {
			return rolePrincipal + string(role)
		}
	}
	return key
}
