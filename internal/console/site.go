package console

import (
	"bytes"
	"compress/gzip"
	"context"
	"embed"
	"errors"
	"html/template"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"spiderpool.dev/spiderpool/internal/config"
)

//go:embed web
var web embed.FS

// options are the parts of a site.
type options struct {
	Board   *board
	Objects objects
	Access  access
	Flows   *flowWatch
	Config  *config.File
	// Namespace is that of the installation.
	Namespace string
	// Secure is whether the cookie is for TLS only: at this process, or at a proxy in front of it. Only a console for its own
	// machine needs no TLS.
	Secure bool
	Now    func() time.Time
	Log    *slog.Logger
}

// site is the http.Handler of all pages.
type site struct {
	options
	sessions  *sessions
	signIns   *signInLimit
	streams   *streams
	templates map[string]*template.Template
	rendering *places
	handler   http.Handler
}

func newSite(o options) *site {
	s := &site{
		options: o, sessions: newSessions(o.Access, o.Now), signIns: newSignInLimit(), streams: newStreams(),
		templates: parseTemplates(), rendering: newPlaces(),
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /static/{file}", static)
	mux.HandleFunc("GET /sign-in", s.showSignIn)
	mux.HandleFunc("POST /sign-in", s.signIn)
	mux.HandleFunc("POST /sign-out", s.signOut)
	mux.HandleFunc("GET /live", s.live)
	for pattern, p := range pages {
		mux.Handle("GET "+pattern, s.signedIn(p))
	}
	mux.Handle("GET /", s.signedIn(page{"problem", func(*site, *visit) (any, error) { return nil, errNotFound }}))
	s.handler = http.NewCrossOriginProtection().Handler(mux)
	return s
}

// ServeHTTP implements http.Handler. It adds the headers that keep the pages apart from other sites.
func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), microphone=(), geolocation=()")
	h.Set("Cache-Control", "no-store")
	if s.Secure {
		h.Set("Strict-Transport-Security", "max-age=31536000")
	}
	s.handler.ServeHTTP(w, r)
}

// types are the content types of the files in web. Templates are not among them.
var types = map[string]string{"console.css": "text/css; charset=utf-8", "console.js": "text/javascript; charset=utf-8", "icon.svg": "image/svg+xml"}

func static(w http.ResponseWriter, r *http.Request) {
	kind, ok := types[r.PathValue("file")]
	content, err := web.ReadFile("web/" + r.PathValue("file"))
	if !ok || err != nil {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Cache-Control", "no-cache")
	_, _ = w.Write(content)
}

// visit is one request for a page by a signed-in user.
type visit struct {
	*http.Request
	*snapshot
	sight *sight
}

// page is the name of a template, and the function that returns its content.
type page struct {
	template string
	content  func(*site, *visit) (any, error)
}

var (
	errNotFound = errors.New("there is no such page")
	// errHidden is the answer about objects that the user may not see, whether they exist or not.
	errHidden = errors.New("there is no such object, or you may not see it")
)

// frame is the content of the layout around each page.
type frame struct {
	Title, Path, Query, User string
	SignedIn                 bool
	At                       time.Time
	Generation               uint64
	Notes                    []string
	Content                  any
}

// renderTimeout limits the time of one page, mostly for reviews of rights.
const renderTimeout = 15 * time.Second

// signedIn serves a page to users with a session, and sends others to the form.
func (s *site) signedIn(p page) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), renderTimeout)
		defer cancel()
		x := s.sessionOf(r, r.Header.Get("Sec-Fetch-Dest") != "empty") // the script of an open page reads it again
		if x == nil {
			http.Redirect(w, r, "/sign-in", http.StatusSeeOther)
			return
		}
		give, ok := s.rendering.take(ctx, x.user.ID())
		if !ok {
			http.Error(w, "too many pages are drawn; try again", http.StatusServiceUnavailable)
			return
		}
		defer give()
		now, err := s.Board.current(ctx)
		if err != nil {
			s.Log.Warn("cannot read the cluster from memory", "err", err)
			s.problem(w, r, frame{SignedIn: true, User: x.user.Name, At: s.Now()}, http.StatusServiceUnavailable, "The console has not read the cluster yet. Try again in a few seconds.")
			return
		}
		v := &visit{Request: r.WithContext(ctx), snapshot: now, sight: newSight(ctx, s.Access, x.user)}
		content, err := p.content(s, v)
		f := frame{Path: r.URL.Path, Query: r.URL.Query().Get("q"), User: x.user.Name, SignedIn: true, At: now.at, Generation: now.generation, Content: content, Notes: v.notes()}
		switch {
		case errors.Is(err, errNotFound):
			s.problem(w, r, f, http.StatusNotFound, "There is no such page.")
		case errors.Is(err, errHidden):
			s.problem(w, r, f, http.StatusNotFound, "There is no such object, or you may not see it.")
		case err != nil:
			s.Log.Warn("cannot draw a page", "path", r.URL.Path, "err", err)
			s.problem(w, r, f, http.StatusServiceUnavailable, "The page cannot be drawn now: "+err.Error()+".")
		default:
			s.render(w, r, http.StatusOK, p.template, f)
		}
	})
}

