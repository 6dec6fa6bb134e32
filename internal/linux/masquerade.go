package linux

import (
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/netplan"
)

// ctStatusDstNAT is IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h.
const ctStatusDstNAT = 1 << 5

// masqueradeChain is the chain of one masquerading.
//
// Matching the input interface after routing needs Linux 5.7.
func masqueradeChain(m netplan.Masquerade) nftChain {
	masq := &expr.Masq{FullyRandom: true}
	from := append(meta(expr.MetaKeyIIFNAME, expr.CmpOpEq, []byte(m.Links)), &expr.Counter{}, masq)
	to := append(meta(expr.MetaKeyOIFNAME, expr.CmpOpEq, []byte(m.Links)),
		&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(ctStatusDstNAT), Xor: binaryutil.NativeEndian.PutUint32(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(0)},
		&expr.Counter{},
		masq)
	keep := func(protocol byte) []expr.Any {
		return slices.Concat(
			meta(expr.MetaKeyOIFNAME, expr.CmpOpEq, []byte(m.Links)),
			meta(expr.MetaKeyOIFGROUP, expr.CmpOpEq, binaryutil.NativeEndian.PutUint32(netplan.ReplyGroup)),
			isProtocol(protocol),
			[]expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictAccept}})
	}
	return nftChain{
		name: "postrouting", kind: nftables.ChainTypeNAT, hook: nftables.ChainHookPostrouting, priority: nftables.ChainPriorityNATSource,
		rules: []nftRule{
			{"v2: forwarded from pods on " + m.Links + "*: the answer must come back here", from},
			{"v2: the pod answers TCP through this node", keep(unix.IPPROTO_TCP)},
			{"v2: the pod answers UDP through this node", keep(unix.IPPROTO_UDP)},
			{"v2: translated on the way to pods on " + m.Links + "*: the answer must come back here", to},
		},
	}
}

func (n *Namespace) addMasquerade(m netplan.Masquerade) error {
	err := n.replaceTable(nftFamily(m.Family), nil, masqueradeChain(m))
	if lacksNFT(err) {
		return fmt.Errorf("the kernel lacks NAT for nftables: build it with CONFIG_NFT_NAT and CONFIG_NFT_MASQ, or load their modules: %w", err)
	}
	return err
}
