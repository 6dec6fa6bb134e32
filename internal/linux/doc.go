// Package linux reads the kernel's networking state of a namespace into the
// values of package netplan and applies changes to it.
//
// A Namespace has its own netlink socket. None of its methods executes a program
// or opens a socket in another goroutine, which could run in another namespace.
// Apply is idempotent: an item that already exists, or is already gone, is no
// error. If a change fails, Apply undoes the earlier ones in reverse order. Dumps
// interrupted by a change (NLM_F_DUMP_INTR) are repeated.
//
// Package probe speaks ARP and NDP over packet sockets: it detects addresses in
// use, checks gateways, and announces addresses.
package linux
