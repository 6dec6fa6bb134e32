package console

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/tools/txtar"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/yaml"

	"spiderpool.dev/spiderpool/internal/config"
	"spiderpool.dev/spiderpool/internal/kube/agentclient"
	"spiderpool.dev/spiderpool/internal/kube/scheme"
	"spiderpool.dev/spiderpool/internal/kube/tokenauth"
)

// threeAtNight is the time of the fixed clusters, which spiderpoolctl's tests use, too.
func threeAtNight() time.Time { return time.Date(2026, 11, 29, 3, 0, 0, 0, time.UTC) }

// authority is an API server that knows tokens and rights. TestServerTellsUsersAndRights in kube/tokenauth has the same
// questions for a real one.
type authority struct {
	mu      sync.Mutex
	tokens  map[string]string   // the user of a token
	rights  map[string][]string // of a user: "*", or "resource" and "resource/namespace"
	away    bool
	reviews int
}

func (a *authority) set(change func(*authority)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change(a)
}

func (a *authority) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.reviews
}

func (a *authority) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.away:
		http.Error(w, "away", http.StatusInternalServerError)
	case strings.HasSuffix(r.URL.Path, "/tokenreviews"):
		a.reviews++
		var review authenticationv1.TokenReview
		_ = json.NewDecoder(r.Body).Decode(&review)
		name, known := a.tokens[review.Spec.Token]
		review.Status.Authenticated, review.Status.User.Username = known, name
		_ = json.NewEncoder(w).Encode(review)
	case strings.HasSuffix(r.URL.Path, "/subjectaccessreviews"):
		a.reviews++
		var review authorizationv1.SubjectAccessReview
		_ = json.NewDecoder(r.Body).Decode(&review)
		of := review.Spec.ResourceAttributes
		text := strings.TrimSuffix(of.Resource+"/"+of.Namespace, "/")
		rights := a.rights[review.Spec.User]
		review.Status.Allowed = slices.Contains(rights, "*") || slices.Contains(rights, text)
		_ = json.NewEncoder(w).Encode(review)
	default:
		http.NotFound(w, r)
	}
}

// world is a console with an authority and a fixed cluster.
type world struct {
	*site
	authority *authority
	server    *httptest.Server
	objects   client.Client
	logged    *safeBuffer
	clock     struct {
		sync.Mutex
		at time.Time
	}
}

func (w *world) now() time.Time {
	w.clock.Lock()
	defer w.clock.Unlock()
	return w.clock.at
}

func (w *world) wait(d time.Duration) {
	w.clock.Lock()
	defer w.clock.Unlock()
	w.clock.at = w.clock.at.Add(d)
}

// safeBuffer is a bytes.Buffer for several goroutines.
type safeBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

// clusterOf returns the objects of the section "cluster" of a file of spiderpoolctl's tests.
func clusterOf(tb testing.TB, file string) []client.Object {
	tb.Helper()
	archive, err := txtar.ParseFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	i := slices.IndexFunc(archive.Files, func(f txtar.File) bool { return f.Name == "cluster" })
	// UID(namespace/name) stands for the UID of a pod.
	stream := regexp.MustCompile(`UID\(([a-z0-9-]+)/([a-z0-9-]+)\)`).ReplaceAll(archive.Files[i].Data, []byte("uid-$1-$2"))
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(stream)))
	var objects []client.Object
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return objects
		}
		object := &unstructured.Unstructured{}
		if err := errors.Join(err, yaml.Unmarshal(document, &object.Object)); err != nil {
			tb.Fatal(err)
		}
		if object.GetKind() == "Pod" {
			_ = unstructured.SetNestedField(object.Object, "uid-"+object.GetNamespace()+"-"+object.GetName(), "metadata", "uid")
		}
		objects = append(objects, object)
	}
}

// newWorld returns a console in front of the objects.
func newWorld(tb testing.TB, objects ...client.Object) *world {
	tb.Helper()
	w := &world{authority: &authority{tokens: map[string]string{}, rights: map[string][]string{}}, logged: &safeBuffer{}}
	w.clock.at = threeAtNight()
	api := httptest.NewServer(w.authority)
	tb.Cleanup(api.Close)
	registered := scheme.New()
	builder := fake.NewClientBuilder().WithScheme(registered)
	for _, object := range objects {
		typed := object
		if raw, ok := object.(*unstructured.Unstructured); ok {
			known, err := registered.New(raw.GroupVersionKind())
			if err != nil {
				tb.Fatal(err)
			}
			text, err := raw.MarshalJSON()
			if err := errors.Join(err, json.Unmarshal(text, known)); err != nil {
				tb.Fatal(err)
			}
			typed = known.(client.Object)
		}
		builder.WithObjects(typed)
	}
	w.objects = builder.Build()
	log := slog.New(slog.NewJSONHandler(w.logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	access, err := tokenauth.NewAccess(&rest.Config{Host: api.URL})
	if err != nil {
		tb.Fatal(err)
	}
	agents, err := agentclient.NewClient(&rest.Config{Host: api.URL})
	if err != nil {
		tb.Fatal(err)
	}
	read := objectsOf(w.objects, agentclient.NewCluster(agents, "", log))
	take := func(ctx context.Context, now time.Time) (*snapshot, error) {
		return read.take(ctx, ipamNames{"kube-system", "spiderpool-agent"}, now)
	}
	file := config.Default()
	file.IPAM.EnableIPv6, file.Multus.DefaultNetwork = false, "kube-system/macvlan"
	w.site = newSite(options{
		Board: newBoard(take, w.now, log), Objects: read, Access: access, Flows: newFlowWatch(config.ConsoleFlows{}, log),
		Config: file, Namespace: "kube-system", Now: w.now, Log: log,
	})
	w.server = httptest.NewServer(w.site)
	tb.Cleanup(w.server.Close)
	w.user("admin", "*")
	return w
}

func objectsOf(reader client.Reader, cluster *agentclient.Cluster) objects {
	return objects{Reader: reader, events: []client.Reader{reader}, networks: func() bool { return true }, top: cluster.TopController}
}

// user adds a user with the token "token-NAME".
func (w *world) user(name string, rights ...string) {
	w.authority.set(func(a *authority) { a.tokens["token-"+name], a.rights[name] = name, rights })
}

// browser is an HTTP client with cookies.
type browser struct {
	tb testing.TB
	*http.Client
	base string
}

func (w *world) browser(tb testing.TB) browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		tb.Fatal(err)
	}
	return browser{tb, &http.Client{Jar: jar, Transport: w.server.Client().Transport}, w.server.URL}
}

// as returns a browser of a signed-in user.
func (w *world) as(tb testing.TB, name string) browser {
	tb.Helper()
	cookie, _, err := w.sessions.signIn(tb.Context(), "token-"+name)
	if err != nil {
		tb.Fatal(err)
	}
	b := w.browser(tb)
	at, err := url.Parse(b.base)
	if err != nil {
		tb.Fatal(err)
	}
	b.Jar.SetCookies(at, []*http.Cookie{sessionCookie(cookie, false)})
	return b
}

func (b browser) get(path string) (status int, body string) {
	b.tb.Helper()
	return b.read(b.Get(b.base + path))
}

func (b browser) post(path string, form url.Values) (status int, body string) {
	b.tb.Helper()
	return b.read(b.PostForm(b.base+path, form))
}

func (b browser) read(answer *http.Response, err error) (int, string) {
	b.tb.Helper()
	if err != nil {
		b.tb.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		b.tb.Fatal(err)
	}
	return answer.StatusCode, string(body)
}
