package console

import (
	"cmp"
	"fmt"
	"html/template"
	"io/fs"
	"path"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"

	"spiderpool.dev/spiderpool/internal/view"
)

// functions are those of the templates.
var functions = template.FuncMap{
	"age": func(at, t time.Time) string {
		if t.IsZero() {
			return "–"
		}
		return duration.HumanDuration(at.Sub(t))
	},
	"clock":    func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
	"count":    countOf,
	"number":   number,
	"percent":  percent,
	"dash":     func(text string) string { return orDash(text) },
	"join":     func(list []string) string { return orDash(strings.Join(list, ", ")) },
	"for":      func(p view.Pool) string { return cmp.Or(strings.Join(p.For, "; "), "every pod") },
	"sentence": sentence,
	"meaning":  meaningOf,
	"legend":   func() any { return meanings },
	"taken":    func(p view.Pool) int64 { return p.Total - p.Free },
	"outlook":  outlookText,
	"list":     func(values ...any) []any { return values },
	"plural":   plural,
	"podpath":  func(name string) string { return "/pods/" + name },
	"length":   duration.HumanDuration,
	"wide":     func(n int) int64 { return int64(n) },
}

func orDash(text string) string {
	if text == "" {
		return "–"
	}
	return text
}

// sentence returns the text with a capital letter and a period.
func sentence(text string) string {
	if text == "" {
		return ""
	}
	for _, command := range []string{"helm ", "kubectl ", "spiderpoolctl "} {
		if strings.HasPrefix(text, command) {
			return text
		}
	}
	return strings.ToUpper(text[:1]) + strings.TrimSuffix(text[1:], ".") + "."
}

// percent returns the rounded part of all. 99.6 is 99, not 100: a pool is full when no address is free.
func percent(part, all int64) int64 {
	if all <= 0 {
		return 0
	}
	return int64(float64(part) / float64(all) * 100)
}

func outlookText(p view.Pool, o outlook) string {
	switch {
	case p.Total == 0:
		return "no addresses"
	case p.Free == 0:
		return "full"
	case o.Grows:
		return "full in about " + duration.HumanDuration(o.Left)
	case o.Since < 15*time.Minute:
		return "not known yet"
	default:
		return "does not grow"
	}
}

// parseTemplates parses each page with the layout. The files are part of the program, so an error is a mistake in it.
func parseTemplates() map[string]*template.Template {
	layout := template.Must(template.New("layout.html").Funcs(functions).ParseFS(web, "web/layout.html", "web/parts.html"))
	all := map[string]*template.Template{}
	files, err := fs.Glob(web, "web/pages/*.html")
	if err != nil || len(files) == 0 {
		panic(fmt.Sprintf("the templates are not in the program: %v", err))
	}
	for _, file := range files {
		all[strings.TrimSuffix(path.Base(file), ".html")] = template.Must(template.Must(layout.Clone()).ParseFS(web, file))
	}
	return all
}
