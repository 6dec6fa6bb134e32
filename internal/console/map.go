package console

import (
	"fmt"
	"html/template"
	"net/netip"
	"strings"

	"spiderpool.dev/spiderpool/internal/view"
)

// maxCells is the number of cells on one page.
const maxCells = 20_480

// mapGroup are the cells of one aligned group of 256 addresses.
type mapGroup struct {
	Network string // e.g. "10.6.0.0/24"
	Cells   template.HTML
	// Folded is a range of equal addresses that may leave the group; then there are no Cells.
	Folded *view.Span
}

// meaning is a state of an address for users: the class of its cell, and words.
type meaning struct{ Class, Words string }

// meanings are the states of the legend, in its order.
var meanings = []struct {
	State string
	meaning
}{
	{"InUse", meaning{"use", "in use"}},
	{view.StateFree, meaning{"free", "free"}},
	{"Retained", meaning{"kept", "retained for its owner"}},
	{"Quarantined", meaning{"quar", "quarantined: a foreign host answered for it"}},
	{"Withheld", meaning{"hold", "withheld: the controller returns it to the cloud"}},
	{view.StateFormer, meaning{"form", "kept back for a former sandbox"}},
	{view.StateReserved, meaning{"resv", "reserved by a SpiderReservedIP"}},
	{view.StateExcluded, meaning{"excl", "excluded by spec.excludeIPs"}},
	{view.StateGateway, meaning{"gate", "the gateway"}},
	{view.StateNotForPods, meaning{"none", "not for pods, e.g. the network's own address"}},
}

// meaningOf returns the meaning of a state.
func meaningOf(state string) meaning {
	for _, m := range meanings {
		if m.State == state {
			return m.meaning
		}
	}
	return meaning{"none", strings.ToLower(state)}
}

// groups draws the spans. The cells of a page are up to 20,480, so they are written without a template.
func groups(spans []view.Span, sight *sight) []mapGroup {
	var all []mapGroup
	var cells strings.Builder
	var open netip.Prefix
	finish := func() {
		if cells.Len() > 0 {
			all = append(all, mapGroup{Network: open.String(), Cells: template.HTML(cells.String())})
			cells.Reset()
		}
		open = netip.Prefix{}
	}
	states := map[string]meaning{}
	for _, m := range meanings {
		states[m.State] = m.meaning
	}
	for i := range spans {
		s := &spans[i]
		if s.Count > 1 {
			finish()
			all = append(all, mapGroup{Folded: s})
			continue
		}
		if !open.Contains(s.First) {
			finish()
			open, _ = s.First.Prefix(s.First.BitLen() - 8)
		}
		m, known := states[s.State]
		if !known {
			m = meaningOf(s.State)
		}
		writeCell(&cells, s, m, sight)
	}
	finish()
	return all
}

// writeCell writes a link to the page of the address. Its name tells by text what the cell tells by color and sign. It
// escapes each part itself, because no template does.
func writeCell(b *strings.Builder, s *view.Span, m meaning, sight *sight) {
	addr := template.HTMLEscapeString(s.First.String())
	b.WriteString(`<a class="c `)
	b.WriteString(m.Class)
	b.WriteString(`" tabindex="-1" href="/addresses/`)
	b.WriteString(addr)
	b.WriteString(`" title="`)
	b.WriteString(addr)
	b.WriteByte(' ')
	b.WriteString(template.HTMLEscapeString(m.Words))
	if s.Holder != nil {
		writeHolder(b, sight.address(*s.Holder))
	}
	b.WriteString(`"></a>`)
}

func writeHolder(b *strings.Builder, a view.Address) {
	for _, part := range []struct{ word, text string }{{" by ", a.Pod}, {" for ", a.FixedFor}, {" on ", a.Node}, {" with MAC ", a.MAC}} {
		if part.text != "" {
			b.WriteString(part.word)
			b.WriteString(template.HTMLEscapeString(part.text))
		}
	}
}

// countOf returns e.g. "1,024 addresses".
func countOf(n int64) string {
	if n == 1 {
		return "1 address"
	}
	return number(n) + " addresses"
}

// number returns e.g. "65,536".
func number(n int64) string {
	text := fmt.Sprint(n)
	var b strings.Builder
	for i, digit := range text {
		if i > 0 && (len(text)-i)%3 == 0 && text[i-1] != '-' {
			b.WriteByte(',')
		}
		b.WriteRune(digit)
	}
	return b.String()
}
