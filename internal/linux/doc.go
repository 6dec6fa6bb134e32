// Package linux reads the kernel's networking state of a namespace into the
// values of package netplan and applies changes to it.
//
// A Namespace holds its own netlink socket; no code that it calls opens a socket
// in a goroutine of its own while a thread is in another namespace, and nothing is
// executed. Apply is
// idempotent: what is there already, or gone already, is no error; when a change
// fails, those before it are taken back in the opposite order. Dumps that the
// kernel reports as interrupted are repeated.
//
// Probe functions speak ARP and NDP over packet sockets, to find out whether an
// address is in use and a gateway answers, and to announce an address.
package linux
