package ec2test

import (
	"bytes"
	"context"
	"encoding/xml"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"spiderpool.dev/spiderpool/internal/cloud/cloudtest/formtest"
)

// apiVersion is the version of the API, and part of its XML namespace.
const apiVersion = "2016-11-15"

// Server serves a Cloud on a loopback address.
type Server struct {
	URL   string // of the EC2 API, e.g. http://127.0.0.1:41234
	cloud *Cloud
	mu    struct {
		sync.Mutex
		running  []*http.Server
		metadata map[string]string // URLs by instance
	}
}

// Start serves the cloud until the test ends. t is a *testing.T, or anything else with a Cleanup method.
func (c *Cloud) Start(t interface{ Cleanup(func()) }) *Server {
	s, err := c.Listen("127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	t.Cleanup(s.Close)
	return s
}

// Listen serves the cloud on an address, e.g. 127.0.0.1:4566, until Close.
func (c *Cloud) Listen(address string) (*Server, error) {
	s := &Server{cloud: c}
	s.mu.metadata = map[string]string{}
	var err error
	s.URL, err = s.serve(address, c.Handler())
	return s, err
}

// serve serves a handler and returns its URL.
func (s *Server) serve(address string, handler http.Handler) (string, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	s.mu.running = append(s.mu.running, server)
	go func() { _ = server.Serve(listener) }() // until Close
	return "http://" + listener.Addr().String(), nil
}

// Close ends the server and its connections.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, server := range s.mu.running {
		_ = server.Close()
	}
}

// MetadataURL returns the endpoint of the metadata service of an instance. Each instance has a port of its own, because
// SDKs replace the path of the endpoint.
func (s *Server) MetadataURL(instance string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.mu.metadata[instance]; !ok {
		address, err := s.serve("127.0.0.1:0", s.cloud.MetadataHandler(instance))
		if err != nil {
			panic(err)
		}
		s.mu.metadata[instance] = address
	}
	return s.mu.metadata[instance]
}

// Environment returns environment variables that make an AWS client use the fake: SDKs, and the aws command from
// version 2.13. With an instance, they include its metadata service. That URL ends with a slash, because the aws command
// appends to it.
// https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html
func (s *Server) Environment(instance string) []string {
	region := s.cloud.options.Region
	environment := []string{
		"AWS_ENDPOINT_URL=" + s.URL,
		"AWS_ENDPOINT_URL_EC2=" + s.URL,
		"AWS_ACCESS_KEY_ID=AKIAFAKEFAKEFAKEFAKE",
		"AWS_SECRET_ACCESS_KEY=fake",
		"AWS_REGION=" + region,
		"AWS_DEFAULT_REGION=" + region,
	}
	if instance != "" {
		environment = append(environment, "AWS_EC2_METADATA_SERVICE_ENDPOINT="+s.MetadataURL(instance)+"/")
	}
	return environment
}

// Handler returns the EC2 API.
func (c *Cloud) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", c.serveQuery)
	return mux
}

// query is a request of the Query API.
type query struct {
	action    string
	form      url.Values
	key       string // access key ID
	principal string
	elsewhere bool // the request is for another region
}

// credential is the part of the Authorization header with the access key, date, region and service
// (https://docs.aws.amazon.com/IAM/latest/UserGuide/create-signed-request.html).
var credential = regexp.MustCompile(`Credential=([^/]+)/\d{8}/([^/]+)/`)

func (c *Cloud) serveQuery(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 1<<20)
	q := query{}
	result, failure := any(nil), (*Error)(nil)
	if err := r.ParseForm(); err != nil {
		failure = refuse("MalformedQueryString", "%v", err)
	} else {
		q.action, q.form = r.Form.Get("Action"), r.Form
		if m := credential.FindStringSubmatch(r.Header.Get("Authorization")); m != nil {
			q.key, q.principal, q.elsewhere = m[1], principalOf(m[1]), m[2] != c.options.Region
		}
		result, failure = c.answer(r.Context(), q)
	}
	switch {
	case failure == nil:
		write(w, http.StatusOK, q.action+"Response", result)
	case failure.Code == "":
		panic(http.ErrAbortHandler) // cuts the connection
	default:
		writeError(w, failure)
	}
}

