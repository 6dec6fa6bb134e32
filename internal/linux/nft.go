package linux

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"spiderpool.dev/spiderpool/internal/flow"
	"spiderpool.dev/spiderpool/internal/inet"
)

// nftTable is ours alone, on the node and in pods. kube-proxy and others have their
// own tables and hooks; the first translation of a connection wins.
const nftTable = "spiderpool"

// nftChain is a base chain of our table.
type nftChain struct {
	name     string
	kind     nftables.ChainType
	hook     *nftables.ChainHook
	priority *nftables.ChainPriority
	rules    []nftRule
}

// nftRule is a rule of a chain. We recognise it by its comment, shown by `nft list`.
type nftRule struct {
	comment string
	exprs   []expr.Any
}

// nftTimeout bounds one exchange with the kernel's nftables.
const nftTimeout = 10 * time.Second

// errNoNFT means that the kernel has no nftables.
var errNoNFT = errors.New("the kernel has no nftables")

// nftConn is a connection to the nftables of a namespace. It stays open, because each new
// one costs a change of the thread's namespace.
type nftConn struct {
	mu     sync.Mutex // held during an exchange
	conn   *nftables.Conn
	socket *netlink.Conn
}

// withNFT runs f with a connection to the namespace's nftables, or returns errNoNFT.
func (n *Namespace) withNFT(f func(*nftables.Conn) error) error {
	n.nft.mu.Lock()
	defer n.nft.mu.Unlock()
	if err := n.openNFT(); err != nil {
		return err
	}
	err := n.nft.socket.SetDeadline(time.Now().Add(nftTimeout))
	if err == nil {
		err = f(n.nft.conn)
	}
	if err != nil {
		n.nft.close() // unread answers would be taken for those of the next request
	}
	return err
}

// openNFT opens the connection unless it is open. It sends one small request: a kernel
// without the module answers a batch with a single error, and the library would wait for
// the other answers.
//
// We open the socket here, on this thread. The library's own way into a namespace
// starts a goroutine and loses the error of a kernel without nftables
// (mdlayher/socket v0.5.1, withNetNS).
func (n *Namespace) openNFT() error {
	if n.nft.conn != nil {
		return nil
	}
	err := n.Do(func() (err error) {
		n.nft.conn, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(nl *netlink.Conn) error {
			n.nft.socket = nl
			return nl.SetDeadline(time.Now().Add(nftTimeout))
		}))
		return err
	})
	if err != nil {
		n.nft.conn = nil
		return err
	}
	if _, err := n.nft.conn.ListTables(); err != nil {
		n.nft.close()
		return fmt.Errorf("%w: %w", errNoNFT, err)
	}
	return nil
}

func (c *nftConn) close() {
	if c.conn != nil {
		_ = c.conn.CloseLasting()
		c.conn = nil
	}
}

func nftFamily(f inet.Family) nftables.TableFamily {
	if f == inet.IPv6 {
		return nftables.TableFamilyIPv6
	}
	return nftables.TableFamilyIPv4
}

// hasRules reports whether our table of the family has exactly these chains with their
// rules. The library does not keep the reason of a failure: a missing table and a kernel
// without nf_tables look alike. replaceTable returns the real reason later.
func (n *Namespace) hasRules(family nftables.TableFamily, chains ...nftChain) bool {
	err := n.withNFT(func(c *nftables.Conn) error {
		for _, want := range chains {
			t := &nftables.Table{Name: nftTable, Family: family}
			have, err := c.GetRules(t, &nftables.Chain{Name: want.name, Table: t})
			if err != nil {
				return err
			}
			if !slices.EqualFunc(have, want.rules, func(h *nftables.Rule, w nftRule) bool { return string(h.UserData) == string(comment(w.comment)) }) {
				return errOtherRules
			}
		}
		return nil
	})
	return err == nil
}

var errOtherRules = errors.New("the table has other rules")

// replaceTable makes our table of the family, with a set unless it is nil, in one
// transaction, so that concurrent calls leave one set of rules.
func (n *Namespace) replaceTable(family nftables.TableFamily, set *nftables.Set, chains ...nftChain) error {
	return n.withNFT(func(c *nftables.Conn) error {
		t := &nftables.Table{Name: nftTable, Family: family}
		c.AddTable(t)
		if set != nil {
			set.Table = t
			if err := c.AddSet(set, nil); err != nil {
				return err
			}
		}
		accept := nftables.ChainPolicyAccept
		for _, ch := range chains {
			base := &nftables.Chain{Name: ch.name, Table: t, Type: ch.kind, Hooknum: ch.hook, Priority: ch.priority, Policy: &accept}
			c.AddChain(base)
			c.FlushChain(base)
			for _, r := range ch.rules {
				c.AddRule(&nftables.Rule{Table: t, Chain: base, Exprs: r.exprs, UserData: comment(r.comment)})
			}
		}
		return c.Flush()
	})
}

func (n *Namespace) removeTable(family inet.Family) error {
	err := n.withNFT(func(c *nftables.Conn) error {
		c.DelTable(&nftables.Table{Name: nftTable, Family: nftFamily(family)})
		return c.Flush()
	})
	if errors.Is(err, unix.ENOENT) || lacksNFT(err) {
		return nil
	}
	return err
}

// meta compares a property of the packet, e.g. its input interface.
func meta(key expr.MetaKey, op expr.CmpOp, data []byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: data}}
}

// isProtocol matches packets of a transport protocol.
func isProtocol(protocol byte) []expr.Any {
	return meta(expr.MetaKeyL4PROTO, expr.CmpOpEq, []byte{protocol})
}

// lacksNFT reports whether the kernel has no nftables or no NAT for nftables. The
// kernel adds ENOENT for each rule of the chain it could not create.
func lacksNFT(err error) bool {
	return errors.Is(err, errNoNFT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EPROTONOSUPPORT)
}

// LogRule returns a rule, or the end of one, that copies packets to the group flow.LogGroup of nflog, at a limited rate. It
// decides nothing. Without a reader of the group in the namespace, the kernel copies nothing.
func LogRule(l flow.Logged) []expr.Any {
	return []expr.Any{
		&expr.Limit{Type: expr.LimitTypePkts, Rate: flow.LogRate, Unit: expr.LimitTimeSecond, Burst: flow.LogBurst},
		&expr.Log{Key: 1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_PREFIX, Group: flow.LogGroup, Data: []byte(l.String())},
	}
}

// comment encodes text as user data of a rule (libnftnl's udata type 0).
func comment(text string) []byte {
	b := append([]byte{0, byte(len(text) + 1)}, text...)
	return append(b, 0)
}
