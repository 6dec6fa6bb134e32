package linux

import (
	"errors"
	"fmt"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/netplan"
)

// The table is ours alone. kube-proxy and others have their own tables and hooks;
// the first translation of a connection wins.
const (
	nftTable = "spiderpool"
	nftChain = "postrouting"
)

// ctStatusDstNAT is IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h.
const ctStatusDstNAT = 1 << 5

// masqueradeRules are the rules of one masquerading. We recognise a rule by its
// comment, shown by `nft list`.
//
// Matching the input interface after routing needs Linux 5.7.
func masqueradeRules(m netplan.Masquerade) (comments []string, exprs [][]expr.Any) {
	masq := &expr.Masq{FullyRandom: true}
	from := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte(m.Links)},
		&expr.Counter{},
		masq,
	}
	to := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte(m.Links)},
		&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(ctStatusDstNAT), Xor: binaryutil.NativeEndian.PutUint32(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(0)},
		&expr.Counter{},
		masq,
	}
	return []string{
		"v1: forwarded from pods on " + m.Links + "*: the answer must come back here",
		"v1: translated on the way to pods on " + m.Links + "*: the answer must come back here",
	}, [][]expr.Any{from, to}
}

// nftTimeout bounds one exchange with the kernel's nftables.
const nftTimeout = 10 * time.Second

// errNoNFT means that the kernel has no nftables.
var errNoNFT = errors.New("the kernel has no nftables")

// withNFT runs f with a connection to the namespace's nftables, or returns errNoNFT.
// It sends one small request first: a kernel without the module answers a batch
// with a single error, and the library would wait for the other answers.
//
// We open the socket here, on this thread. The library's own way into a namespace
// starts a goroutine and loses the error of a kernel without nftables
// (mdlayher/socket v0.5.1, withNetNS).
func (n *Namespace) withNFT(f func(*nftables.Conn) error) error {
	var c *nftables.Conn
	err := n.Do(func() (err error) {
		c, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(nl *netlink.Conn) error {
			return nl.SetDeadline(time.Now().Add(nftTimeout))
		}))
		return err
	})
	if err != nil {
		return err
	}
	defer func() { _ = c.CloseLasting() }()
	if _, err := c.ListTables(); err != nil {
		return fmt.Errorf("%w: %w", errNoNFT, err)
	}
	return f(c)
}

func nftFamily(f inet.Family) nftables.TableFamily {
	if f == inet.IPv6 {
		return nftables.TableFamilyIPv6
	}
	return nftables.TableFamilyIPv4
}

func masqueradeChain(m netplan.Masquerade) (*nftables.Table, *nftables.Chain) {
	t := &nftables.Table{Name: nftTable, Family: nftFamily(m.Family)}
	accept := nftables.ChainPolicyAccept
	return t, &nftables.Chain{
		Name: nftChain, Table: t, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting,
		Priority: nftables.ChainPriorityNATSource, Policy: &accept,
	}
}

func (n *Namespace) hasMasquerade(m netplan.Masquerade) (bool, error) {
	var rules []*nftables.Rule
	err := n.withNFT(func(c *nftables.Conn) (err error) {
		rules, err = c.GetRules(masqueradeChain(m))
		return err
	})
	comments, _ := masqueradeRules(m)
	if err != nil || len(rules) != len(comments) {
		// The library does not keep the reason: a missing table and a kernel without
		// nf_tables look alike. addMasquerade returns the real reason later.
		return false, nil
	}
	for i, r := range rules {
		if string(r.UserData) != string(comment(comments[i])) {
			return false, nil
		}
	}
	return true, nil
}

// addMasquerade replaces the rules of the chain in one transaction, so that two
// concurrent calls leave one set of rules.
func (n *Namespace) addMasquerade(m netplan.Masquerade) error {
	err := n.withNFT(func(c *nftables.Conn) error {
		t, ch := masqueradeChain(m)
		c.AddTable(t)
		c.AddChain(ch)
		c.FlushChain(ch)
		comments, exprs := masqueradeRules(m)
		for i := range exprs {
			c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: exprs[i], UserData: comment(comments[i])})
		}
		return c.Flush()
	})
	if lacksNFT(err) {
		return fmt.Errorf("the kernel lacks NAT for nftables: build it with CONFIG_NFT_NAT and CONFIG_NFT_MASQ, or load their modules: %w", err)
	}
	return err
}

func (n *Namespace) removeMasquerade(m netplan.Masquerade) error {
	err := n.withNFT(func(c *nftables.Conn) error {
		t, _ := masqueradeChain(m)
		c.DelTable(t)
		return c.Flush()
	})
	if errors.Is(err, unix.ENOENT) || lacksNFT(err) {
		return nil
	}
	return err
}

// lacksNFT reports whether the kernel has no nftables or no NAT for nftables. The
// kernel adds ENOENT for each rule of the chain it could not create.
func lacksNFT(err error) bool {
	return errors.Is(err, errNoNFT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EPROTONOSUPPORT)
}

// comment encodes text as user data of a rule (libnftnl's udata type 0).
func comment(text string) []byte {
	b := append([]byte{0, byte(len(text) + 1)}, text...)
	return append(b, 0)
}
