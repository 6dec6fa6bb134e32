package alibaba

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	openapi "github.com/alibabacloud-go/darabonba-openapi/v2/client"
	"github.com/alibabacloud-go/tea/dara"

	"spiderpool.dev/spiderpool/internal/cloud"
)

func answer(status int, code string) error {
	return &openapi.ClientError{StatusCode: &status, Code: &code, Message: dara.String(code)}
}

func TestRefusalsHaveKinds(t *testing.T) {
	denied := &openapi.ClientError{
		StatusCode: dara.Int(403), Code: dara.String("Forbidden.RAM"), Message: dara.String("denied"),
		AccessDeniedDetail: map[string]any{"AuthAction": "ecs:TagResources"},
	}
	for _, want := range []struct {
		kind   cloud.Kind
		action string
		err    error
	}{
		{cloud.Throttled, "ecs:X", &openapi.ThrottlingError{StatusCode: dara.Int(400), Code: dara.String("Throttling.User")}},
		{cloud.Throttled, "ecs:X", answer(503, "Throttling.Resource")},
		{cloud.NoCapacity, "ecs:X", answer(403, "InvalidVSwitchId.IpNotEnough")},
		{cloud.NoCapacity, "ecs:X", answer(403, "InvalidVSwitchID.IpNotEnough")},
		{cloud.Quota, "ecs:X", answer(403, "InvalidOperation.Ipv4CountExceeded")},
		{cloud.Quota, "ecs:X", answer(403, "QuotaExceeded.PrivateIpAddress")},
		{cloud.Gone, "ecs:X", answer(404, "InvalidEniId.NotFound")},
		{cloud.Permission, "ecs:TagResources", denied},
		{cloud.Permission, "ecs:X", answer(403, "Forbidden.RAM")},
		{cloud.Credentials, "ecs:X", answer(404, "InvalidAccessKeyId.NotFound")},
		{cloud.Credentials, "ecs:X", answer(400, "InvalidSecurityToken.Expired")},
		{cloud.Conflict, "ecs:X", answer(403, "InvalidIp.IpAssigned")},
		{cloud.Conflict, "ecs:X", answer(403, "Operation.Conflict")},
		{cloud.Invalid, "ecs:X", answer(404, "InvalidRegionId.NotFound")},
		{cloud.Unknown, "ecs:X", &openapi.ServerError{StatusCode: dara.Int(500), Code: dara.String("InternalError")}},
		{cloud.Unknown, "ecs:X", answer(400, "")},
		{cloud.Unknown, "ecs:X", errors.New("EOF")},
		{cloud.Unknown, "ecs:X", fmt.Errorf("send: %w", context.Canceled)},
		{cloud.Credentials, "ecs:X", fmt.Errorf("sign: %w", credentialsError{errors.New("no role")})},
	} {
		got := refusal("ecs:X", want.err)
		if got.Kind != want.kind || got.Action != want.action || !errors.Is(got, want.err) {
			t.Errorf("%v: got %s of %s, want %s of %s", want.err, got.Kind, got.Action, want.kind, want.action)
		}
	}
}

func TestThrottlingSaysWhenToReturn(t *testing.T) {
	p, w, node, _ := startWithNode(t)
	w.Throttle("Instances")
	_, err := p.Instances(t.Context(), []string{node})
	if refused, ok := errors.AsType[*cloud.Error](err); !ok || refused.Kind != cloud.Throttled || refused.After != 7*time.Second {
		t.Errorf("error %#v, want one that says 7 s", err)
	}
}

func TestInstanceIDOfRegionOnly(t *testing.T) {
	for _, test := range []struct{ region, providerID, want string }{
		{"cn-hangzhou", "alicloud://cn-hangzhou.i-bp1e2l6djkndyuli", "i-bp1e2l6djkndyuli"},
		{"cn-hangzhou", "cn-hangzhou.i-bp1e2l6djkndyuli", "i-bp1e2l6djkndyuli"},
		{"cn-hangzhou", "cn-beijing.i-bp1e2l6djkndyuli", ""},
		{"cn-hangzhou", "cn-hangzhou.i-*", ""},
		{"cn-hangzhou", "cn-hangzhou.eci-bp1e2l6djkndyuli", ""},
		{"cn-hangzhou", "i-bp1e2l6djkndyuli", ""},
		{"cn-hangzhou", "aws:///cn-hangzhou/i-0123", ""},
		{"cn-hangzhou", "", ""},
	} {
		p := &Provider{region: test.region}
		id, ok := p.InstanceID(test.providerID)
		if ok != (test.want != "") || ok && id != test.want {
			t.Errorf("%s in %s is %q, %t, want %q", test.providerID, test.region, id, ok, test.want)
		}
	}
}
