package linux

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/netplan"
)

const (
	// shaperMajor and fixedMajor are the handles of our queueing disciplines, "SP" and
	// the next number. They tell whether netplan.Shaper.Fixed is set.
	shaperMajor = 0x5350
	fixedMajor  = 0x5351
	// The priorities of our filters differ by direction, because a dump of u32 filters
	// shows those of the other direction with the same priority. Filters of lower
	// numbers, e.g. of an observer, see the packets first.
	ingressPriority = 0x5350
	egressPriority  = 0x5351
	// addrGenModeNone is IN6_ADDR_GEN_MODE_NONE of linux/if_link.h.
	addrGenModeNone = 1
)

// newIFB makes an intermediate functional block. It has no link-local address, so it
// sends nothing of its own.
func (a *applier) newIFB(want netplan.Link) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = want.Name, want.MTU, hardwareAddr(want.MAC)
	if want.TxQueueLen != 0 {
		attrs.TxQLen = want.TxQueueLen
	}
	if err := a.n.nl.LinkAdd(&netlink.Ifb{LinkAttrs: attrs}); err != nil {
		return lacksShaping(err)
	}
	l, err := a.n.nl.LinkByName(want.Name)
	if err != nil {
		return err
	}
	if !a.n.HasIPv6() {
		return nil
	}
	return a.n.nl.LinkSetIP6AddrGenMode(l, addrGenModeNone)
}

// lacksShaping names the kernel's missing parts for an error that can mean one.
func lacksShaping(err error) error {
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("the kernel cannot limit the bandwidth of a pod: load or build its modules ifb, sch_tbf, sch_ingress, cls_u32 and act_mirred: %w", err)
	}
	return err
}

// addShaper adds or changes the token bucket filter of an ifb. The library cannot set
// the size of the bucket in bytes (TCA_TBF_BURST), and the kernel limits a bucket in
// time to 4.29 s.
func (a *applier) addShaper(it netplan.Shaper) error {
	l, err := a.n.nl.LinkByName(it.Dev)
	if err != nil {
		return err
	}
	major := uint16(shaperMajor)
	if it.Fixed {
		major = fixedMajor
	}
	mtu, rate := l.Attrs().MTU, it.Rate/8
	parameters := nl.TcTbfQopt{Limit: uint32(it.Queue(mtu))}
	parameters.Rate.Rate = uint32(min(rate, 1<<32-1))
	options := nl.NewRtAttr(nl.TCA_OPTIONS, nil)
	options.AddRtAttr(nl.TCA_TBF_PARMS, parameters.Serialize())
	options.AddRtAttr(nl.TCA_TBF_BURST, nl.Uint32Attr(uint32(it.Burst(mtu))))
	if rate >= 1<<32 {
		options.AddRtAttr(nl.TCA_TBF_RATE64, nl.Uint64Attr(rate))
	}
	return lacksShaping(a.n.Do(func() error {
		req := nl.NewNetlinkRequest(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_REPLACE|unix.NLM_F_ACK)
		req.AddData(&nl.TcMsg{Family: nl.FAMILY_ALL, Ifindex: int32(l.Attrs().Index),
			Handle: netlink.MakeHandle(major, 0), Parent: netlink.HANDLE_ROOT})
		req.AddData(nl.NewRtAttr(nl.TCA_KIND, nl.ZeroTerminated("tbf")))
		req.AddData(options)
		_, err := req.Execute(unix.NETLINK_ROUTE, 0)
		return err
	}))
}

func (a *applier) removeShaper(it netplan.Shaper) error {
	l, err := a.n.nl.LinkByName(it.Dev)
	if err != nil {
		return err
	}
	return a.n.nl.QdiscDel(&netlink.Tbf{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_ROOT}})
}

// addRedirect replaces our filter of the link and direction. It keeps the filters of
// others.
func (a *applier) addRedirect(it netplan.Redirect) error {
	to, err := a.n.nl.LinkByName(it.To)
	if err != nil {
		return err
	}
	l, err := a.n.nl.LinkByName(it.Dev)
	if err != nil {
		return err
	}
	clsact := &netlink.Clsact{QdiscAttrs: clsactOf(l)}
	if err := a.n.nl.QdiscAdd(clsact); err != nil && !errors.Is(err, unix.EEXIST) {
		return lacksShaping(err)
	}
	filter := redirectFilter(l, it.Direction)
	filter.Actions = []netlink.Action{netlink.NewMirredAction(to.Attrs().Index)}
	if err := a.n.nl.FilterDel(redirectFilter(l, it.Direction)); err != nil && !isGone(err) {
		return err
	}
	return lacksShaping(a.n.nl.FilterAdd(filter))
}