// answer returns the result of a request, or its error. An error without a code is a cut connection.
func (c *Cloud) answer(ctx context.Context, q query) (result any, failure *Error) {
	c.set(func() { c.mu.calls[q.action]++ })
	defer func() {
		if failure != nil {
			c.set(func() { c.mu.failures[failure.Code]++ })
		}
	}()
	a, err := c.admit(q)
	if err != nil {
		return nil, err
	}
	if !c.delay(ctx, q.action) {
		return nil, &Error{}
	}
	fault := c.fault(q.action)
	if fault != nil && !fault.Done {
		return nil, fault.error()
	}
	if q.form.Get("DryRun") == "true" {
		return nil, refuse("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
	}
	result, err = a.run(c, q)
	if err == nil && fault != nil {
		return nil, fault.error()
	}
	return result, err
}

// error returns the error of a fault, without a code for a cut connection.
func (f *Fault) error() *Error {
	if f.Code == "" {
		return &Error{}
	}
	return known(f.Code)
}

// admit checks a request before its parameters: action, credentials, rate and permissions.
func (c *Cloud) admit(q query) (action, *Error) {
	a, ok := actions[q.action]
	switch {
	case !ok:
		return a, refuse("InvalidAction", "The action %s is not valid for this web service.", q.action)
	case q.form.Get("Version") != apiVersion:
		return a, refuse("NoSuchVersion", "The requested version (%s) of service AmazonEC2 does not exist", q.form.Get("Version"))
	case q.key == "":
		return a, refuse("AuthFailure", "AWS was not able to validate the provided access credentials")
	case c.throttled(q.action, a.reads, unfiltered(q.form)):
		return a, known("RequestLimitExceeded")
	}
	return a, c.authorize(q)
}

// unfiltered reports whether a request has no parameters of its own.
func unfiltered(form url.Values) bool {
	for name := range form {
		if name != "Action" && name != "Version" && name != "DryRun" {
			return false
		}
	}
	return true
}

// delay waits for the latency of an action. It reports whether the client still waits.
func (c *Cloud) delay(ctx context.Context, action string) bool {
	var latency time.Duration
	c.set(func() { latency = c.mu.latency[action] })
	if latency == 0 {
		return true
	}
	select {
	case <-time.After(latency):
		return true
	case <-ctx.Done():
		return false
	}
}

// action is an action of the API.
type action struct {
	reads bool
	run   func(*Cloud, query) (any, *Error)
}

// reading returns an action that answers from what describes see.
func reading[T any](run func(*session, *T) (any, *Error)) action {
	return action{true, func(c *Cloud, q query) (any, *Error) {
		in := new(T)
		if err := decode(q.form, in); err != nil {
			return nil, err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		now := c.options.Now()
		s := c.seen(now)
		if q.elsewhere {
			s = emptyState()
		}
		return run(c.session(s, now), in)
	}}
}

// decode reads the parameters of a request.
func decode(form url.Values, into any) *Error {
	if err := formtest.Decode(form, []string{"Action", "Version", "DryRun"}, into); err != nil {
		return (*Error)(err)
	}
	return nil
}

// changing returns an action that changes the current state, or leaves it alone if it fails.
func changing[T any](run func(*session, *T) (any, *Error)) action {
	return action{false, func(c *Cloud, q query) (result any, failure *Error) {
		in := new(T)
		if err := decode(q.form, in); err != nil {
			return nil, err
		}
		failure = c.change(func(x *session) (err *Error) {
			x.request = q.form.Encode()
			if q.elsewhere {
				x.state = emptyState()
			}
			result, err = run(x, in)
			return err
		})
		return result, failure
	}}
}

// actions are the actions of the fake, by name.
var actions = map[string]action{
	"AssignIpv6Addresses":             changing((*session).assignIPv6),
	"AssignPrivateIpAddresses":        changing((*session).assignPrivate),
	"AttachNetworkInterface":          changing((*session).attachInterface),
	"CreateNetworkInterface":          changing((*session).createInterface),
	"CreateSubnetCidrReservation":     changing((*session).createReservation),
	"CreateTags":                      changing((*session).createTags),
	"DeleteNetworkInterface":          changing((*session).deleteInterface),
	"DeleteTags":                      changing((*session).deleteTags),
	"DescribeInstanceTypes":           reading((*session).describeTypes),
	"DescribeInstances":               reading((*session).describeInstances),
	"DescribeNetworkInterfaces":       reading((*session).describeInterfaces),
	"DescribeSecurityGroups":          reading((*session).describeGroups),
	"DescribeSubnets":                 reading((*session).describeSubnets),
	"DescribeTags":                    reading((*session).describeTags),
	"DescribeVpcs":                    reading((*session).describeVPCs),
	"DetachNetworkInterface":          changing((*session).detachInterface),
	"GetSubnetCidrReservations":       reading((*session).getReservations),
	"ModifyNetworkInterfaceAttribute": changing((*session).modifyInterface),
	"TerminateInstances":              changing((*session).terminate),
	"UnassignIpv6Addresses":           changing((*session).unassignIPv6),
	"UnassignPrivateIpAddresses":      changing((*session).unassignPrivate),
}

var requests atomic.Int64

// requestID returns the ID of the next answer.
func requestID() string { return fmt.Sprintf("00000000-0000-4000-8000-%012x", requests.Add(1)) }

type errorXML struct {
	XMLName xml.Name `xml:"Response"`
	Code    string   `xml:"Errors>Error>Code"`
	Message string   `xml:"Errors>Error>Message"`
	Request string   `xml:"RequestID"`
}

func writeError(w http.ResponseWriter, e *Error) {
	content, err := xml.Marshal(errorXML{Code: e.Code, Message: e.Message, Request: requestID()})
	send(w, e.status(), content, err)
}

// write sends a result within an element that is named after the action.
func write(w http.ResponseWriter, status int, element string, result any) {
	var inner bytes.Buffer
	err := xml.NewEncoder(&inner).EncodeElement(result, xml.StartElement{Name: xml.Name{Local: "x"}})
	fields := bytes.TrimSuffix(bytes.TrimPrefix(inner.Bytes(), []byte("<x>")), []byte("</x>"))
	content := fmt.Sprintf(`<%s xmlns="http://ec2.amazonaws.com/doc/%s/"><requestId>%s</requestId>%s</%[1]s>`, element, apiVersion, requestID(), fields)
	send(w, status, []byte(content), err)
}

func send(w http.ResponseWriter, status int, content []byte, err error) {
	if err != nil {
		panic(err) // a result type that encoding/xml cannot write
	}
	w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
	w.WriteHeader(status)
	_, _ = w.Write(append([]byte(xml.Header), content...))
}
