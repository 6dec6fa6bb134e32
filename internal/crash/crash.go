// Package crash ends the process when an HTTP handler panics.
//
// net/http recovers a panic and goes on. The handler's locks may stay locked then, and
// its maps half changed, while health checks succeed. The end of the process is safe at
// any moment: our state is in the API server and on disk, and the kubelet starts the
// container again.
package crash

import (
	"fmt"
	"net/http"
	"runtime/debug"
)

// OnPanic returns a handler that ends the process with exit code 2 if next panics. The
// trace of the panic goes to standard error.
func OnPanic(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			cause := recover()
			if cause == nil {
				return
			}
			trace := debug.Stack()
			go func() { panic(fmt.Sprintf("%s %s: %v\n%s", r.Method, r.URL.Path, cause, trace)) }() // net/http cannot recover this one
			select {}
		}()
		next.ServeHTTP(w, r)
	})
}
