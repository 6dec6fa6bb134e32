//go:build lab

package browser

import (
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"testing"
	"time"
)

// shownCluster is that of test/e2e/walk/console.go.
type shownCluster struct {
	Pool          string
	Free, Total   int64
	Holders       map[string]string
	Pod, Node     string
	Addresses     []string
	Stuck, Reason string
	Peer          string
}

// TestLabIsShown compares the pages with the answers of kubectl in CONSOLE_LAB.
func TestLabIsShown(t *testing.T) {
	var want shownCluster
	if err := json.Unmarshal([]byte(environment(t, "CONSOLE_LAB")), &want); err != nil {
		t.Fatal(err)
	}
	b := open(t, "light", viewports[0])
	free := strconv.FormatInt(want.Free, 10) + " of " + strconv.FormatInt(want.Total, 10)
	b.shows("pools", "/", want.Pool)
	b.becomes("pool", "/pools/"+want.Pool, func() string {
		if text := strings.Join(strings.Fields(b.text()), " "); !strings.Contains(text, "FREE "+free) && !strings.Contains(text, "Free "+free) {
			return "no free " + free + " in " + text
		}
		if holders := b.holders(); !maps.Equal(holders, want.Holders) {
			return fmt.Sprintf("the map has %v, the blocks have %v", holders, want.Holders)
		}
		return ""
	})
	b.shows("pod", "/pods/"+want.Pod, append([]string{want.Node, "eth0", "Running", want.Pool}, want.Addresses...)...)
	b.shows("stuck", "/pods/"+want.Stuck, want.Reason, "Pending")
	b.shows("node", "/nodes/"+want.Node, "spiderpool-agent-", want.Pod, want.Addresses[0])
	b.shows("address", "/addresses/"+want.Addresses[0], want.Pod, "in use")
	b.shows("latest", "/events", "FailedAllocateIP", want.Stuck)
	b.shows("search", "/search?q="+want.Pod, want.Pod)
	b.shows("flows", "/flows", want.Pod, want.Peer)
	b.hidesFlows(environment(t, "CONSOLE_GUEST"), want.Pod, want.Peer)
	dark := open(t, "dark", viewports[0])
	dark.shows("pool-dark", "/pools/"+want.Pool, want.Addresses[0])
	phone := open(t, "light", viewports[1])
	phone.shows("pod-phone", "/pods/"+want.Pod, want.Addresses[0])
}

// hidesFlows signs in as a user without rights in the namespace of the pods, and signs out.
func (b *tab) hidesFlows(token string, pods ...string) {
	b.Helper()
	b.signOut()
	b.signIn(token)
	b.becomes("flows-guest", "/flows", func() string {
		text := b.text()
		if !strings.Contains(text, "Your rights do not show the pods of all namespaces") {
			return "no reason in " + text
		}
		for _, pod := range pods {
			if strings.Contains(text, pod) {
				return "a flow of " + pod + " in " + text
			}
		}
		return ""
	})
	b.signOut()
}

// text returns the text of the page.
func (b *tab) text() string { return eval[string](b, `document.querySelector("main").innerText`) }

// holders returns the pods of a map by their addresses.
func (b *tab) holders() map[string]string {
	holders := map[string]string{}
	for _, title := range eval[[]string](b, `[...document.querySelectorAll(".c.use")].map(c => c.title)`) { // e.g. "10.6.0.2 in use by shop/web-0 on n1"
		addr, rest, _ := strings.Cut(title, " in use by ")
		holders[addr], _, _ = strings.Cut(rest, " ")
	}
	return holders
}

// shows waits until a page has all texts.
func (b *tab) shows(name, path string, texts ...string) {
	b.Helper()
	b.becomes(name, path, func() string {
		text := b.text()
		for _, part := range texts {
			if !strings.Contains(text, part) {
				return fmt.Sprintf("no %q in %s", part, text)
			}
		}
		return ""
	})
}

// becomes loads a page until it has no fault, and takes its picture.
func (b *tab) becomes(name, path string, fault func() string) {
	b.Helper()
	again := time.NewTicker(500 * time.Millisecond)
	defer again.Stop()
	for end := time.Now().Add(time.Minute); ; <-again.C {
		b.visit(path)
		found := fault()
		if found == "" {
			break
		}
		if time.Now().After(end) {
			b.shoot("fault-" + name)
			b.Fatalf("%s: %s", path, found)
		}
	}
	b.Logf("%s agrees", path)
	b.shoot("lab-" + name)
}
