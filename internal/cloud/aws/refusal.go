package aws

import (
	"context"
	"errors"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	awssdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"spiderpool.dev/spiderpool/internal/cloud"
)

// service is the name of EC2 in IAM policies.
const service = "ec2:"

// kinds are the codes of https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
// that a caller can do something about.
var kinds = map[string]cloud.Kind{
	"RequestLimitExceeded":     cloud.Throttled,
	"Throttling":               cloud.Throttled,
	"ThrottlingException":      cloud.Throttled,
	"EC2ThrottledException":    cloud.Throttled,
	"RequestThrottled":         cloud.Throttled,
	"TooManyRequestsException": cloud.Throttled,

	"InsufficientFreeAddressesInSubnet": cloud.NoCapacity,
	"InsufficientCidrBlocks":            cloud.Fragmented,

	"PrivateIpAddressLimitExceeded": cloud.Quota,
	"Ipv6AddressLimitExceeded":      cloud.Quota,
	"NetworkInterfaceLimitExceeded": cloud.Quota,
	"AttachmentLimitExceeded":       cloud.Quota,

	"InvalidInstanceID.NotFound":         cloud.Gone,
	"InvalidNetworkInterfaceID.NotFound": cloud.Gone,
	"InvalidNetworkInterface.NotFound":   cloud.Gone,
	"InvalidSubnetID.NotFound":           cloud.Gone,
	"InvalidSubnet":                      cloud.Gone,
	"InvalidGroup.NotFound":              cloud.Gone,
	"InvalidSecurityGroupID.NotFound":    cloud.Gone,
	"InvalidAttachmentID.NotFound":       cloud.Gone,

	"UnauthorizedOperation": cloud.Permission,
	"AccessDenied":          cloud.Permission,
	"AccessDeniedException": cloud.Permission,

	"AuthFailure":                 cloud.Credentials,
	"OptInRequired":               cloud.Credentials,
	"ExpiredToken":                cloud.Credentials,
	"ExpiredTokenException":       cloud.Credentials,
	"InvalidClientTokenId":        cloud.Credentials,
	"InvalidIdentityToken":        cloud.Credentials,
	"RequestExpired":              cloud.Credentials,
	"SignatureDoesNotMatch":       cloud.Credentials,
	"UnrecognizedClientException": cloud.Credentials,

	"InvalidIPAddress.InUse":        cloud.Conflict,
	"PrivateIpAddressInUse":         cloud.Conflict,
	"InvalidNetworkInterface.InUse": cloud.Conflict,
	"IncorrectState":                cloud.Conflict,
	"IncorrectInstanceState":        cloud.Conflict,
	"ResourceConflict":              cloud.Conflict,
}

// texts tell apart the meanings of InvalidParameterValue.
var texts = []struct {
	kind cloud.Kind
	text *regexp.Regexp
}{
	{cloud.Conflict, regexp.MustCompile(`(?i)already (?:assigned|has an interface attached|attached|in use)|move is not allowed|(?:is|are) (?:currently )?in use`)},
	{cloud.Fragmented, regexp.MustCompile(`(?i)not enough free cidr|insufficient.*prefix`)},
}

// notAssigned is EC2's refusal to take an address from an interface that does not have it.
var notAssigned = regexp.MustCompile(`(?i)not assigned to`)

// refusedAction is the action in the text of UnauthorizedOperation, which may be another one
// than the called: ec2:CreateTags of CreateNetworkInterface.
var refusedAction = regexp.MustCompile(`perform:? ([a-z0-9-]+:[A-Za-z0-9]+)`)

// credentials marks the errors of the credentials, which come before a request is sent.
type credentials struct{ awssdk.CredentialsProvider }

type credentialsError struct{ error }

func (e credentialsError) Unwrap() error { return e.error }

func (c credentials) Retrieve(ctx context.Context) (awssdk.Credentials, error) {
	got, err := c.CredentialsProvider.Retrieve(ctx)
	if err != nil {
		return got, credentialsError{err}
	}
	return got, nil
}

// refusal returns the cloud.Error of a failed request.
func refusal(action string, err error) *cloud.Error {
	e := &cloud.Error{Kind: cloud.Unknown, Action: service + action, Err: err}
	if r, ok := errors.AsType[*smithyhttp.ResponseError](err); ok {
		e.After = retryAfter(r)
	}
	api, answered := errors.AsType[smithy.APIError](err)
	if _, ok := errors.AsType[credentialsError](err); ok {
		// Nothing was sent to EC2: no change can have happened. A role that may not be assumed
		// lacks trust, and no action in its policy.
		e.Kind = cloud.Credentials
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			e.Kind = cloud.Throttled
		}
	} else if answered {
		e.Kind = kindOf(api, err)
	}
	if answered && (e.Kind == cloud.Permission || e.Kind == cloud.Credentials) {
		if match := refusedAction.FindStringSubmatch(api.ErrorMessage()); match != nil {
			e.Action = match[1]
		}
	}
	return e
}

func kindOf(api smithy.APIError, err error) cloud.Kind {
	if kind, ok := kinds[api.ErrorCode()]; ok {
		return kind
	}
	for _, t := range texts {
		if t.text.MatchString(api.ErrorMessage()) {
			return t.kind
		}
	}
	// EC2 answers a request that it does not carry out with a status below 500.
	if r, ok := errors.AsType[*smithyhttp.ResponseError](err); ok && r.HTTPStatusCode() < http.StatusInternalServerError {
		return cloud.Invalid
	}
	return cloud.Unknown
}

func retryAfter(r *smithyhttp.ResponseError) time.Duration {
	response := r.HTTPResponse()
	if response == nil || response.Response == nil {
		return 0
	}
	seconds, err := strconv.Atoi(strings.TrimSpace(response.Header.Get("Retry-After")))
	if err != nil || seconds < 0 {
		return 0
	}
	return time.Duration(seconds) * time.Second
}

// isNotAssigned reports whether EC2 refused to unassign because the interface does not have
// one of the pieces. It then took none of them.
func isNotAssigned(err error) bool {
	api, ok := errors.AsType[smithy.APIError](err)
	return ok && notAssigned.MatchString(api.ErrorMessage())
}
