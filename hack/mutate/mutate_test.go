package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestOperatorsChangeOnePlace(t *testing.T) {
	for _, tt := range []struct {
		name, body string
		want       []string // the mutated bodies
	}{
		{"comparison", "_ = a < b", []string{"_ = a <= b", "_ = a >= b"}},
		{"equality", "_ = a == b", []string{"_ = a != b"}},
		{"arithmetic", "a += b - c", []string{"a -= b - c", "a += b + c"}},
		{"logic", "_ = !a && b", []string{"_ = !a || b", "_ = a && b"}},
		{"condition", "if ok { }", []string{"if !ok { }"}},
		{"boolean", "ok = true", []string{"ok = false"}},
		{"call", "f(a)", []string{"{}"}},
		{"constant", "_ = 0x10", []string{"_ = 17"}},
		{"error", "return a, err", []string{"return a, nil"}},
		{"no error", "return a, nil", nil},
		{"inner function", "_ = func() bool { return ok }", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			const head, tail = "package p\nfunc f() (int, error) {\n", "\n}\n"
			found, err := mutants("p.go", []byte(head+tt.body+tail))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, m := range found {
				mutated := string(m.apply([]byte(head + tt.body + tail)))
				body := strings.TrimSuffix(strings.TrimPrefix(mutated, head), tail)
				got = append(got, body)
				if m.line != 3 || m.before != tt.body || m.after != body {
					t.Errorf("described as %v", m)
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestEquivalentsAreLeftOut(t *testing.T) {
	list, err := parseEquivalents("# comment\na/x.go\ta < b\ta <= b\tnever equal\na/y.go\tgone\taway\tstale\n")
	if err != nil {
		t.Fatal(err)
	}
	kept := mutant{file: "a/x.go", before: "a < b", after: "a >= b"}
	rest, stale := withoutEquivalents([]mutant{{file: "a/x.go", before: "a < b", after: "a <= b"}, kept}, list, "a")
	if !slices.Equal(rest, []mutant{kept}) || !slices.Equal(stale, []string{"a/y.go\tgone\taway"}) {
		t.Errorf("rest %v, stale %v", rest, stale)
	}
	if _, err := parseEquivalents("a/x.go\ta < b\ta <= b\n"); err == nil {
		t.Error("an entry without a reason is accepted")
	}
}

// TestEquivalentsExist finds entries whose line has changed since.
func TestEquivalentsExist(t *testing.T) {
	list, err := parseEquivalents(equivalentText)
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir("../..")
	for _, target := range targets {
		var all []mutant
		files, err := filepath.Glob(target.directory + "/*.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			source, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			found, err := mutants(file, source)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, found...)
		}
		_, stale := withoutEquivalents(all, list, target.directory)
		for _, key := range stale {
			t.Errorf("equivalent.txt lists a mutant that does not exist: %s", key)
		}
	}
}

// TestScoreCountsSurvivors mutates a module of one function whose test does not notice the boundary.
func TestScoreCountsSurvivors(t *testing.T) {
	t.Chdir(t.TempDir())
	for name, content := range map[string]string{
		"go.mod":      "module example.com/m\n\ngo 1.26\n",
		"p/p.go":      "package p\n\nfunc Less(a, b int) bool { return a < b }\n\nfunc Loop(n int) {\n\tfor n > 1 {\n\t\tn--\n\t}\n}\n",
		"p/p_test.go": "package p\n\nimport \"testing\"\n\nfunc TestLess(t *testing.T) {\n\tLoop(3)\n\tif !Less(1, 2) || Less(2, 1) {\n\t\tt.Fail()\n\t}\n}\n",
	} {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	list := map[string]bool{
		"p/p.go\tfor n > 1 {\tfor n >= 1 {": true, "p/p.go\tfor n > 1 {\tfor n <= 1 {": true, "p/p.go\tfor n > 1 {\tfor n > 2 {": true,
	}
	got, err := runner{t.TempDir(), 5 * time.Second}.score(target{"p", 90, nil}, 0, 1, list)
	if err != nil {
		t.Fatal(err)
	}
	want := "p: 2 of 3 mutants killed, 66 %, threshold 90 % (0 did not compile)\n" +
		"  survived p/p.go:3: func Less(a, b int) bool { return a < b } → func Less(a, b int) bool { return a <= b }\n"
	if got.String() != want || got.passed() {
		t.Errorf("got %q (passed %v), want %q", got, got.passed(), want)
	}
}
