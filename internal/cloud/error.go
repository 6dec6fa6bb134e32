package cloud

import (
	"errors"
	"fmt"
	"time"
)

// Kind says what a caller can do about an error.
type Kind string

const (
	// Throttled: too many calls; try again later.
	Throttled Kind = "Throttled"
	// NoCapacity: the subnet has too few free addresses; use another one.
	NoCapacity Kind = "NoCapacity"
	// Fragmented: the subnet has free addresses but no contiguous room for a prefix; use
	// single addresses or another subnet.
	Fragmented Kind = "Fragmented"
	// Quota: the interface or the instance has all that its type allows.
	Quota Kind = "Quota"
	// Gone: the instance, interface or subnet does not exist (any more).
	Gone Kind = "Gone"
	// Permission: an action is not allowed; Error.Action names it.
	Permission Kind = "Permission"
	// Credentials: there are no credentials, or the cloud does not accept them, e.g. because
	// they have expired. No change has happened.
	Credentials Kind = "Credentials"
	// Conflict: the piece belongs to another interface, or another change is under way.
	Conflict Kind = "Conflict"
	// Invalid: the cloud refuses the request; a repetition is useless.
	Invalid Kind = "Invalid"
	// Unknown: the answer was lost or not understood, or ctx ended. The change may have
	// happened.
	Unknown Kind = "Unknown"
)

// Error is a refusal of the cloud.
type Error struct {
	Kind Kind
	// Action is the cloud's name of the call, e.g. ec2:AssignPrivateIpAddresses.
	Action string
	// After is the least time until a repetition, or zero.
	After time.Duration
	Err   error
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %s: %v", e.Action, e.Kind, e.Err) }

func (e *Error) Unwrap() error { return e.Err }

// NotUnderstood is the error of an answer that we cannot read.
func NotUnderstood(action string, err error) error {
	return &Error{Kind: Unknown, Action: action, Err: fmt.Errorf("the answer is not understood: %w", err)}
}

// KindOf returns the kind of an error of a provider, and Unknown for any other.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Unknown
}