// removeRedirect removes our filter, and the hook for filters if no other filter is left.
func (a *applier) removeRedirect(it netplan.Redirect) error {
	l, err := a.n.nl.LinkByName(it.Dev)
	if err != nil {
		return err
	}
	// EINVAL: the link has no hook for filters any more.
	if err := a.n.nl.FilterDel(redirectFilter(l, it.Direction)); errors.Is(err, unix.EINVAL) {
		return nil
	} else if err != nil && !isGone(err) {
		return err
	}
	for _, d := range []netplan.Direction{netplan.Ingress, netplan.Egress} {
		left, err := dump(func() ([]netlink.Filter, error) { return a.n.nl.FilterList(l, filterParent(d)) })
		if err != nil || len(left) > 0 {
			return err
		}
	}
	return a.n.nl.QdiscDel(&netlink.Clsact{QdiscAttrs: clsactOf(l)})
}

func clsactOf(l netlink.Link) netlink.QdiscAttrs {
	return netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}
}

func filterParent(d netplan.Direction) uint32 {
	if d == netplan.Egress {
		return netlink.HANDLE_MIN_EGRESS
	}
	return netlink.HANDLE_MIN_INGRESS
}

func filterPriority(d netplan.Direction) uint16 {
	if d == netplan.Egress {
		return egressPriority
	}
	return ingressPriority
}

// redirectFilter is our filter without its action. It matches every packet; cls_matchall
// would do the same, but fewer kernels have it.
func redirectFilter(l netlink.Link, d netplan.Direction) *netlink.U32 {
	return &netlink.U32{FilterAttrs: netlink.FilterAttrs{
		LinkIndex: l.Attrs().Index, Parent: filterParent(d), Priority: filterPriority(d), Protocol: unix.ETH_P_ALL,
	}}
}

// shaping reads our shapers and redirects. It costs nothing in a pod without them.
func (r *reader) shaping(links []netlink.Link) {
	shapers := map[int]string{}
	for _, l := range links {
		if name := l.Attrs().Name; netplan.IsShaperLink(netplan.Link{Name: name, Kind: l.Type()}) {
			shapers[l.Attrs().Index] = name
		}
	}
	if len(shapers) == 0 {
		return
	}
	for _, l := range links {
		if name := shapers[l.Attrs().Index]; name != "" {
			r.shaper(l)
			continue
		}
		for _, d := range []netplan.Direction{netplan.Ingress, netplan.Egress} {
			filters, err := dump(func() ([]netlink.Filter, error) { return r.n.nl.FilterList(l, filterParent(d)) })
			if r.fail("list the filters of "+l.Attrs().Name, err) {
				return
			}
			for _, f := range filters {
				if to := shapers[redirectsTo(f, d)]; to != "" {
					r.state = append(r.state, netplan.Redirect{Dev: l.Attrs().Name, Direction: d, To: to})
				}
			}
		}
	}
}

// redirectsTo returns the index of the link in our filter, or 0.
func redirectsTo(f netlink.Filter, d netplan.Direction) int {
	u, ok := f.(*netlink.U32)
	if !ok || u.Priority != filterPriority(d) {
		return 0
	}
	for _, action := range u.Actions {
		if m, ok := action.(*netlink.MirredAction); ok {
			return m.Ifindex
		}
	}
	return 0
}

func (r *reader) shaper(l netlink.Link) {
	qdiscs, err := dump(func() ([]netlink.Qdisc, error) { return r.n.nl.QdiscList(l) })
	if r.fail("list the queueing disciplines of "+l.Attrs().Name, err) {
		return
	}
	for _, q := range qdiscs {
		tbf, ok := q.(*netlink.Tbf)
		if !ok || tbf.Parent != netlink.HANDLE_ROOT {
			continue
		}
		major, _ := netlink.MajorMinor(tbf.Handle)
		r.state = append(r.state, netplan.Shaper{Dev: l.Attrs().Name, Rate: tbf.Rate * 8, Fixed: major == fixedMajor})
	}
}
