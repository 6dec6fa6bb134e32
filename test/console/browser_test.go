// Package browser tests the pages of spiderpool-console in headless Chromium. "make console-browser" starts the console in
// front of a real API server with a fixed cluster, and then these tests with its address.
package browser

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// pages are all pages with content, by the name of their screenshot.
var pages = map[string]string{
	"pools": "/", "pool": "/pools/blue", "large": "/pools/large", "address": "/addresses/10.6.0.3", "nodes": "/nodes", "node": "/nodes/n1", "pod": "/pods/shop/web-0",
	"stuck": "/pods/blog/stuck", "latest": "/events", "flows": "/flows", "search": "/search?q=web", "problem": "/no/such/page",
}

// viewport is a screen.
type viewport struct {
	name          string
	width, height int64
}

var viewports = []viewport{{"desktop", 1280, 900}, {"phone", 390, 844}}

// environment returns a variable that make console-browser sets.
func environment(t *testing.T, name string) string {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		t.Fatalf("%s is not set: run make console-browser", name)
	}
	return value
}

var chromium = sync.OnceValues(func() (context.Context, error) {
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath("chromium"), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true), chromedp.IgnoreCertErrors)
	allocator, stop := chromedp.NewExecAllocator(context.Background(), options...)
	browser, _ := chromedp.NewContext(allocator)
	stops = append(stops, func() { _ = chromedp.Cancel(browser) }, stop)
	return browser, chromedp.Do(browser)
})

var stops []func()

func TestMain(m *testing.M) {
	code := m.Run()
	for _, stop := range stops {
		stop()
	}
	os.Exit(code)
}

// tab is a page of the browser, with the errors that it reports.
type tab struct {
	*testing.T
	ctx  context.Context
	base string
	mu   sync.Mutex
	said []string
}

// open opens a tab with a session. All tabs of a process share it.
func open(t *testing.T, colors string, v viewport) *tab {
	t.Helper()
	browser, err := chromium()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := chromedp.NewContext(browser)
	t.Cleanup(stop)
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	t.Cleanup(cancel)
	b := &tab{T: t, ctx: ctx, base: environment(t, "CONSOLE_URL")}
	messages := chromedp.Console(ctx)
	go func() {
		for m, err := range messages {
			if err != nil {
				return
			}
			if m.IsException() || m.Type == "error" && !strings.Contains(m.Text, "404") {
				b.mu.Lock()
				b.said = append(b.said, m.String())
				b.mu.Unlock()
			}
		}
	}()
	t.Cleanup(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.said) > 0 {
			t.Errorf("the browser reports %q", b.said)
		}
	})
	b.run(chromedp.EmulateViewport(v.width, v.height))
	if _, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: colors}}}); err != nil {
		t.Fatal(err)
	}
	b.visit("/sign-in")
	if b.has("#token") {
		b.signIn(environment(t, "CONSOLE_TOKEN"))
	}
	return b
}

// signIn fills in the form of the page.
func (b *tab) signIn(token string) {
	b.Helper()
	b.run(chromedp.SendKeys(chromedp.CSS("#token"), token+kb.Enter), chromedp.WaitVisible(chromedp.CSS("footer")))
}

func (b *tab) signOut() {
	b.Helper()
	b.run(chromedp.Click(chromedp.CSS("form[action='/sign-out'] button")), chromedp.WaitVisible(chromedp.CSS("#token")))
}

func (b *tab) run(actions ...chromedp.Action[chromedp.Void]) {
	b.Helper()
	if err := chromedp.Do(b.ctx, actions...); err != nil {
		b.Fatal(err)
	}
}

func (b *tab) visit(path string) {
	b.Helper()
	b.run(chromedp.Navigate(b.base+path), chromedp.WaitReady(chromedp.CSS("main")))
}

// eval returns the value of a script, also one of a promise.
func eval[T any](b *tab, script string) T {
	b.Helper()
	value, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
	if err != nil {
		b.Fatal(err)
	}
	return value
}

func (b *tab) has(selector string) bool {
	b.Helper()
	return eval[bool](b, fmt.Sprintf("document.querySelector(%q) !== null", selector))
}

// violation is one of axe-core.
type violation struct {
	ID, Help string
	Nodes    []struct{ HTML, FailureSummary string }
}

// accessible runs axe-core with the rules of WCAG 2.2 AA.
func (b *tab) accessible(name string) {
	b.Helper()
	axe, err := os.ReadFile(environment(b.T, "AXE"))
	if err != nil {
		b.Fatal(err)
	}
	eval[bool](b, string(axe)+";true")
	found := eval[string](b, `axe.run(document, {runOnly: {type: "tag", values: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}, resultTypes: ["violations"]}).then(r => JSON.stringify(r.violations))`)
	var violations []violation
	if err := json.Unmarshal([]byte(found), &violations); err != nil {
		b.Fatal(err)
	}
	for _, v := range violations {
		b.Errorf("%s: %s (%s), %d times, e.g. %s\n%s", name, v.Help, v.ID, len(v.Nodes), v.Nodes[0].HTML, v.Nodes[0].FailureSummary)
	}
}

// shoot writes a screenshot.
func (b *tab) shoot(name string) {
	b.Helper()
	dir := os.Getenv("SCREENSHOTS")
	if dir == "" {
		return
	}
	png, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644); err != nil {
		b.Fatal(err)
	}
}

func TestPagesAreAccessible(t *testing.T) {
	for _, v := range viewports {
		for _, colors := range []string{"light", "dark"} {
			b := open(t, colors, v)
			for name, path := range pages {
				b.visit(path)
				if name != "large" { // axe-core takes minutes for 20,000 links; the page of blue has the same parts
					b.accessible(fmt.Sprintf("%s, %s, %s", path, colors, v.name))
				}
				if over := eval[int](b, "document.documentElement.scrollWidth - document.documentElement.clientWidth"); over > 0 {
					t.Errorf("%s, %s: the page is %d pixels too wide", path, v.name, over)
				}
				b.shoot(name + "-" + v.name + "-" + colors)
			}
		}
	}
}

