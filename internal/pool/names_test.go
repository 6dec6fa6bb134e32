package pool

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"spiderpool.dev/spiderpool/api/names"
)

func TestPoolNamesHaveValidLetters(t *testing.T) {
	for _, r := range "az09-.*" {
		if !isPoolName("p" + string(r)) {
			t.Errorf("%q is refused", r)
		}
	}
	for _, pattern := range []string{"p?", "p[a-c]", "p[^a]*"} {
		if !isPoolName(pattern) {
			t.Errorf("%q is refused", pattern)
		}
	}
	for _, pattern := range []string{"p[", "p[]", "p]", "p^", `p\\*`, "p[a", "p[/]"} {
		if isPoolName(pattern) {
			t.Errorf("%q is accepted", pattern)
		}
	}
	for _, r := range "`{/:,+)AZ_@ é" {
		if isPoolName("p" + string(r)) {
			t.Errorf("%q is accepted", r)
		}
	}
	if isPoolName("") || !isPoolName(strings.Repeat("a", 253)) || isPoolName(strings.Repeat("a", 254)) {
		t.Error("want names of 1 to 253 letters")
	}
}

// TestEditDistanceMatchesItsDefinition compares with the recursive definition of Levenshtein's distance.
func TestEditDistanceMatchesItsDefinition(t *testing.T) {
	var distance func(a, b string) int
	distance = func(a, b string) int {
		switch {
		case a == "" || b == "":
			return len(a) + len(b)
		case a[0] == b[0]:
			return distance(a[1:], b[1:])
		}
		return 1 + min(distance(a[1:], b), distance(a, b[1:]), distance(a[1:], b[1:]))
	}
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringOfN(rapid.RuneFrom([]rune("ab")), 0, 5, -1)
		a, b, limit := name.Draw(t, "a"), name.Draw(t, "b"), rapid.IntRange(1, 6).Draw(t, "limit")
		if got, want := editDistance(a, b, limit), min(distance(a, b), limit); got != want {
			t.Fatalf("got %d, want %d", got, want)
		}
	})
}

func TestNearestNameNeedsTwoThirds(t *testing.T) {
	c := NewCatalog()
	for _, name := range []string{"backend", "zz"} {
		c.Set(&Pool{Name: name, Family: 4})
	}
	for name, want := range map[string]string{"backend": "backend", "bakend": "backend", "bckend": "backend", "bxckxnd": "backend", "bxxkxnd": "", "aa": "", "": ""} {
		if got, _ := c.nearest(name); got != want {
			t.Errorf("%q: nearest is %q, want %q", name, got, want)
		}
	}
}

func TestPodLabelsCannotClaimAnApplication(t *testing.T) {
	app := &App{APIGroup: "apps", APIVersion: "v1", Kind: "Deployment", Namespace: "default", Name: "web"}
	labels := map[string]string{"tier": "web"}
	for _, key := range []string{names.AffinityAppAPIGroup, names.AffinityAppAPIVersion, names.AffinityAppKind, names.AffinityAppNamespace, names.AffinityAppName, names.AffinityAppPrefix + "other"} {
		labels[key] = "forged"
	}
	for _, tt := range []struct {
		app  *App
		key  string
		want string
		ok   bool
	}{
		{app, "tier", "web", true}, {app, "absent", "", false},
		{app, names.AffinityAppAPIGroup, "apps", true}, {app, names.AffinityAppAPIVersion, "v1", true}, {app, names.AffinityAppKind, "Deployment", true},
		{app, names.AffinityAppNamespace, "default", true}, {app, names.AffinityAppName, "web", true}, {app, names.AffinityAppPrefix + "other", "", false},
		{nil, "tier", "web", true}, {nil, names.AffinityAppName, "", false},
	} {
		pod := PodFacts{Labels: labels, App: tt.app}
		if got, ok := pod.label(tt.key); got != tt.want || ok != tt.ok {
			t.Errorf("%s with application %v: got %q, %v", tt.key, tt.app, got, ok)
		}
	}
}

func TestErrorsRepeatOnlyShortValues(t *testing.T) {
	short, cut := strings.Repeat("a", 256), strings.Repeat("a", 255)
	for value, want := range map[string]string{"": "", short: short, short + "b": short + "…", cut + "é": cut + "…"} {
		if got := shorten(value); got != want {
			t.Errorf("%d bytes become %q", len(value), got)
		}
	}
}
