package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"golang.org/x/term"
)

// colors are the escape sequences of a terminal, empty for other outputs.
type colors struct{ red, green, plain string }

func colorsOf(out io.Writer) colors {
	if file, ok := out.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		return colors{"\x1b[31m", "\x1b[32m", "\x1b[0m"}
	}
	return colors{}
}

func printJSON(out io.Writer, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

// shownBackends is the number of backends in a row of the list.
const shownBackends = 3

// frontendsAnswer lists the frontends.
func frontendsAnswer(frontends []frontendView) answer {
	a := answer{value: frontends}
	for _, v := range frontends {
		if name := "service/" + v.Service; !slices.Contains(a.names, name) {
			a.names = append(a.names, name)
		}
	}
	a.draw = func(w drawing) {
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "SERVICE\tFRONTEND\tKIND\tBACKENDS")
		for _, v := range frontends {
			backends := v.Result
			switch {
			case v.Result == "translate" && len(v.Backends) > shownBackends && !w.wide:
				backends = fmt.Sprintf("%s and %d more", strings.Join(v.Backends[:shownBackends], ", "), len(v.Backends)-shownBackends)
			case v.Result == "translate":
				backends = strings.Join(v.Backends, ", ")
			case v.Note != "":
				backends += ": " + v.Note
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", v.Service, v.Frontend, v.Kind, backends)
		}
		_ = t.Flush()
	}
	return a
}

// explainedAnswer draws an explanation.
func explainedAnswer(x explanation) answer {
	return answer{value: x, names: []string{"service/" + x.Service}, draw: func(w drawing) {
		zone := ""
		if x.Zone != "" {
			zone = ", zone " + x.Zone
		}
		fmt.Fprintf(w, "Service %s, for %s%s\n", x.Service, x.Clients, zone)
		if x.Without != "" {
			fmt.Fprintf(w, "\nIt has no frontends: %s.\n", x.Without)
		}
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		if len(x.Frontends) > 0 {
			fmt.Fprintln(t, "\nFRONTEND\tKIND\tRESULT")
			for _, v := range x.Frontends {
				fmt.Fprintf(t, "%s\t%s\t%s\n", v.Frontend, v.Kind, v.describe())
			}
		}
		_ = t.Flush()
		showEndpoints(t, x.Endpoints, w.colors)
		_ = t.Flush()
		for _, text := range x.Invalid {
			fmt.Fprintf(w, "\nIgnored: %s", text)
		}
		if len(x.Invalid) > 0 {
			fmt.Fprintln(w)
		}
		for _, text := range x.Notes {
			fmt.Fprintf(w, "\n%s\n", text)
		}
	}}
}

// showEndpoints writes one table for each set.
func showEndpoints(t *tabwriter.Writer, endpoints []endpointView, c colors) {
	set := ""
	for _, e := range endpoints {
		if e.Set != set {
			set = e.Set
			_ = t.Flush() // the columns of each table have their own widths
			fmt.Fprintf(t, "\nEndpoints of port %s\nADDRESS\tNODE\tPOD\tRESULT\n", set)
		}
		result := c.green + "chosen" + c.plain
		if !e.Chosen {
			result = c.red + "left out: " + e.Why + c.plain
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", e.Address, dash(e.Node), dash(e.Pod), result)
	}
}

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
