// Package servedschema compares our Go types with the custom resource definitions in the
// cluster. The API server silently drops fields that a definition lacks: an agent whose
// SpiderIPBlocks lose spec.former would give one address to two pods. So every program
// checks the kinds it writes before it starts.
//
// A definition with more fields than the types is fine, e.g. after a rollback to an
// earlier release: the definitions of releases only grow.
package servedschema

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"k8s.io/client-go/rest"

	"spiderpool.dev/spiderpool/api/v2beta1"
)

// retryInterval is the longest time between two attempts while definitions are missing or
// old, or the API server does not answer. The first pause is firstRetry, and pauses double.
const (
	firstRetry    = 100 * time.Millisecond
	retryInterval = 2 * time.Second
)

// patience is how long Check waits for definitions: the API server publishes a new
// definition some seconds after its creation.
const patience = 30 * time.Second

// path of the OpenAPI v3 document of our group. Every authenticated client may read it
// (ClusterRole system:discovery).
var path = "/openapi/v3/apis/" + v2beta1.GroupVersion.String()

// Check returns nil once the API server serves the kinds of objects (pointers to types of
// v2beta1) with all their fields. It waits without limit for an API server that does not
// answer, and a moment for definitions. Its error names the missing fields and the way out.
func Check(ctx context.Context, log *slog.Logger, config *rest.Config, objects ...any) error {
	return check(ctx, log, config, patience, objects)
}

func check(ctx context.Context, log *slog.Logger, config *rest.Config, patience time.Duration, objects []any) error {
	config = rest.CopyConfig(config)
	server, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return fmt.Errorf("read the address of the API server: %w", err)
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return fmt.Errorf("create the HTTP client: %w", err)
	}
	url := server.JoinPath(path).String()
	var since time.Time // since when definitions are insufficient
	for pause := firstRetry; ; pause = min(2*pause, retryInterval) {
		missing, err := missingAt(ctx, client, url, objects)
		switch {
		case err == nil && len(missing) == 0:
			return nil
		case err == nil:
			if since.IsZero() {
				since = time.Now()
				log.Info("waiting for the custom resource definitions", "missing", missing)
			}
			if time.Since(since) >= patience {
				return fmt.Errorf("the custom resource definitions are older than this program and lack %s: the API server would drop these fields. "+
					"The Job spiderpool-init-definitions of helm install and helm upgrade updates them; without hooks, run: spiderpool-init definitions", strings.Join(missing, ", "))
			}
		case errors.Is(err, errRefused):
			return err
		default:
			log.Warn("waiting for the API server", "err", err)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// errRefused means that the API server will not answer later either.
var errRefused = errors.New("no permission to read the OpenAPI document: bind the ClusterRole system:discovery to system:authenticated, as Kubernetes does by default")

func missingAt(ctx context.Context, client *http.Client, url string, objects []any) ([]string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	switch {
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", path, err)
	case response.StatusCode == http.StatusNotFound: // no kind of the group exists
		return Missing([]byte("{}"), objects...)
	case response.StatusCode == http.StatusForbidden || response.StatusCode == http.StatusUnauthorized:
		return nil, fmt.Errorf("GET %s: %s: %w", path, response.Status, errRefused)
	case response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("GET %s: %s", path, response.Status)
	}
	return Missing(body, objects...)
}

// Fingerprint returns a text that changes with the fields that Check wants of the objects,
// so that a program can remember an earlier result of Check.
func Fingerprint(objects ...any) string {
	hash := fnv.New64a()
	for _, o := range objects {
		t := reflect.TypeOf(o).Elem()
		list(hash, t, t.Name())
	}
	return fmt.Sprintf("%016x", hash.Sum64())
}

// list writes the paths of all fields, e.g. "SpiderIPBlock.spec.former.node".
func list(out io.Writer, t reflect.Type, at string) {
	for f := range fields(t) {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		inner, below := f.Type, at
		if !strings.Contains(options, "inline") {
			below += "." + name
			fmt.Fprintln(out, below)
		}
		for inner.Kind() == reflect.Pointer || inner.Kind() == reflect.Slice {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Struct && inner.PkgPath() == own {
			list(out, inner, below)
		}
	}
}

// schema holds the parts we need of an OpenAPI v3 schema.
type schema struct {
	Kinds []struct {
		Group, Kind, Version string
	} `json:"x-kubernetes-group-version-kind"`
	Properties map[string]schema `json:"properties"`
	Items      *schema           `json:"items"`
}

// Missing returns the fields of objects (pointers to types of v2beta1) that the OpenAPI v3
// document lacks, e.g. "SpiderIPBlock.spec.former[].node", sorted. A missing kind stands
// for its fields.
func Missing(document []byte, objects ...any) ([]string, error) {
	var parsed struct {
		Components struct {
			Schemas map[string]schema `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(document, &parsed); err != nil {
		return nil, fmt.Errorf("read the OpenAPI document: %w", err)
	}
	served := map[string]schema{}
	for _, s := range parsed.Components.Schemas {
		for _, k := range s.Kinds {
			if k.Group == v2beta1.GroupVersion.Group && k.Version == v2beta1.GroupVersion.Version {
				served[k.Kind] = s
			}
		}
	}
	var out []string
	for _, o := range objects {
		t := reflect.TypeOf(o).Elem()
		if s, ok := served[t.Name()]; ok {
			out = append(out, missing(t, s, t.Name())...)
		} else {
			out = append(out, t.Name())
		}
	}
	slices.Sort(out)
	return out, nil
}

var own = reflect.TypeFor[v2beta1.SpiderIPBlock]().PkgPath()

// missing compares the fields of a struct of our package with the properties of s.
func missing(t reflect.Type, s schema, at string) []string {
	var out []string
	for f := range fields(t) {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		inner := f.Type
		if strings.Contains(options, "inline") {
			if inner.PkgPath() == own {
				out = append(out, missing(inner, s, at)...)
			}
			continue
		}
		property, ok := s.Properties[name]
		if !ok {
			out = append(out, at+"."+name)
			continue
		}
		below := at + "." + name
		for inner.Kind() == reflect.Pointer || inner.Kind() == reflect.Slice {
			if inner.Kind() == reflect.Slice && property.Items != nil {
				property, below = *property.Items, below+"[]"
			}
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Struct && inner.PkgPath() == own && len(property.Properties) > 0 {
			out = append(out, missing(inner, property, below)...)
		}
	}
	return out
}

// fields yields the fields of a struct that JSON carries.
func fields(t reflect.Type) func(func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			if f := t.Field(i); f.Tag.Get("json") != "-" && !yield(f) {
				return
			}
		}
	}
}
