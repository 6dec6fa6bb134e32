package console

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// BenchmarkPoolOf20000Addresses draws the page of a pool with 20,000 leases, from the request to the last byte. "build" is the
// snapshot after a change of the cluster, and "gzip" the page for a browser.
func BenchmarkPoolOf20000Addresses(b *testing.B) {
	w := newWorld(b, largeCluster(20_000)...)
	cookie, _, err := w.sessions.signIn(b.Context(), "token-admin")
	if err != nil {
		b.Fatal(err)
	}
	draw := func(b *testing.B, encoding string) {
		request := httptest.NewRequest(http.MethodGet, "/pools/large", nil)
		request.AddCookie(sessionCookie(cookie, false))
		request.Header.Set("Accept-Encoding", encoding)
		var size int
		for b.Loop() {
			answer := httptest.NewRecorder()
			w.site.ServeHTTP(answer, request)
			if answer.Code != http.StatusOK {
				b.Fatal(answer.Code, answer.Body)
			}
			size = answer.Body.Len()
		}
		b.ReportMetric(float64(size), "bytes/page")
	}
	b.Run("build", func(b *testing.B) {
		for b.Loop() {
			if _, err := w.Board.take(b.Context(), w.now()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("draw", func(b *testing.B) { draw(b, "") })
	b.Run("gzip", func(b *testing.B) { draw(b, "gzip") })
}
