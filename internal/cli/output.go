package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"
	"sigs.k8s.io/yaml"

	"spiderpool.dev/spiderpool/internal/view"
)

// formats are the values of --output of commands that show views.
var formats = []string{"table", "wide", "json", "yaml", "name"}

// answer is the answer of a command in every format.
type answer struct {
	value any             // for json and yaml
	names []string        // for name: one object or address a line
	draw  func(w drawing) // for table and wide
}

// drawing is the output of a terminal.
type drawing struct {
	io.Writer
	colors
	wide bool
	now  time.Time
}

// print writes the answer in the format.
func (a answer) print(out io.Writer, format string, now time.Time) error {
	switch format {
	case "json":
		return printJSON(out, a.value)
	case "yaml":
		text, err := yaml.Marshal(a.value)
		if err == nil {
			_, err = out.Write(text)
		}
		return err
	case "name":
		for _, name := range a.names {
			if _, err := fmt.Fprintln(out, name); err != nil {
				return err
			}
		}
		return nil
	}
	a.draw(drawing{Writer: out, colors: colorsOf(out), wide: format == "wide", now: now})
	return nil
}

// column is a column of a table.
type column[T any] struct {
	head string
	wide bool // only with --output wide
	cell func(T) string
}

// drawTable draws rows. A table without rows is the sentence none.
func drawTable[T any](w drawing, none string, rows []T, columns ...column[T]) {
	if len(rows) == 0 {
		fmt.Fprintln(w, none)
		return
	}
	columns = slices.DeleteFunc(columns, func(c column[T]) bool { return c.wide && !w.wide })
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	line := func(text func(column[T]) string) {
		cells := make([]string, len(columns))
		for i, c := range columns {
			cells[i] = text(c)
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	line(func(c column[T]) string { return c.head })
	for _, row := range rows {
		line(func(c column[T]) string { return dash(c.cell(row)) })
	}
	_ = t.Flush()
}

// findings draws each finding on one line.
func (w drawing) findings(findings []view.Finding) {
	if len(findings) > 0 {
		fmt.Fprintln(w)
	}
	for _, f := range findings {
		fmt.Fprintf(w, "%s%s%s: %s. %s\n", w.red, f.Subject, w.plain, f.Problem, capital(f.Remedy))
	}
}

func capital(text string) string {
	for _, command := range []string{"helm ", "kubectl ", "spiderpoolctl "} {
		if strings.HasPrefix(text, command) {
			return text
		}
	}
	return strings.ToUpper(text[:1]) + text[1:]
}

// age returns e.g. "5d" for a time of the past, and "" for no time.
func (w drawing) age(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return duration.HumanDuration(w.now.Sub(t))
}

// fields draws lines such as "Node   worker-1". It leaves out those without a value.
func (w drawing) fields(pairs ...[2]string) {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	for _, pair := range pairs {
		if pair[1] != "" {
			fmt.Fprintf(t, "%s\t%s\n", pair[0], pair[1])
		}
	}
	_ = t.Flush()
}

// formatFlag adds --output with the given formats, or with all.
func formatFlag(cmd *cobra.Command, format *string, allowed ...string) {
	if len(allowed) == 0 {
		allowed = formats
	}
	cmd.Flags().StringVarP(format, "output", "o", "table", "output format: "+strings.Join(allowed, ", "))
	_ = cmd.Flags().SetAnnotation("output", formatsOf, allowed)
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(allowed, cobra.ShellCompDirectiveNoFileComp))
}

// formatsOf is the annotation of the flag --output with its formats.
const formatsOf = "formats"

// checkFormat checks the flag of formatFlag. A command without it has one format.
func checkFormat(cmd *cobra.Command) error {
	flag := cmd.Flags().Lookup("output")
	if flag == nil || flag.Annotations[formatsOf] == nil {
		return nil
	}
	allowed := flag.Annotations[formatsOf]
	if format := flag.Value.String(); !slices.Contains(allowed, format) {
		last := len(allowed) - 1
		return fmt.Errorf("--output %q: write %s or %s", format, strings.Join(allowed[:last], ", "), allowed[last])
	}
	return nil
}
