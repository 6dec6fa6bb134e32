package iaas

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/cloud/cloudtest"
	"spiderpool.dev/spiderpool/internal/inet"
)

// service is the service of docs/reference/iaas-provider.md, with cloudtest.Fake as its cloud.
type service struct{ *cloudtest.Fake }

func (s service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, ok := strings.CutPrefix(r.URL.Path, "/"+paths)
	if !ok || r.Method != http.MethodPost {
		http.NotFound(w, r)
		return
	}
	answer, err := s.answer(r, name)
	if err == nil {
		_ = json.NewEncoder(w).Encode(answer)
		return
	}
	e, ok := errors.AsType[*cloud.Error](err)
	if !ok {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if e.Kind == cloud.Unknown {
		panic(http.ErrAbortHandler) // the answer is lost
	}
	w.WriteHeader(http.StatusConflict)
	_ = json.NewEncoder(w).Encode(failure{Kind: e.Kind, Message: e.Err.Error(), Action: e.Action})
}

// answer carries a request out.
func (s service) answer(r *http.Request, name string) (any, error) {
	ctx := r.Context()
	decode := func(in any) error {
		decoder := json.NewDecoder(r.Body)
		decoder.DisallowUnknownFields()
		return decoder.Decode(in)
	}
	var q query
	var answer described
	switch name {
	case allocate:
		var a assignment
		if err := decode(&a); err != nil {
			return nil, err
		}
		family := inet.IPv4
		if a.Family == inet.IPv6.String() {
			family = inet.IPv6
		}
		got, err := s.Assign(ctx, cloud.Assignment{Interface: a.Interface, Family: family, Unit: a.Unit, Count: a.Count, Exact: a.Exact, Move: a.Move})
		return pieces{Pieces: got}, err
	case release:
		var in pieces
		if err := decode(&in); err != nil {
			return nil, err
		}
		return struct{}{}, s.Unassign(ctx, in.Interface, in.Pieces)
	}
	if err := decode(&q); err != nil {
		return nil, err
	}
	var err error
	switch name {
	case describeInstances:
		var found []cloud.Instance
		found, err = s.Instances(ctx, q.IDs)
		for _, i := range found {
			value := instance{i.ID, i.Type, i.Zone, i.Subnet, nil}
			for _, n := range i.Interfaces {
				value.Interfaces = append(value.Interfaces, iface(n))
			}
			answer.Instances = append(answer.Instances, value)
		}
	case describeInterfaces:
		var found []cloud.Interface
		found, err = s.Interfaces(ctx, cloud.Query(q))
		for _, n := range found {
			answer.Interfaces = append(answer.Interfaces, iface(n))
		}
	case describeSubnets:
		var found []cloud.Subnet
		found, err = s.Subnets(ctx, q.IDs, q.Tags)
		for _, n := range found {
			value := subnet{n.ID, n.Zone, n.CIDRs, n.Free, nil, n.Tags}
			for _, r := range n.Reserved {
				value.Reserved = append(value.Reserved, reservation(r))
			}
			answer.Subnets = append(answer.Subnets, value)
		}
	case describeTypes:
		var found map[string]cloud.Limits
		found, err = s.Limits(ctx, q.IDs)
		answer.Types = map[string]limits{}
		for name, l := range found {
			answer.Types[name] = limits(l)
		}
	default:
		err = fmt.Errorf("no request %s", name)
	}
	return answer, err
}

// listen starts a service that wants a client certificate, and returns the Secret for it:
// its own certificate serves as the client's, too.
func listen(t *testing.T, handler http.Handler) (address string, secret Secret) {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // lost answers are panics
	server.StartTLS()
	t.Cleanup(server.Close)
	private, err := x509.MarshalPKCS8PrivateKey(server.TLS.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	return server.URL, Secret{certificate, key, certificate}
}

// connect returns a provider with the secret.
func connect(t *testing.T, address string, secret *Secret) *Provider {
	t.Helper()
	p, err := New(Options{URL: address, Timeout: 30 * time.Second, Secret: func(context.Context) (Secret, error) { return *secret, nil }})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestProviderConforms(t *testing.T) {
	cloudtest.Conformance(t, func(t *testing.T) (cloud.Provider, cloudtest.World) {
		fake := cloudtest.NewFake()
		address, secret := listen(t, service{fake})
		return connect(t, address, &secret), fake
	}, cloudtest.Limits{Without: cloudtest.Interfacing, AnyNode: true})
}

func TestBothSidesShowCertificates(t *testing.T) {
	fake := cloudtest.NewFake()
	address, secret := listen(t, service{fake})
	stranger := secret
	stranger.Authority = nil // the system's authorities do not know the service
	p := connect(t, address, &stranger)
	if _, err := p.Limits(t.Context(), []string{"a"}); err == nil {
		t.Error("a request to a service with an unknown certificate succeeded")
	}
	bare, err := New(Options{URL: address, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	authority := x509.NewCertPool()
	authority.AppendCertsFromPEM(secret.Authority)
	bare.client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: authority}
	if _, err := bare.Limits(t.Context(), []string{"a"}); err == nil {
		t.Error("a request without a client certificate succeeded")
	}
	if n := fake.Requests(); n != 0 {
		t.Errorf("%d requests arrived without both certificates", n)
	}
	stranger = secret // the Secret is renewed
	if _, err := p.Limits(t.Context(), []string{"a"}); err != nil {
		t.Errorf("with the renewed Secret: %v", err)
	}
}

func TestBadSecretsNameTheKey(t *testing.T) {
	address, good := listen(t, http.NotFoundHandler())
	for want, secret := range map[string]Secret{
		"tls.crt": {nil, good.Key, good.Authority}, "tls.key": {good.Certificate, nil, good.Authority}, "ca.crt": {good.Certificate, good.Key, []byte("x")},
	} {
		_, err := connect(t, address, &secret).Limits(t.Context(), []string{"a"})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "iaasNetworkProvider.tlsSecret") {
			t.Errorf("error %v, want one about %s of iaasNetworkProvider.tlsSecret", err, want)
		}
	}
}

func TestRefusalsWithoutBodyHaveKinds(t *testing.T) {
	for status, want := range map[int]cloud.Kind{
		429: cloud.Throttled, 403: cloud.Permission, 401: cloud.Credentials, 404: cloud.Gone, 409: cloud.Conflict,
		400: cloud.Invalid, 405: cloud.Invalid, 422: cloud.Invalid, 501: cloud.Invalid, 507: cloud.NoCapacity, 500: cloud.Unknown, 503: cloud.Unknown, 302: cloud.Unknown, 204: cloud.Unknown,
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "3")
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(status)
		}))
		p, err := New(Options{URL: server.URL, Timeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		_, err = p.Limits(t.Context(), []string{"a"})
		if e, ok := errors.AsType[*cloud.Error](err); !ok || e.Kind != want || e.After != 3*time.Second {
			t.Errorf("status %d: %v, want %s", status, err, want)
		}
		server.Close()
	}
}

// A service may refuse addresses that a request names. Fixed addresses need them.
func TestServiceWithoutFixedAddressesIsExplained(t *testing.T) {
	address := netip.MustParsePrefix("10.0.1.77/32")
	fixed := cloud.Assignment{Interface: "eni-1", Family: inet.IPv4, Unit: cloud.Addresses, Exact: []netip.Prefix{address}, Move: true}
	for _, tc := range []struct {
		name   string
		status int
		body   string
		a      cloud.Assignment
		kind   cloud.Kind
		want   string // nothing for another error
	}{
		{"no such request", 501, "", fixed, cloud.Invalid, "does not assign 10.0.1.77/32 to interface eni-1 by name"},
		{"refused", 422, `{"kind":"Invalid","message":"exact is unknown"}`, fixed, cloud.Invalid, "or remove spec.interfaces[].fixedAddresses: 422 Unprocessable Entity: exact is unknown"},
		{"in use", 409, "", fixed, cloud.Conflict, ""},
		{"number of addresses", 422, "", cloud.Assignment{Interface: "eni-1", Family: inet.IPv4, Unit: cloud.Addresses, Count: 1}, cloud.Invalid, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.body)
			}))
			defer server.Close()
			p, err := New(Options{URL: server.URL, Timeout: time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			_, err = p.Assign(t.Context(), tc.a)
			e, ok := errors.AsType[*cloud.Error](err)
			if !ok || e.Kind != tc.kind || e.Action != allocate || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "fixedAddresses") != (tc.want != "") {
				t.Errorf("error %v, want %s with %q", err, tc.kind, tc.want)
			}
		})
	}
}

func TestStrangeAnswersAreUnknown(t *testing.T) {
	for _, body := range []string{"", "{", `[]`, `{"pieces":["10.0.0.300/32"]}`, `{"pieces":[]}`, `{"pieces":["10.0.0.1/32","10.0.0.2/32"]}`} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }))
		p, err := New(Options{URL: server.URL, Timeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		_, err = p.Assign(context.Background(), cloud.Assignment{Interface: "eni-1", Family: inet.IPv4, Unit: cloud.Addresses, Count: 1})
		if err == nil || cloud.KindOf(err) != cloud.Unknown {
			t.Errorf("answer %q: %v, want Unknown: the change may have happened", body, err)
		}
		server.Close()
	}
}

func TestBadURLNamesTheValue(t *testing.T) {
	for _, text := range []string{"", "iaas.example.com", "ftp://iaas.example.com", "https://"} {
		if _, err := New(Options{URL: text}); err == nil || !strings.Contains(err.Error(), "iaasNetworkProvider.serverUrl") {
			t.Errorf("%q: %v, want an error that names the Helm value", text, err)
		}
	}
}
