package pieces

import (
	"cmp"
	"net/netip"
	"slices"

	"spiderpool.dev/spiderpool/internal/cloud"
)

// Found sorts the addresses of an interface into the node's own and those for pods. The zero
// value is empty.
type Found struct {
	Primary  []netip.Addr
	Assigned []netip.Prefix
	Err      error // of the first text that is no address
}

func (f *Found) keep(err error) bool {
	f.Err = cmp.Or(f.Err, err)
	return err == nil
}

// Address adds a single address, e.g. "10.0.1.77".
func (f *Found) Address(text string, primary bool) {
	address, err := netip.ParseAddr(text)
	switch {
	case !f.keep(err):
	case primary:
		f.Primary = append(f.Primary, address)
	default:
		f.Assigned = append(f.Assigned, netip.PrefixFrom(address, address.BitLen()))
	}
}

// Prefix adds a prefix, e.g. "10.0.1.16/28".
func (f *Found) Prefix(text string) {
	prefix, err := netip.ParsePrefix(text)
	if f.keep(err) {
		f.Assigned = append(f.Assigned, prefix.Masked())
	}
}

// In returns an interface with the addresses, the assigned ones in order.
func (f *Found) In(i cloud.Interface) (cloud.Interface, error) {
	slices.SortFunc(f.Assigned, netip.Prefix.Compare)
	i.Primary, i.Assigned = f.Primary, f.Assigned
	return i, f.Err
}
