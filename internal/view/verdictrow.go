package view

import (
	"fmt"
	"strings"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/lease"
)

// VerdictRow is a row of the table of pools in an explanation, e.g. interface net1, pool blue, used "choice 2".
type VerdictRow struct{ Interface, Network, Family, Pool, Used, Because string }

// Rows returns the table of pools: for each interface and IP version the considered ones, or why there is none.
func (x *Explanation) Rows() []VerdictRow {
	var rows []VerdictRow
	for _, i := range x.Interfaces {
		if i.Other != "" {
			rows = append(rows, VerdictRow{Interface: i.Name, Network: i.Network, Used: "no", Because: i.Other})
		}
		for _, f := range i.Families {
			if f.Source == "" {
				rows = append(rows, VerdictRow{Interface: i.Name, Network: i.Network, Family: f.Family.String(), Used: "no", Because: "nothing asks for an address of this version"})
			}
			rows = append(rows, x.poolRows(i, f)...)
		}
	}
	return rows
}

func (x *Explanation) poolRows(i InterfaceExplanation, f FamilyExplanation) []VerdictRow {
	held := map[string][]string{} // by pool
	for _, a := range x.Holds {
		if a.PodUID == x.UID && a.Interface == i.Name && inet.FamilyOf(a.Addr) == f.Family && a.State == string(lease.InUse) {
			held[a.Pool] = append(held[a.Pool], a.Addr.String())
		}
	}
	var rows []VerdictRow
	for rank, v := range f.Pools {
		row := VerdictRow{i.Name, i.Network, f.Family.String(), v.Pool, "no", v.Reason}
		switch {
		case len(held[v.Pool]) > 0:
			row.Used, row.Because = "yes", strings.Join(held[v.Pool], ", ")+"; named by: "+f.Source
			if !v.Candidate {
				row.Because += "; a new pod would not get it: " + v.Reason
			}
		case v.Candidate:
			row.Used, row.Because = fmt.Sprintf("choice %d", rank+1), v.Reason+"; named by: "+f.Source
		}
		rows = append(rows, row)
	}
	return rows
}
