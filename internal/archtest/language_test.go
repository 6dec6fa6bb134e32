package archtest

import (
	"cmp"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "write the golden files and the table of CONTRIBUTING.md")

// languagePattern is a habit that makes a reader read a sentence twice.
type languagePattern struct {
	name    string
	limit   float64 // occurrences per 1,000 words of the whole tree
	example string  // a sentence to avoid, and its replacement
	expr    *regexp.Regexp
	native  *regexp.Regexp // matches of expr that are plain English
}

// The limits come from counting eleven Go codebases with good prose, among them raft, pebble and Prometheus.
var languagePatterns = []languagePattern{
	{
		name: "what-clause", limit: 1.0, example: `"what the pod has" → "the pod's addresses"`,
		expr: regexp.MustCompile(`\b[Ww]hat (?:(?:is|are|was|were|has|have|had|does|do|did|can|could|may|might|must|should|will|would|` +
			`they|it|he|she|the|a|an|there|this|that|these|those|its|their|each|every|another|others?|` +
			`stands?|stood|pods|nodes|follows?|comes|came|goes|went|remains|lies|belongs|happened|makes|made|takes|took|needs|` +
			`holds|keeps|gets|says|said|concerns|matters|runs|works|changes|changed|counts|depends|fails|failed|differs)\b|` +
			`[a-z]+ (?:is|are|was|were|has|have|had|can|may|must|do|[a-z]+(?:s|ed))\b)`),
		native: regexp.MustCompile(`[Ww]hat (?:we|you|to|if|about|kinds?|sorts?) `),
	},
	{
		name: "preposition+which", limit: 1.0, example: `"the node of which the pod is" → "the pod's node"`,
		expr: regexp.MustCompile(`\b(?i:about|above|after|against|among|at|before|behind|below|beneath|between|by|during|for|from|in|into|of|on|over|per|than|through|to|under|until|upon|via|with|within|without|that) (?:which|whom)\b`),
	},
	{
		name: "somebody", limit: 0.2, example: `"somebody deletes" → "a user deletes"`,
		expr: regexp.MustCompile(`\b(?i:somebody|nobody|whoever|whom|whomever|anybody)\b`),
	},
	{
		name: "X that is", limit: 2.5, example: `"the address that was released" → "the released address"`,
		expr: regexp.MustCompile(`[^\s.,;:!?|(] that (?:is|are|has|have|was|were)\b`),
	},
}

// languageHit is one occurrence of a pattern.
type languageHit struct {
	file, pattern, context string
	line                   int
}

// languageCount is the result of counting.
type languageCount struct {
	words map[string]int // per file
	hits  []languageHit  // in the order of the passages
}

// countLanguage counts the words and the patterns in passages.
func countLanguage(passages []passage) languageCount {
	count := languageCount{words: map[string]int{}}
	letter := regexp.MustCompile(`[A-Za-z]`)
	for _, p := range passages {
		text := p.text()
		for _, field := range strings.Fields(text) {
			if letter.MatchString(field) {
				count.words[p.file]++
			}
		}
		for _, pattern := range languagePatterns {
			for _, at := range pattern.expr.FindAllStringIndex(text, -1) {
				if pattern.native != nil && pattern.native.MatchString(text[at[0]:at[1]]) {
					continue
				}
				context := text[max(0, at[0]-30):min(len(text), at[1]+30)]
				count.hits = append(count.hits, languageHit{p.file, pattern.name, strings.ToValidUTF8(context, ""), p.lineAt(at[0])})
			}
		}
	}
	return count
}

// rate returns the occurrences of a pattern per 1,000 words.
func (c languageCount) rate(pattern string) float64 {
	words, hits := 0, 0
	for n := range maps.Values(c.words) {
		words += n
	}
	for _, h := range c.hits {
		if h.pattern == pattern {
			hits++
		}
	}
	return 1000 * float64(hits) / float64(max(words, 1))
}

// exceeded returns one line for each pattern above its limit.
func (c languageCount) exceeded() (over []string) {
	for _, p := range languagePatterns {
		if rate := c.rate(p.name); rate > p.limit {
			over = append(over, fmt.Sprintf("%s: %.2f per 1,000 words, limit %.1f. Write %s", p.name, rate, p.limit, p.example))
		}
	}
	return over
}

// report prints the rates and the worst files; all adds every occurrence.
func (c languageCount) report(all bool) string {
	var b strings.Builder
	words := 0
	for n := range maps.Values(c.words) {
		words += n
	}
	fmt.Fprintf(&b, "%d words\n", words)
	byFile := map[string]map[string]int{}
	for _, h := range c.hits {
		if byFile[h.file] == nil {
			byFile[h.file] = map[string]int{}
		}
		byFile[h.file][h.pattern]++
		byFile[h.file][""]++ // the sum
	}
	for _, p := range languagePatterns {
		fmt.Fprintf(&b, "%-18s %5.2f per 1,000 words, limit %.1f\n", p.name, c.rate(p.name), p.limit)
	}
	files := slices.SortedFunc(maps.Keys(byFile), func(a, b string) int {
		return cmp.Or(cmp.Compare(byFile[b][""], byFile[a][""]), strings.Compare(a, b))
	})
	for _, file := range files[:min(10, len(files))] {
		fmt.Fprintf(&b, "%s, %d words:", file, c.words[file])
		for _, p := range languagePatterns {
			fmt.Fprintf(&b, " %s %d", p.name, byFile[file][p.name])
		}
		b.WriteByte('\n')
	}
	if all {
		for _, h := range c.hits {
			fmt.Fprintf(&b, "%s:%d: %s: …%s…\n", h.file, h.line, h.pattern, h.context)
		}
	}
	return b.String()
}

// TestLanguageIsPlain counts the patterns in every comment, page and message of the repository. Run it with -v
// for the rates and each occurrence. There is no list of exemptions: rewrite the sentence.
func TestLanguageIsPlain(t *testing.T) {
	passages, err := readTree(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	count := countLanguage(passages)
	t.Log(count.report(testing.Verbose()))
	if over := count.exceeded(); len(over) > 0 {
		t.Errorf("the tree's prose is above the limit:\n%s", strings.Join(over, "\n"))
	}
}

// TestLanguageCounts compares the prose and the counts of the files in testdata/language.txtar with the sections
// prose and report of that archive.
func TestLanguageCounts(t *testing.T) {
	const golden = "testdata/language.txtar"
	archive, err := txtar.ParseFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	inputs := slices.DeleteFunc(slices.Clone(archive.Files), func(f txtar.File) bool { return f.Name == "prose" || f.Name == "report" })
	var passages []passage
	for _, f := range inputs {
		found, err := readProse(f.Name, string(f.Data))
		if err != nil {
			t.Fatal(err)
		}
		passages = append(passages, found...)
	}
	var prose strings.Builder
	for _, p := range passages {
		fmt.Fprintf(&prose, "%s:%d: %s\n", p.file, p.lines[0].number, p.text())
	}
	got := &txtar.Archive{Comment: archive.Comment, Files: append(inputs,
		txtar.File{Name: "prose", Data: []byte(prose.String())},
		txtar.File{Name: "report", Data: []byte(countLanguage(passages).report(true))})}
	if *update {
		if err := os.WriteFile(golden, txtar.Format(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want := txtar.Format(archive); !*update && string(want) != string(txtar.Format(got)) {
		t.Errorf("%s differs; run with -update and read it. Got:\n%s", golden, txtar.Format(got))
	}
}
