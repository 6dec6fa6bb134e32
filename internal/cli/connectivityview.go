package cli

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/reach"
	"spiderpool.dev/spiderpool/internal/view"
)

// connectivityResult is the answer of connectivity test.
type connectivityResult struct {
	Namespace string          `json:"namespace"`
	Nodes     []string        `json:"nodes"`
	Networks  []string        `json:"networks"`
	Paths     []pathResult    `json:"paths"`
	Findings  []reach.Finding `json:"findings"`
	Notes     []string        `json:"notes,omitempty"`
	Probes    []reach.Probe   `json:"probes"`
}

// pathResult counts the probes of one path over one interface.
type pathResult struct {
	Path      string      `json:"path"`
	Interface string      `json:"interface,omitempty"`
	IPv4      familyCount `json:"ipv4"`
	IPv6      familyCount `json:"ipv6"`
}

// familyCount counts the probes of one IP version.
type familyCount struct {
	Probes int `json:"probes"`
	Failed int `json:"failed"`
	// Fault is the failure of the first probe that failed.
	Fault reach.Fault `json:"fault,omitempty"`
}

func (r *connectivityResult) note(text string) {
	if text != "" {
		r.Notes = append(r.Notes, text)
	}
}

// take counts the probes.
func (r *connectivityResult) take(w *reach.World) {
	r.Probes = w.Probes
	for _, p := range w.Probes {
		at := slices.IndexFunc(r.Paths, func(x pathResult) bool { return x.Path == p.Path && x.Interface == p.Interface })
		if at < 0 {
			at, r.Paths = len(r.Paths), append(r.Paths, pathResult{Path: p.Path, Interface: p.Interface})
		}
		count := &r.Paths[at].IPv4
		if p.Family == inet.IPv6 {
			count = &r.Paths[at].IPv6
		}
		count.Probes++
		if p.Answer.Fault != "" {
			count.Failed++
			if count.Fault == "" {
				count.Fault = p.Answer.Fault
			}
		}
	}
	for _, party := range w.Parties {
		if !slices.Contains(r.Nodes, party.Node) {
			r.Nodes = append(r.Nodes, party.Node)
		}
		for _, i := range party.Interfaces {
			if i.Network != "" && !slices.Contains(r.Networks, i.Network) {
				r.Networks = append(r.Networks, i.Network)
			}
		}
	}
}

// text returns e.g. "ok", or "FAILED: no answer (2 of 4)".
func (c familyCount) text() string {
	switch {
	case c.Probes == 0:
		return ""
	case c.Failed == 0:
		return "ok"
	}
	return fmt.Sprintf("FAILED: %s (%d of %d)", c.Fault, c.Failed, c.Probes)
}

func connectivityAnswer(r *connectivityResult) answer {
	a := answer{value: r}
	for _, p := range r.Paths {
		if p.IPv4.Failed+p.IPv6.Failed > 0 {
			a.names = append(a.names, strings.TrimSpace(p.Path+" "+p.Interface))
		}
	}
	a.draw = func(w drawing) {
		text := func(head string, cell func(pathResult) string) column[pathResult] {
			return column[pathResult]{head, false, cell}
		}
		drawTable(w, "No pod runs, so no path was tested.", r.Paths,
			text("PATH", func(p pathResult) string { return p.Path }),
			text("INTERFACE", func(p pathResult) string { return p.Interface }),
			text("IPv4", func(p pathResult) string { return p.IPv4.text() }),
			text("IPv6", func(p pathResult) string { return p.IPv6.text() }))
		if w.wide {
			fmt.Fprintln(w)
			drawProbes(w, r.Probes)
		}
		fmt.Fprintf(w, "\n%s\n", r.summary())
		var findings []view.Finding
		for _, f := range r.Findings {
			findings = append(findings, view.Finding{Subject: f.Subject, Problem: f.Problem, Remedy: f.Remedy})
		}
		w.findings(findings)
		for _, note := range r.Notes {
			fmt.Fprintf(w, "\n%s\n", note)
		}
	}
	return a
}

func drawProbes(w drawing, probes []reach.Probe) {
	text := func(head string, cell func(reach.Probe) string) column[reach.Probe] {
		return column[reach.Probe]{head, false, cell}
	}
	drawTable(w, "", probes,
		text("PATH", func(p reach.Probe) string { return p.Path }),
		text("FROM", func(p reach.Probe) string { return p.From }),
		text("TO", func(p reach.Probe) string { return p.Question.To.String() }),
		text("BY", func(p reach.Probe) string { return string(p.Question.Kind) }),
		text("SIZE", func(p reach.Probe) string {
			if p.Question.Size == 0 {
				return ""
			}
			return strconv.Itoa(p.Question.Size)
		}),
		text("RESULT", func(p reach.Probe) string {
			if p.Answer.Fault == "" {
				return "ok"
			}
			return strings.TrimSuffix(string(p.Answer.Fault)+": "+p.Answer.Detail, ": ")
		}))
}

// summary returns e.g. "84 probes between 2 nodes: all paths work.".
func (r *connectivityResult) summary() string {
	failed := 0
	for _, p := range r.Probes {
		if p.Answer.Fault != "" {
			failed++
		}
	}
	verdict := "all paths work"
	switch {
	case len(r.Probes) == 0:
		return "There was nothing to probe."
	case failed > 0:
		verdict = fmt.Sprintf("%d failed", failed)
	}
	where := fmt.Sprintf("between %d nodes", len(r.Nodes))
	if len(r.Nodes) == 1 {
		where = "on 1 node"
	}
	return fmt.Sprintf("%d probes %s: %s.", len(r.Probes), where, verdict)
}

// progress tells the present step on the standard error: on a terminal one line with the time left,
// which changes every second, else one line for each step.
type progress struct {
	out      io.Writer
	terminal bool
	mutex    *sync.Mutex
	step     *string
	more     *string
}

func newProgress(out io.Writer) progress {
	file, ok := out.(*os.File)
	return progress{out: out, terminal: ok && term.IsTerminal(int(file.Fd())), mutex: new(sync.Mutex), step: new(string), more: new(string)}
}

// during starts a step with a limit, and returns the function that ends it.
func (p progress) during(step string, limit time.Duration) (done func()) {
	if !p.terminal {
		fmt.Fprintf(p.out, "… %s (at most %s)\n", step, limit)
		return func() {}
	}
	p.mutex.Lock()
	*p.step, *p.more = step, ""
	p.mutex.Unlock()
	end, stop := time.Now().Add(limit), make(chan struct{})
	draw := func() {
		p.mutex.Lock()
		defer p.mutex.Unlock()
		fmt.Fprintf(p.out, "\r\x1b[K… %s", *p.step)
		if *p.more != "" {
			fmt.Fprintf(p.out, ": %s", *p.more)
		}
		fmt.Fprintf(p.out, " (at most %s left)", max(0, time.Until(end)).Round(time.Second))
	}
	go func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for draw(); ; draw() {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	}()
	return sync.OnceFunc(func() { close(stop) })
}

// detail adds to the present step, e.g. "3 of 6 run".
func (p progress) detail(text string) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	*p.more = text
}

// clear removes the line of the present step.
func (p progress) clear() {
	if p.terminal {
		p.mutex.Lock()
		defer p.mutex.Unlock()
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}
