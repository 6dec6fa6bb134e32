package ec2test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Error is an error of the API, with a code of
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html.
type Error struct {
	Code    string // e.g. InvalidNetworkInterfaceID.NotFound
	Message string
}

// Error returns the code and the message, e.g. "InvalidSubnetID.NotFound: The subnet ID 'subnet-1' does not exist".
func (e *Error) Error() string { return e.Code + ": " + e.Message }

// refuse returns an error with a code.
func refuse(code, format string, values ...any) *Error {
	return &Error{code, fmt.Sprintf(format, values...)}
}

// statusOf are the HTTP statuses of codes; the others have 400.
var statusOf = map[string]int{
	"AuthFailure":           http.StatusUnauthorized,
	"DryRunOperation":       http.StatusPreconditionFailed,
	"UnauthorizedOperation": http.StatusForbidden,
	"InternalError":         http.StatusInternalServerError,
	"InternalFailure":       http.StatusInternalServerError,
	"RequestLimitExceeded":  http.StatusServiceUnavailable,
	"ServiceUnavailable":    http.StatusServiceUnavailable,
	"Unavailable":           http.StatusServiceUnavailable,
}

// status returns the HTTP status of the error.
func (e *Error) status() int {
	if s, ok := statusOf[e.Code]; ok {
		return s
	}
	return http.StatusBadRequest
}

// messages are the texts of injected codes.
var messages = map[string]string{
	"RequestLimitExceeded":              "Request limit exceeded.",
	"InternalError":                     "An internal error has occurred",
	"Unavailable":                       "The server is overloaded and can't handle the request.",
	"InsufficientFreeAddressesInSubnet": "The specified subnet does not have enough free addresses to satisfy the request.",
	"InsufficientCidrBlocks":            "The specified subnet does not have enough free cidr blocks to satisfy the request.",
	"PrivateIpAddressLimitExceeded":     "Number of private addresses will exceed limit.",
}

// known returns an error whose code says everything.
func known(code string) *Error {
	message, ok := messages[code]
	if !ok {
		message = "Injected by a test."
	}
	return &Error{code, message}
}

// notFound are the code and the noun of missing resources, by the prefix of their IDs.
var notFound = []struct{ prefix, code, noun string }{
	{"eni-attach-", "InvalidAttachmentID.NotFound", "interface attachment ID"},
	{"eni-", "InvalidNetworkInterfaceID.NotFound", "networkInterface ID"},
	{"i-", "InvalidInstanceID.NotFound", "instance ID"},
	{"subnet-", "InvalidSubnetID.NotFound", "subnet ID"},
	{"vpc-", "InvalidVpcID.NotFound", "vpc ID"},
	{"sg-", "InvalidGroup.NotFound", "security group"},
}

// missing returns the error of a resource that does not exist, and of an ID without a known prefix.
func missing(id string) *Error {
	i := slices.IndexFunc(notFound, func(n struct{ prefix, code, noun string }) bool { return strings.HasPrefix(id, n.prefix) })
	if i < 0 {
		return refuse("InvalidID", "The ID '%s' is not valid", id)
	}
	return refuse(notFound[i].code, "The %s '%s' does not exist", notFound[i].noun, id)
}
