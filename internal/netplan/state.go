package netplan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"spiderpool.dev/spiderpool/internal/inet"
)

// State is a set of items in any order; String sorts them.
type State []Item

// String returns the text form: one item per line, sorted by order of application
// and then by text, so that equal sets have equal texts.
func (s State) String() string {
	var b strings.Builder
	for _, it := range s.sorted() {
		b.WriteString(it.String())
		b.WriteByte('\n')
	}
	return b.String()
}

func (s State) sorted() State {
	out := slices.Clone(s)
	slices.SortFunc(out, func(a, b Item) int {
		return cmp.Or(cmp.Compare(a.phase(), b.phase()), strings.Compare(a.String(), b.String()))
	})
	return slices.CompactFunc(out, func(a, b Item) bool { return a == b })
}

// Parse reads the text form. It skips empty lines and comments (#).
func Parse(text string) (State, error) {
	var s State
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		it, err := parseItem(line)
		if err != nil {
			return nil, fmt.Errorf("line %d, %q: %w", i+1, line, err)
		}
		s = append(s, it)
	}
	return s, nil
}

func parseItem(line string) (Item, error) {
	p := &parser{words: strings.Fields(line)}
	var it Item
	switch kind := p.next(); kind {
	case "link":
		it = p.link()
	case "up":
		it = Up{Dev: p.next()}
	case "addr":
		it = p.address()
	case "route":
		it = p.route()
	case "rule":
		it = p.rule()
	case "neighbor":
		it = p.neighbor()
	case "sysctl":
		it = Sysctl{Path: p.next(), Value: p.rest("=")}
	case "replymark":
		it = ReplyMark{Family: p.family(), Dev: p.named("dev"), Mark: p.mark("mark")}
	case "masquerade":
		it = Masquerade{Family: p.family(), Links: p.named("links")}
	case "shaper":
		it = p.shaper()
	case "redirect":
		it = Redirect{Dev: p.next(), Direction: p.direction(), To: p.named("to")}
	case "guard":
		it = p.guard()
	default:
		return nil, fmt.Errorf("unknown kind %q: want link, up, addr, route, rule, neighbor, sysctl, replymark, masquerade, shaper, redirect or guard", kind)
	}
	if p.err == nil && len(p.words) > 0 {
		p.fail(fmt.Errorf("unexpected %q", p.words[0]))
	}
	return it, p.err
}

// parser reads words; after the first error it reads nothing more.
type parser struct {
	words []string
	err   error
}

func (p *parser) fail(err error) {
	if p.err == nil {
		p.err = err
	}
	p.words = nil
}

func (p *parser) next() string {
	if len(p.words) == 0 {
		p.fail(fmt.Errorf("ends too early"))
		return ""
	}
	w := p.words[0]
	p.words = p.words[1:]
	return w
}

func (p *parser) named(name string) string {
	if w := p.next(); w != name && p.err == nil {
		p.fail(fmt.Errorf("want %q, have %q", name, w))
	}
	return p.next()
}

func (p *parser) rest(after string) string {
	if w := p.next(); w != after && p.err == nil {
		p.fail(fmt.Errorf("want %q, have %q", after, w))
	}
	v := strings.Join(p.words, " ")
	p.words = nil
	return v
}

func parsed[T any](p *parser, word string, parse func(string) (T, error)) T {
	v, err := parse(word)
	if err != nil && p.err == nil {
		p.fail(err)
	}
	return v
}

func (p *parser) number() int          { return parsed(p, p.next(), strconv.Atoi) }
func (p *parser) prefix() netip.Prefix { return parsed(p, p.next(), netip.ParsePrefix) }
func (p *parser) addr() netip.Addr     { return parsed(p, p.next(), netip.ParseAddr) }
func (p *parser) mac() MAC             { return parsed(p, p.next(), parseMAC) }

func (p *parser) mark(name string) uint32 {
	return parsed(p, p.named(name), func(word string) (uint32, error) {
		v, err := strconv.ParseUint(word, 0, 32)
		return uint32(v), err
	})
}

func (p *parser) family() inet.Family {
	switch w := p.next(); w {
	case "ip":
		return inet.IPv4
	case "ip6":
		return inet.IPv6
	default:
		p.fail(fmt.Errorf("unknown family %q: want ip or ip6", w))
		return 0
	}
}

func (p *parser) link() Link {
	l := Link{Name: p.next()}
	for len(p.words) > 0 {
		switch w := p.next(); w {
		case "kind":
			l.Kind = p.next()
		case "peer":
			l.Peer = p.next()
		case "peermac":
			l.PeerMAC = p.mac()
		case "mac":
			l.MAC = p.mac()
		case "mtu":
			l.MTU = p.number()
		case "txqueuelen":
			l.TxQueueLen = p.number()
		case "group":
			l.Group = p.number()
		default:
			p.fail(fmt.Errorf("unknown attribute %q of a link", w))
		}
	}
	return l
}

func (p *parser) address() Addr {
	a := Addr{Prefix: p.prefix(), Dev: p.named("dev")}
	if len(p.words) > 0 && p.words[0] == "learned" {
		p.next()
		a.Learned = true
	}
	return a
}

func (p *parser) route() Route {
	r := Route{Dst: p.prefix()}
	for len(p.words) > 0 {
		switch w := p.next(); w {
		case "via":
			r.Via = p.addr()
		case "dev":
			r.Dev = p.next()
		case "src":
			r.Src = p.addr()
		case "table":
			r.Table = p.number()
		case "metric":
			r.Metric = p.number()
		case "onlink":
			r.OnLink = true
		case "proto":
			r.Proto = p.number()
		default:
			p.fail(fmt.Errorf("unknown attribute %q of a route", w))
		}
	}
	return r
}

func (p *parser) rule() Rule {
	r := Rule{Family: p.family(), Priority: p.number()}
	if from := p.named("from"); from != "all" && p.err == nil {
		r.From = parsed(p, from, netip.ParsePrefix)
	}
	if len(p.words) > 0 && p.words[0] == "fwmark" {
		r.Mark = p.mark("fwmark")
	}
	r.Table = parsed(p, p.named("lookup"), strconv.Atoi)
	if len(p.words) > 0 {
		r.Proto = parsed(p, p.named("proto"), strconv.Atoi)
	}
	return r
}

func (p *parser) neighbor() Neighbor {
	n := Neighbor{Addr: p.addr()}
	n.MAC = parsed(p, p.named("mac"), parseMAC)
	n.Dev = p.named("dev")
	return n
}