func TestSignInIsAccessible(t *testing.T) {
	for _, colors := range []string{"light", "dark"} {
		b := open(t, colors, viewports[1])
		b.signOut()
		b.accessible("sign-in, " + colors)
		b.shoot("sign-in-" + colors)
		b.run(chromedp.SendKeys(chromedp.CSS("#token"), "wrong"+kb.Enter), chromedp.WaitVisible(chromedp.CSS("#problem")))
		b.accessible("refused, " + colors)
		if cookies := eval[string](b, "document.cookie"); cookies != "" {
			t.Errorf("scripts see the cookie %q", cookies)
		}
		b.mu.Lock()
		b.said = nil // the browser reports the status 401
		b.mu.Unlock()
	}
}

// focused returns the text, the label or the title of the focused element.
func (b *tab) focused() string {
	b.Helper()
	return eval[string](b, `(e => e.getAttribute("title") || e.getAttribute("aria-label") || e.id || e.textContent.trim())(document.activeElement)`)
}

func TestKeyboardReachesEverything(t *testing.T) {
	b := open(t, "light", viewports[0])
	b.visit("/pools/blue")
	want := []string{"Skip to the content", "Spiderpool", "Pools", "Nodes", "Latest", "Flows", "q", "live", "Dark colors"}
	for _, name := range want {
		b.run(chromedp.KeyEvent(kb.Tab))
		if got := b.focused(); got != name {
			t.Errorf("the tab key reaches %q, want %q", got, name)
		}
	}
	for range 20 {
		if b.run(chromedp.KeyEvent(kb.Tab)); strings.HasPrefix(b.focused(), "10.6.0.1 ") {
			break
		}
	}
	for _, step := range []struct{ key, want string }{
		{kb.ArrowRight, "10.6.0.2 in use by shop/web-0"}, {kb.End, "10.6.0.10 "}, {kb.Home, "10.6.0.1 "}, {kb.ArrowRight, "10.6.0.2 "}, {kb.ArrowRight, "10.6.0.3 "}, {kb.ArrowLeft, "10.6.0.2 "},
	} {
		b.run(chromedp.KeyEvent(step.key))
		if got := b.focused(); !strings.HasPrefix(got, step.want) {
			t.Errorf("key %q in the map reaches %q, want %q", step.key, got, step.want)
		}
	}
	b.run(chromedp.KeyEvent(kb.Enter), chromedp.WaitVisible(chromedp.CSS("#holders")))
	if title := eval[string](b, "document.title"); !strings.HasPrefix(title, "Address 10.6.0.2") {
		t.Errorf("enter opens %q", title)
	}
	b.run(chromedp.KeyEvent("/"), chromedp.KeyEvent("web-0"+kb.Enter), chromedp.WaitVisible(chromedp.CSS(".found")))
	if text := eval[string](b, `document.querySelector(".found").textContent`); !strings.Contains(text, "shop/web-0") {
		t.Errorf("the search finds %q", text)
	}
}

func TestColorsAreRemembered(t *testing.T) {
	b := open(t, "light", viewports[0])
	ground := func() string { return eval[string](b, "getComputedStyle(document.body).backgroundColor") }
	light := ground()
	b.run(chromedp.Click(chromedp.CSS("#theme")))
	dark := ground()
	b.visit("/nodes")
	if again := ground(); dark == light || again != dark {
		t.Errorf("light %s, dark %s, after the next page %s", light, dark, again)
	}
	b.run(chromedp.Click(chromedp.CSS("#theme")))
	if ground() != light {
		t.Error("the button does not lead back")
	}
	eval[chromedp.Void](b, "localStorage.clear()")
}

// TestPagesFollowCluster changes the cluster, and waits for the change without loading the page again.
func TestPagesFollowCluster(t *testing.T) {
	b := open(t, "light", viewports[0])
	b.visit("/")
	eval[string](b, `window.loaded = "once"`)
	b.run(chromedp.Focus(chromedp.CSS(`a[href="/pools/blue"]`)))
	answer, err := http.Post(environment(t, "CONSOLE_CHANGE"), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	b.run(chromedp.WaitVisible(chromedp.CSS(`a[href="/pools/fresh"]`)))
	if loaded := eval[string](b, "window.loaded"); loaded != "once" {
		t.Error("the page was loaded again")
	}
	if focus := eval[string](b, `document.activeElement.getAttribute("href")`); focus != "/pools/blue" {
		t.Errorf("the focus went to %q", focus)
	}
	b.run(chromedp.Click(chromedp.CSS("#live")))
	if on := eval[string](b, `document.getElementById("live").getAttribute("aria-pressed")`); on != "false" {
		t.Errorf("updates are on: %s", on)
	}
}

// TestLargeMapIsDrawnFast measures the time until 20,000 addresses are on the screen.
func TestLargeMapIsDrawnFast(t *testing.T) {
	b := open(t, "light", viewports[0])
	b.visit("/pools/large")
	took := eval[float64](b, `new Promise(done => requestAnimationFrame(() => setTimeout(() => { const n = performance.getEntriesByType("navigation")[0]; done(n.loadEventEnd - n.startTime); })))`)
	if cells := eval[int](b, `document.querySelectorAll(".c").length`); cells != 20000 {
		t.Errorf("%d cells, want 20,000", cells)
	}
	t.Logf("20,000 cells: %.0f ms from the request to the load event", took)
}
