// Package iaas is the provider for clouds behind an HTTP service of the user: Helm value
// iaasNetworkProvider. docs/reference/iaas-provider.md describes the requests.
//
// The service describes instances and assigns addresses. It does not create interfaces.
package iaas

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/inet"
)

// maxAnswer bounds an answer: 5,000 instances with 100 pieces each have about 20 MB.
const maxAnswer = 64 << 20

const paths = "v1/iaas.network.io/ipam/"

// Options are the inputs of New.
type Options struct {
	// URL is the service, e.g. https://iaas.example.com:8443.
	URL string
	// Timeout limits one request.
	Timeout time.Duration
	// Secret returns the files of the client certificate, for each new connection: they may
	// have been renewed. Nil for no client certificate, and the system's authorities.
	Secret func(ctx context.Context) (Secret, error)
}

// Secret are the files tls.crt, tls.key and ca.crt, in PEM. Without an authority, the
// system's are used.
type Secret struct{ Certificate, Key, Authority []byte }

// Provider asks the service.
type Provider struct {
	base   *url.URL
	client *http.Client
}

var _ cloud.Provider = (*Provider)(nil)

// New returns the provider for a service. It sends nothing.
func New(o Options) (*Provider, error) {
	base, err := url.Parse(o.URL)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return nil, fmt.Errorf("iaasNetworkProvider.serverUrl %q is no http or https URL, e.g. https://iaas.example.com:8443", o.URL)
	}
	// There is no proxy: it would make the TLS connection without our certificate.
	transport := &http.Transport{MaxIdleConnsPerHost: 8, IdleConnTimeout: time.Minute}
	if o.Secret != nil {
		transport.DialTLSContext = dialer(o.Secret)
	}
	return &Provider{base.JoinPath(paths), &http.Client{Timeout: o.Timeout, Transport: transport, CheckRedirect: refuseRedirect}}, nil
}

// refuseRedirect keeps a change from being sent twice, or to another service.
func refuseRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// dialer returns the function that opens connections with the files of a Secret.
func dialer(read func(ctx context.Context) (Secret, error)) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		secret, err := read(ctx)
		if err != nil {
			return nil, fmt.Errorf("read the Secret of iaasNetworkProvider.tlsSecret: %w", err)
		}
		config, err := secret.config()
		if err != nil {
			return nil, fmt.Errorf("the Secret of iaasNetworkProvider.tlsSecret: %w", err)
		}
		return (&tls.Dialer{Config: config}).DialContext(ctx, network, address)
	}
}

