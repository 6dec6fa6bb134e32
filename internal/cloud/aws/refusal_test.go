package aws

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"spiderpool.dev/spiderpool/internal/cloud"
)

// answer is an error as the SDK returns it.
func answer(status int, code, message string) error {
	return &smithy.OperationError{ServiceID: "EC2", OperationName: "X", Err: &smithyhttp.ResponseError{
		Response: &smithyhttp.Response{Response: &http.Response{StatusCode: status, Header: http.Header{"Retry-After": {"7"}}}},
		Err:      &smithy.GenericAPIError{Code: code, Message: message},
	}}
}

func TestRefusalsHaveKinds(t *testing.T) {
	const denied = "You are not authorized to perform this operation. User: arn:aws:sts::1:assumed-role/r/s is not authorized to perform: ec2:CreateTags " +
		"on resource: arn:aws:ec2:eu-central-1:1:network-interface/* because no identity-based policy allows the ec2:CreateTags action."
	for _, want := range []struct {
		kind   cloud.Kind
		action string
		err    error
	}{
		{cloud.Throttled, "ec2:X", answer(503, "RequestLimitExceeded", "Request limit exceeded.")},
		{cloud.NoCapacity, "ec2:X", answer(400, "InsufficientFreeAddressesInSubnet", "")},
		{cloud.Fragmented, "ec2:X", answer(400, "InsufficientCidrBlocks", "The specified subnet does not have enough free cidr blocks to satisfy the request.")},
		{cloud.Quota, "ec2:X", answer(400, "PrivateIpAddressLimitExceeded", "")},
		{cloud.Gone, "ec2:X", answer(400, "InvalidNetworkInterfaceID.NotFound", "")},
		{cloud.Permission, "ec2:CreateTags", answer(403, "UnauthorizedOperation", denied)},
		{cloud.Permission, "ec2:X", answer(403, "UnauthorizedOperation", "You are not authorized to perform this operation.")},
		{cloud.Credentials, "ec2:X", answer(401, "AuthFailure", "")},
		{cloud.Credentials, "ec2:X", answer(400, "RequestExpired", "Request has expired.")},
		{cloud.Conflict, "ec2:X", answer(400, "InvalidParameterValue", "Some of [10.0.0.5] are assigned, but move is not allowed.")},
		{cloud.Conflict, "ec2:X", answer(400, "InvalidParameterValue", "Instance 'i-1' already has an interface attached at device index '1'.")},
		{cloud.Conflict, "ec2:X", answer(400, "InvalidParameterValue", "Network interface 'eni-1' is currently in use.")},
		{cloud.Invalid, "ec2:X", answer(400, "InvalidParameterValue", "Value (x) for parameter y is invalid.")},
		{cloud.Unknown, "ec2:X", answer(500, "InternalError", "An internal error has occurred")},
		{cloud.Unknown, "ec2:X", answer(503, "Unavailable", "")},
		{cloud.Unknown, "ec2:X", errors.New("EOF")},
		{cloud.Unknown, "ec2:X", fmt.Errorf("send: %w", context.Canceled)},
		{cloud.Credentials, "ec2:X", fmt.Errorf("sign: %w", credentialsError{errors.New("no EC2 IMDS role found")})},
		{cloud.Throttled, "ec2:X", fmt.Errorf("sign: %w", credentialsError{context.DeadlineExceeded})},
		{
			cloud.Credentials, "sts:AssumeRoleWithWebIdentity",
			credentialsError{answer(403, "AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity")},
		},
	} {
		got := refusal("X", want.err)
		if got.Kind != want.kind || got.Action != want.action || !errors.Is(got, want.err) {
			t.Errorf("%v: got %s of %s, want %s of %s", want.err, got.Kind, got.Action, want.kind, want.action)
		}
	}
	if after := refusal("X", answer(503, "RequestLimitExceeded", "")).After; after != 7*time.Second {
		t.Errorf("try again after %s, want the 7s of Retry-After", after)
	}
}

func TestInstanceIDOfRegionOnly(t *testing.T) {
	for _, test := range []struct{ region, providerID, want string }{
		{"eu-central-1", "aws:///eu-central-1a/i-0123456789abcdef0", "i-0123456789abcdef0"},
		{"us-west-2", "aws:///us-west-2-lax-1a/i-0123456789abcdef0", "i-0123456789abcdef0"},
		{"us-gov-west-1", "aws:///us-gov-west-1b/i-0123456789abcdef0", "i-0123456789abcdef0"},
		{"eu-central-1", "aws:///eu-west-1a/i-0123456789abcdef0", ""},
		{"eu-central-1", "aws:///eu-central-10a/i-0123456789abcdef0", ""},
		{"eu-central-1", "aws:///eu-central-1a/i-*", ""},
		{"eu-central-1", "aws:///eu-central-1a/fargate-ip-10-0-0-1", ""},
		{"eu-central-1", "aws:///i-0123456789abcdef0", ""},
		{"eu-central-1", "", ""},
	} {
		p := &Provider{region: test.region}
		id, ok := p.InstanceID(test.providerID)
		if ok != (test.want != "") || ok && id != test.want {
			t.Errorf("%s in %s is %q, %t, want %q", test.providerID, test.region, id, ok, test.want)
		}
	}
}
