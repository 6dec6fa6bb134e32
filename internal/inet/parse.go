package inet

import (
	"fmt"
	"net/netip"
	"strings"

	"go4.org/netipx"
)

// Bounds limit the entries that Parse accepts. The zero value accepts any
// addresses of one IP family, the family of the first entry.
type Bounds struct {
	// Family of the entries; 0 means the family of Subnet, else of the first entry.
	Family Family
	// Subnet must contain every address; the zero prefix sets no limit.
	Subnet netip.Prefix
}

// RangeError is the reason for refusing one entry of a list of ranges.
type RangeError struct {
	Index  int    // in the list
	Value  string // as written
	Reason string // the fault and the way out
}

// Error returns the position, the value and the reason.
func (e *RangeError) Error() string {
	return fmt.Sprintf("[%d] %q: %s", e.Index, e.Value, e.Reason)
}

// RangeErrors are the refused entries of one list, in the order of the list.
type RangeErrors []*RangeError

// Error joins the errors with "; ".
func (es RangeErrors) Error() string {
	texts := make([]string, len(es))
	for i, e := range es {
		texts[i] = e.Error()
	}
	return strings.Join(texts, "; ")
}

// Unwrap returns the errors, for errors.As.
func (es RangeErrors) Unwrap() []error {
	errs := make([]error, len(es))
	for i, e := range es {
		errs[i] = e
	}
	return errs
}

// Parse reads addresses ("172.31.28.16") and inclusive ranges
// ("172.31.28.16-172.31.28.31"). Entries may overlap. The error is a RangeErrors
// with all refused entries; the set then holds the others.
func Parse(entries []string, in Bounds) (Set, error) {
	var errs RangeErrors
	var ranges []netipx.IPRange
	family := in.Family
	if family == 0 && in.Subnet.IsValid() {
		family = FamilyOf(in.Subnet.Addr())
	}
	for i, entry := range entries {
		r, reason := parseRange(entry)
		if reason == "" && family == 0 {
			family = FamilyOf(r.From())
		}
		if reason == "" {
			reason = outside(r, family, in.Subnet)
		}
		if reason != "" {
			errs = append(errs, &RangeError{Index: i, Value: entry, Reason: reason})
			continue
		}
		ranges = append(ranges, r)
	}
	set := Of(ranges...)
	if len(errs) > 0 {
		return set, errs
	}
	return set, nil
}

// parseRange returns the range written in entry, or the reason for refusing it.
func parseRange(entry string) (r netipx.IPRange, reason string) {
	if p, err := netip.ParsePrefix(entry); err == nil {
		return r, fmt.Sprintf("is a CIDR; write the range %s", text(netipx.RangeOfPrefix(p.Masked())))
	}
	first, last, isRange := strings.Cut(entry, "-")
	from, reason := parseAddr(first)
	if reason != "" {
		return r, reason
	}
	if !isRange {
		return netipx.IPRangeFrom(from, from), ""
	}
	to, reason := parseAddr(last)
	if reason != "" {
		return r, reason
	}
	if from.Is4() != to.Is4() {
		return r, fmt.Sprintf("mixes IP families: %s is %s and %s is %s; split it into two entries of two pools",
			first, FamilyOf(from), last, FamilyOf(to))
	}
	if to.Less(from) {
		return r, fmt.Sprintf("is inverted: it ends before it begins; write %s-%s", last, first)
	}
	return netipx.IPRangeFrom(from, to), ""
}

func parseAddr(s string) (a netip.Addr, reason string) {
	if strings.TrimSpace(s) != s {
		return a, fmt.Sprintf("has spaces around %q; remove them", strings.TrimSpace(s))
	}
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return a, fmt.Sprintf("%q is not an IP address; write an address (\"10.0.0.1\", \"fd00::1\") or a range first-last", s)
	case a.Zone() != "":
		return a, fmt.Sprintf("has the zone %q, and a zone is only meaningful on one host; write %s", a.Zone(), a.WithZone(""))
	case a.Is4In6():
		return a, fmt.Sprintf("is an IPv4 address in IPv6 form; write %s", a.Unmap())
	}
	return a, ""
}

// outside returns the reason for refusing r, or "" if r is within the bounds.
func outside(r netipx.IPRange, family Family, subnet netip.Prefix) string {
	if got := FamilyOf(r.From()); got != family {
		return fmt.Sprintf("is %s, but this list is for %s", got, family)
	}
	if !subnet.IsValid() {
		return ""
	}
	limits := netipx.RangeOfPrefix(subnet)
	for _, a := range []netip.Addr{r.From(), r.To()} {
		if !subnet.Contains(a) {
			return fmt.Sprintf("%s is outside the subnet %s (%s)", a, subnet, text(limits))
		}
	}
	return ""
}
