package console

import (
	"cmp"
	"fmt"
	"slices"

	"spiderpool.dev/spiderpool/internal/view"
)

const (
	// maxEnds is the number of workloads on each side of the graph.
	maxEnds = 20
	// The units of the drawing. flows.html has the size of a box, too.
	rowHeight, boxHeight, boxWidth, graphWidth = 44, 32, 300, 1000
)

// graph is a drawing of flows: clients on the left, servers on the right.
type graph struct {
	Width, Height int
	Boxes         []graphBox
	Lines         []graphLine
	// More is the number of edges that the graph leaves out.
	More int
}

type graphBox struct {
	X, Y  int
	Label string
	Full  string // of a shortened label
}

// graphLine is the path of an edge, with its width in units of the drawing.
type graphLine struct {
	Path, Label string
	Width       int
	Dropped     bool
}

// maxLabel is the number of letters in a box.
const maxLabel = 36

// drawGraph places the ends of the most frequent edges.
func drawGraph(edges []view.FlowEdge) graph {
	clients, servers := map[string]int{}, map[string]int{} // rows
	g := graph{Width: graphWidth}
	var kept []view.FlowEdge
	for _, e := range edges {
		if !fits(clients, e.From) || !fits(servers, e.To) {
			g.More++
			continue
		}
		place(clients, e.From)
		place(servers, e.To)
		kept = append(kept, e)
	}
	g.Height = max(len(clients), len(servers)) * rowHeight
	for side, ends := range []map[string]int{clients, servers} {
		x := side * (graphWidth - boxWidth)
		for name, row := range ends {
			g.Boxes = append(g.Boxes, graphBox{X: x, Y: row * rowHeight, Label: shortened(name), Full: name})
		}
	}
	slices.SortFunc(g.Boxes, func(a, b graphBox) int { return cmp.Or(cmp.Compare(a.X, b.X), cmp.Compare(a.Y, b.Y)) })
	for _, e := range kept {
		from, to := clients[e.From]*rowHeight+boxHeight/2, servers[e.To]*rowHeight+boxHeight/2
		const left, right, bend = boxWidth, graphWidth - boxWidth, (graphWidth - 2*boxWidth) / 2
		line := graphLine{
			Path:  fmt.Sprintf("M%d %d C%d %d %d %d %d %d", left, from, left+bend, from, right-bend, to, right, to),
			Label: fmt.Sprintf("%s to %s: %s, %d dropped", e.From, e.To, plural(e.Flows, "flow"), e.Dropped), Width: 1, Dropped: e.Dropped > 0,
		}
		for n := e.Flows; n >= 4 && line.Width < 8; n /= 4 {
			line.Width++
		}
		g.Lines = append(g.Lines, line)
	}
	return g
}

// fits reports whether a name has a row or can have one.
func fits(rows map[string]int, name string) bool {
	_, placed := rows[name]
	return placed || len(rows) < maxEnds
}

func place(rows map[string]int, name string) {
	if _, placed := rows[name]; !placed {
		rows[name] = len(rows)
	}
}

func shortened(name string) string {
	if letters := []rune(name); len(letters) > maxLabel {
		return string(letters[:maxLabel-1]) + "…"
	}
	return name
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
