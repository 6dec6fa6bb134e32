package packetfilter

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// versioned returns the name of a set, map or chain that another one may replace.
func versioned(name string, version int) string { return fmt.Sprintf("%s.%d", name, version) }

var version = regexp.MustCompile(`\.\d+$`)

// compare returns the differences between a table of another process and ours, or "".
func (t *table) compare(other *nftables.Table) string {
	const reason = "policies changed while no agent ran, or a process in the namespace changed the rules"
	if t.present == nil {
		return "the table of the former agent had rules for an interface without policies: " + reason
	}
	former, err := t.texts(other)
	if err != nil {
		return fmt.Sprintf("cannot read the table of the former agent: %v", err)
	}
	present, err := t.texts(t.present)
	if err != nil {
		return fmt.Sprintf("cannot compare the table of the former agent: %v", err)
	}
	missing, more := without(present, former), without(former, present)
	if len(missing)+len(more) == 0 {
		return ""
	}
	return fmt.Sprintf("the table of the former agent lacked %d rules or elements and had %d others: %s", len(missing), len(more), reason)
}

func without(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(text string) bool { _, found := slices.BinarySearch(b, text); return found })
}

// texts returns the content of a table, sorted. Versions of names are left out.
func (t *table) texts(table *nftables.Table) (all []string, err error) {
	if err := t.extend(); err != nil {
		return nil, err
	}
	chains, err := t.conn.ListChainsOfTableFamily(table.Family)
	if err != nil {
		return nil, err
	}
	for _, c := range chains {
		if c.Table.Name == table.Name {
			if all, err = t.addChainTexts(all, table, c); err != nil {
				return nil, err
			}
		}
	}
	sets, err := t.conn.GetSets(table)
	if err != nil {
		return nil, err
	}
	for _, s := range sets {
		elements, err := t.conn.GetSetElements(s)
		if err != nil {
			return nil, err
		}
		name := version.ReplaceAllString(s.Name, "")
		all = append(all, "set "+name)
		for _, e := range elements {
			text := fmt.Sprintf("element %s %x %v", name, e.Key, e.IntervalEnd)
			if e.VerdictData != nil {
				text += fmt.Sprint(e.VerdictData.Kind, version.ReplaceAllString(e.VerdictData.Chain, ""))
			}
			all = append(all, text)
		}
	}
	slices.Sort(all)
	return all, nil
}

func isLog(r *nftables.Rule) bool {
	return slices.ContainsFunc(r.Exprs, func(e expr.Any) bool { _, ok := e.(*expr.Log); return ok })
}

// quoted matches the names in the text of a rule.
var quoted = regexp.MustCompile(`\.\d+"`)

func (t *table) addChainTexts(all []string, table *nftables.Table, c *nftables.Chain) ([]string, error) {
	name := version.ReplaceAllString(c.Name, "")
	text := "chain " + name
	if c.Hooknum != nil && c.Priority != nil && c.Policy != nil {
		text += fmt.Sprint(" ", *c.Hooknum, *c.Priority, *c.Policy)
	}
	all = append(all, text)
	rules, err := t.conn.GetRules(table, c)
	if err != nil {
		return nil, err
	}
	rules = slices.DeleteFunc(rules, isLog) // they change no verdict
	if strings.HasSuffix(name, dropChain("")) && len(rules) > 1 {
		rules = rules[len(rules)-1:] // the others depend on the interface, which a table learns behind its first rules
	}
	for i, r := range rules {
		var exprs strings.Builder
		for _, e := range r.Exprs {
			b, err := json.Marshal(e)
			if err != nil {
				return nil, err
			}
			fmt.Fprintf(&exprs, " %T%s", e, quoted.ReplaceAll(b, []byte(`"`)))
		}
		all = append(all, fmt.Sprintf("rule %s %d%s", name, i, exprs.String()))
	}
	return all, nil
}
