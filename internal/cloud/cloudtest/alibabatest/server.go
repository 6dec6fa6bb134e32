package alibabatest

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/cloud/cloudtest/formtest"
)

// refusal is an error of a service.
type refusal struct {
	status  int
	code    string
	message string
	detail  map[string]any
}

// Error implements error.
func (r *refusal) Error() string { return r.code + ": " + r.message }

func refuse(status int, code, format string, values ...any) *refusal {
	return &refusal{status: status, code: code, message: fmt.Sprintf(format, values...)}
}

// request is a request that is signed.
type request struct {
	action string
	form   url.Values
	key    string // access key
}

// ServeHTTP implements http.Handler.
func (c *Cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	in := request{action: r.Header.Get("X-Acs-Action"), form: r.URL.Query()}
	c.mu.Lock()
	c.mu.calls[in.action]++
	c.mu.Unlock()
	answer, err := c.answer(r, in)
	status := http.StatusOK
	if err != nil {
		refused := refusalOf(err)
		if refused == nil {
			panic(http.ErrAbortHandler) // the answer is lost
		}
		status = refused.status
		answer = map[string]any{"Code": refused.code, "Message": refused.message, "RequestId": requestID}
		if refused.detail != nil {
			answer["AccessDeniedDetail"] = refused.detail
		}
		if status == http.StatusTooManyRequests || strings.HasPrefix(refused.code, "Throttling") {
			w.Header().Set("x-ratelimit-user-api", "Limit:100,Remain:0,TimeLeft:7000")
		}
	}
	w.Header().Set("Content-Type", "application/json;charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer)
}

const requestID = "473469C7-AA6F-4DC5-B3DB-A3DC0DE3C83E"

// refusalOf returns the refusal of an error, or nil for a lost answer.
func refusalOf(err error) *refusal {
	if refused, ok := errors.AsType[*refusal](err); ok {
		return refused
	}
	e, ok := errors.AsType[*cloud.Error](err)
	if !ok || e.Kind == cloud.Unknown {
		return nil
	}
	code, ok := codes[e.Kind]
	if !ok {
		code = "InvalidParameter"
	}
	return refuse(statuses[e.Kind], code, "%v", e.Err)
}

// The codes and statuses of the fake's kinds of errors. The handlers of actions know some better.
var (
	codes = map[cloud.Kind]string{
		cloud.Throttled: "Throttling.User", cloud.NoCapacity: "InvalidVSwitchId.IpNotEnough", cloud.Fragmented: "InvalidVSwitchId.IpNotEnough",
		cloud.Conflict: "InvalidIp.IpAssigned", cloud.Invalid: "InvalidVSwitchId.IpInvalid", cloud.Gone: "InvalidEniId.NotFound",
	}
	statuses = map[cloud.Kind]int{
		cloud.Throttled: 400, cloud.NoCapacity: 403, cloud.Fragmented: 403, cloud.Conflict: 403, cloud.Invalid: 403, cloud.Gone: 404,
	}
)

// answer checks a request, and carries it out.
func (c *Cloud) answer(r *http.Request, in request) (map[string]any, error) {
	a, known := actions[in.action]
	switch {
	case !known:
		return nil, refuse(404, "InvalidAction.NotFound", "Specified api is not found: %q", in.action)
	case r.Header.Get("X-Acs-Version") != versions[a.service]:
		return nil, refuse(400, "InvalidVersion", "Specified parameter Version is not valid.")
	case in.form.Get("RegionId") != c.region:
		return nil, refuse(404, "InvalidRegionId.NotFound", "The specified RegionId does not exist.")
	}
	var refused *refusal
	if in.key, refused = c.verify(r); refused != nil {
		return nil, refused
	}
	if refused := c.authorize(in); refused != nil {
		return nil, refused
	}
	if a.changes {
		c.change.Lock()
		defer c.change.Unlock()
	}
	return a.run(c, r.Context(), in.form)
}

// versions are the versions of the services.
var versions = map[string]string{"ecs": "2014-05-26", "vpc": "2016-04-28"}

// authorization is the header of a signature of version 3.
var authorization = regexp.MustCompile(`^ACS3-HMAC-SHA256 Credential=([^,]+),SignedHeaders=([^,]+),Signature=([0-9a-f]{64})$`)

// verify checks the signature of a request, and returns its access key.
func (c *Cloud) verify(r *http.Request) (string, *refusal) {
	m := authorization.FindStringSubmatch(r.Header.Get("Authorization"))
	if m == nil {
		return "", refuse(400, "IncompleteSignature", "The request signature does not conform to Aliyun standards.")
	}
	id, signed, signature := m[1], strings.Split(m[2], ";"), m[3]
	c.mu.Lock()
	key, ok := c.mu.keys[id]
	c.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	switch {
	case !ok:
		return "", refuse(404, "InvalidAccessKeyId.NotFound", "Specified access key is not found.")
	case err != nil || r.Header.Get("X-Acs-Content-Sha256") != digest(string(body)):
		return "", refuse(400, "SignatureDoesNotMatch", "The hash of the body is another one.")
	case r.Header.Get("X-Acs-Security-Token") != key.Token:
		return "", refuse(404, "InvalidSecurityToken.MismatchWithAccessKey", "The security token belongs to another access key.")
	}
	for name := range r.Header {
		if name = strings.ToLower(name); strings.HasPrefix(name, "x-acs-") && !slices.Contains(signed, name) {
			return "", refuse(400, "IncompleteSignature", "The header %s is not signed.", name)
		}
	}
	if !hmac.Equal([]byte(signature), []byte(key.sign(r, signed, digest(string(body))))) {
		return "", refuse(400, "SignatureDoesNotMatch", "Specified signature does not match our calculation.")
	}
	return id, nil
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// sign returns the signature of a request.
func (k Key) sign(r *http.Request, signed []string, payload string) string {
	var canonical strings.Builder
	fmt.Fprintf(&canonical, "%s\n%s\n%s\n", r.Method, r.URL.EscapedPath(), strings.ReplaceAll(r.URL.Query().Encode(), "+", "%20"))
	for _, name := range signed {
		value := r.Header.Get(name)
		if name == "host" {
			value = r.Host
		}
		fmt.Fprintf(&canonical, "%s:%s\n", name, strings.TrimSpace(value))
	}
	fmt.Fprintf(&canonical, "\n%s\n%s", strings.Join(signed, ";"), payload)
	mac := hmac.New(sha256.New, []byte(k.Secret))
	_, _ = io.WriteString(mac, "ACS3-HMAC-SHA256\n"+digest(canonical.String()))
	return hex.EncodeToString(mac.Sum(nil))
}

// action is an action of a service.
type action struct {
	service string
	changes bool
	run     func(*Cloud, context.Context, url.Values) (map[string]any, error)
}

// reading returns an action that describes.
func reading[T any](service string, run func(*Cloud, context.Context, *T) (map[string]any, error)) action {
	return action{service: service, run: func(c *Cloud, ctx context.Context, form url.Values) (map[string]any, error) {
		in := new(T)
		if err := formtest.Decode(form, []string{"RegionId"}, in); err != nil {
			return nil, refuse(400, err.Code, "%s", err.Message)
		}
		answer, err := run(c, ctx, in)
		if err != nil {
			return nil, err
		}
		if answer == nil {
			answer = map[string]any{}
		}
		answer["RequestId"] = requestID
		return answer, nil
	}}
}

// changing returns an action that changes the cloud.
func changing[T any](run func(*Cloud, context.Context, *T) (map[string]any, error)) action {
	a := reading("ecs", run)
	a.changes = true
	return a
}

// actions are the actions of the fake, by name.
var actions = map[string]action{
	"AssignIpv6Addresses":         changing((*Cloud).assignIPv6),
	"AssignPrivateIpAddresses":    changing((*Cloud).assignIPv4),
	"AttachNetworkInterface":      changing((*Cloud).attach),
	"CreateNetworkInterface":      changing((*Cloud).create),
	"DeleteNetworkInterface":      changing((*Cloud).delete),
	"DescribeInstanceTypes":       reading("ecs", (*Cloud).describeTypes),
	"DescribeInstances":           reading("ecs", (*Cloud).describeInstances),
	"DescribeNetworkInterfaces":   reading("ecs", (*Cloud).describeInterfaces),
	"DescribeVSwitches":           reading("vpc", (*Cloud).describeSubnets),
	"DetachNetworkInterface":      changing((*Cloud).detach),
	"ListVSwitchCidrReservations": reading("vpc", (*Cloud).listReservations),
	"TagResources":                changing((*Cloud).tag),
	"UnassignIpv6Addresses":       changing((*Cloud).unassignIPv6),
	"UnassignPrivateIpAddresses":  changing((*Cloud).unassignIPv4),
}
