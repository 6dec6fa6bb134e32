package ipam

import "fmt"

// Kind classifies an Error by its remedy.
type Kind int

// Kinds of errors.
const (
	Unavailable Kind = iota // a passing condition; try again later
	Internal                // a fault of the agent
	Invalid                 // an invalid annotation or network configuration
	NoAddress               // no pool can provide an address
	Mismatch                // CHECK: the leases differ from the addresses of the interface
	Refused                 // the pod does not exist, or runs on another node
)

// Error is a failed request.
type Error struct {
	Kind    Kind
	Msg     string // e.g. "interface eth0 of pod default/web-0 on node worker1 gets no address"
	Details string // the reasons, separated by "; "
	Err     error  // the error behind it; nil for none
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// Error returns the message and the details in one line.
func (e *Error) Error() string {
	if e.Details == "" {
		return e.Msg
	}
	return fmt.Sprintf("%s: %s", e.Msg, e.Details)
}