func (s Secret) config() (*tls.Config, error) {
	pair, err := tls.X509KeyPair(s.Certificate, s.Key)
	if err != nil {
		return nil, fmt.Errorf("tls.crt and tls.key: %w", err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	if len(s.Authority) > 0 {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(s.Authority) {
			return nil, errors.New("ca.crt has no certificate in PEM")
		}
	}
	return config, nil
}

// InstanceID implements cloud.Provider: the ID is the last part of spec.providerID, e.g.
// 6f1c of openstack:///6f1c. The nodes of other clouds cannot be told apart here. The
// service does not describe them.
func (p *Provider) InstanceID(providerID string) (string, bool) {
	id := providerID[strings.LastIndexByte(providerID, '/')+1:]
	return id, id != ""
}

// failure is the body of an answer with a status of 400 or more.
type failure struct {
	Kind    cloud.Kind `json:"kind"`
	Message string     `json:"message"`
	Action  string     `json:"action"` // the refused action, for kind Permission
}

// kinds are the kinds of answers without one.
var kinds = map[int]cloud.Kind{
	http.StatusBadRequest:          cloud.Invalid,
	http.StatusUnauthorized:        cloud.Credentials,
	http.StatusForbidden:           cloud.Permission,
	http.StatusNotFound:            cloud.Gone,
	http.StatusConflict:            cloud.Conflict,
	http.StatusMethodNotAllowed:    cloud.Invalid,
	http.StatusUnprocessableEntity: cloud.Invalid,
	http.StatusNotImplemented:      cloud.Invalid,
	http.StatusTooManyRequests:     cloud.Throttled,
	http.StatusInsufficientStorage: cloud.NoCapacity,
}

// known are the kinds that an answer may name.
var known = map[cloud.Kind]bool{
	cloud.Throttled: true, cloud.NoCapacity: true, cloud.Fragmented: true, cloud.Quota: true, cloud.Gone: true,
	cloud.Permission: true, cloud.Credentials: true, cloud.Conflict: true, cloud.Invalid: true, cloud.Unknown: true,
}

// post sends one request, e.g. allocate-ips, and decodes the answer into out.
func (p *Provider) post(ctx context.Context, name string, in, out any) error {
	refuse := func(kind cloud.Kind, err error) error { return &cloud.Error{Kind: kind, Action: name, Err: err} }
	body, err := json.Marshal(in)
	if err != nil {
		return refuse(cloud.Invalid, err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.base.JoinPath(name).String(), bytes.NewReader(body))
	if err != nil {
		return refuse(cloud.Invalid, err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := p.client.Do(request)
	if err != nil {
		return refuse(cloud.Unknown, err)
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return refuse(cloud.Unknown, err)
	case len(answer) > maxAnswer:
		return refuse(cloud.Unknown, fmt.Errorf("the answer has more than %d bytes", maxAnswer))
	case response.StatusCode != http.StatusOK:
		return refusal(name, response, answer)
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return cloud.NotUnderstood(name, err)
	}
	return nil
}

// refusal returns the error of an answer with another status than 200.
func refusal(name string, response *http.Response, answer []byte) error {
	f := failure{}
	if json.Unmarshal(answer, &f) != nil || !known[f.Kind] {
		f = failure{Kind: kinds[response.StatusCode], Message: text(answer)}
	}
	e := &cloud.Error{Kind: f.Kind, Action: name, Err: fmt.Errorf("%s: %s", response.Status, f.Message)}
	if e.Kind == "" {
		e.Kind = cloud.Unknown
	}
	if f.Action != "" && e.Kind == cloud.Permission {
		e.Action = text([]byte(f.Action))
	}
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil && seconds > 0 {
		e.After = time.Duration(seconds) * time.Second
	}
	return e
}

// text returns the beginning of a text, for errors and conditions.
func text(b []byte) string {
	const most = 500
	return strings.ToValidUTF8(string(b[:min(len(b), most)]), "?")
}

// lacking is the error of methods that the service does not have.
func lacking(method string) error {
	return &cloud.Error{Kind: cloud.Invalid, Action: method, Err: errors.New("a provider behind iaasNetworkProvider assigns addresses only; attach interfaces with the tools of the cloud")}
}

// explained returns the error of an assignment. A service that does not assign the address that a request names cannot have fixed addresses.
func explained(err error, a cloud.Assignment) error {
	e, ok := errors.AsType[*cloud.Error](err)
	if !ok || e.Kind != cloud.Invalid || len(a.Exact) == 0 {
		return err
	}
	with := *e
	with.Err = fmt.Errorf("the service behind iaasNetworkProvider does not assign %s to interface %s by name, as fixed addresses need it; let its request allocate-ips take exact and move, or remove spec.interfaces[].fixedAddresses: %w",
		a.Exact[0], a.Interface, e.Err)
	return &with
}

// Create implements cloud.Provider: the service has no such request.
func (p *Provider) Create(context.Context, cloud.NewInterface) (cloud.Interface, error) {
	return cloud.Interface{}, lacking("Create")
}

// Attach implements cloud.Provider: the service has no such request.
func (p *Provider) Attach(context.Context, string, string, int) error { return lacking("Attach") }

// Detach implements cloud.Provider: the service has no such request.
func (p *Provider) Detach(context.Context, string) error { return lacking("Detach") }

// Delete implements cloud.Provider: the service has no such request.
func (p *Provider) Delete(context.Context, string) error { return lacking("Delete") }

// checkPieces refuses an answer with other pieces than asked for.
func checkPieces(got []netip.Prefix, a cloud.Assignment) error {
	if want := a.Count + len(a.Exact); len(got) != want {
		return fmt.Errorf("the answer has %d pieces, not %d", len(got), want)
	}
	for _, p := range got {
		switch {
		case inet.FamilyOf(p.Addr()) != a.Family, p.IsSingleIP() != (a.Unit == cloud.Addresses), p != p.Masked():
			return fmt.Errorf("the answer has %s, which is no %s %s", p, a.Family, a.Unit)
		case len(a.Exact) > 0 && !slices.Contains(a.Exact, p):
			return fmt.Errorf("the answer has %s, not one of %v", p, a.Exact)
		}
	}
	return nil
}