// notes tell about missing parts of a page.
func (v *visit) notes() (notes []string) {
	if v.sight.err != nil {
		notes = append(notes, "The API server does not answer about your rights, so parts of this page may be missing: "+v.sight.err.Error())
	}
	if v.sight.cut {
		notes = append(notes, "Objects of further namespaces are not shown: you have rights in single namespaces, and there are too many to ask about each in time.")
	}
	return notes
}

// sessionOf returns the session of a request, nil for none. acts is whether the user made the request.
func (s *site) sessionOf(r *http.Request, acts bool) *session {
	cookie, err := r.Cookie(cookieName(s.Secure))
	if err != nil {
		return nil
	}
	return s.sessions.of(r.Context(), cookie.Value, acts)
}

func (s *site) problem(w http.ResponseWriter, r *http.Request, f frame, status int, text string) {
	f.Title, f.Content, f.Path = "Problem", text, ""
	s.render(w, r, status, "problem", f)
}

// render draws a page. Nothing is sent before all of it is drawn.
func (s *site) render(w http.ResponseWriter, r *http.Request, status int, name string, f frame) {
	if titled, ok := f.Content.(interface{ title() string }); ok {
		f.Title = titled.title()
	}
	var body bytes.Buffer
	if err := s.templates[name].Execute(&body, f); err != nil {
		s.Log.Error("cannot draw a page", "template", name, "err", err)
		http.Error(w, "the page cannot be drawn; the log of spiderpool-console has the reason", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if body.Len() < 4096 || !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		w.WriteHeader(status)
		_, _ = body.WriteTo(w)
		return
	}
	w.Header().Set("Content-Encoding", "gzip")
	w.WriteHeader(status)
	packed, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err == nil {
		_, _ = body.WriteTo(packed)
		_ = packed.Close()
	}
}

// maxForm is the size of the form with a token. Tokens with many groups have a few kilobytes.
const maxForm = 64 << 10

// signInForm is the content of the form.
type signInForm struct{ Problem string }

func (signInForm) title() string { return "Sign in" }

func (s *site) showSignIn(w http.ResponseWriter, r *http.Request) {
	if s.sessionOf(r, true) != nil {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	s.render(w, r, http.StatusOK, "sign-in", frame{Content: signInForm{}})
}

func (s *site) signIn(w http.ResponseWriter, r *http.Request) {
	refuse := func(status int, problem string) {
		s.render(w, r, status, "sign-in", frame{Content: signInForm{Problem: problem}})
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		refuse(http.StatusBadRequest, "The form cannot be read. Paste one token.")
		return
	}
	token := strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(r.PostForm.Get("token")), "Bearer "))
	if token == "" || strings.ContainsAny(token, " \t\r\n") {
		refuse(http.StatusBadRequest, "Paste one token, as kubectl create token prints it.")
		return
	}
	if !s.signIns.allow(r.RemoteAddr, s.Now()) { // only what may be a token counts
		w.Header().Set("Retry-After", "10")
		refuse(http.StatusTooManyRequests, "There were too many attempts to sign in. Wait ten seconds.")
		return
	}
	cookie, user, err := s.sessions.signIn(r.Context(), token)
	switch {
	case errors.Is(err, errUnknownToken):
		refuse(http.StatusUnauthorized, sentence(errUnknownToken.Error()))
	case err != nil:
		s.Log.Warn("cannot review a token", "client", r.RemoteAddr, "err", err)
		refuse(http.StatusServiceUnavailable, sentence(errNoAnswer.Error()))
	default:
		s.Log.Info("a user signed in", "user", user.Name, "client", r.RemoteAddr)
		http.SetCookie(w, sessionCookie(cookie, s.Secure))
		http.Redirect(w, r, "/", http.StatusSeeOther)
	}
}

func (s *site) signOut(w http.ResponseWriter, r *http.Request) {
	if cookie, err := r.Cookie(cookieName(s.Secure)); err == nil {
		s.sessions.signOut(cookie.Value)
	}
	gone := sessionCookie("", s.Secure)
	gone.MaxAge = -1
	http.SetCookie(w, gone)
	http.Redirect(w, r, "/sign-in", http.StatusSeeOther)
}
