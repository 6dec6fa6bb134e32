package alibaba

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	openapi "github.com/alibabacloud-go/darabonba-openapi/v2/client"
	"github.com/alibabacloud-go/tea/dara"
	credential "github.com/aliyun/credentials-go/credentials"

	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/cloud/apibucket"
)

// answerTimeout is how long a service may take. Later answers count as lost.
const answerTimeout = 30 * time.Second

// api sends requests to one service.
type api struct {
	service string // its name in RAM policies: ecs or vpc
	version string
	region  string
	buckets *apibucket.Buckets

	protocol string
	client   *openapi.Client
}

// newAPI adds a client to a. The endpoint is a host, or a URL.
func newAPI(a api, endpoint string, credentials credential.Credential) (*api, error) {
	protocol, host, ok := strings.Cut(endpoint, "://")
	if !ok {
		protocol, host = "https", endpoint
	}
	if protocol != "https" && protocol != "http" || host == "" || strings.ContainsAny(host, "/?# ") {
		return nil, fmt.Errorf("%q is no address of %s: write a host, e.g. %s.%s.aliyuncs.com", endpoint, a.service, a.service, a.region)
	}
	a.protocol = protocol
	a.client = &openapi.Client{
		Endpoint: &host, Credential: credentials, HttpClient: plainClient{&http.Client{CheckRedirect: refuseRedirect}},
		DisableSDKError: dara.Bool(true), // keep the types of errors
	}
	return &a, nil
}

// plainClient sends requests with the proxies, connections and contexts of net/http. The SDK's own client is one
// for the process, with timeouts in common.
type plainClient struct{ *http.Client }

// Call implements dara.HttpClient.
func (c plainClient) Call(r *http.Request, _ *http.Transport) (*http.Response, error) { return c.Do(r) }

// refuseRedirect keeps a change from being sent twice, or to another service.
func refuseRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// query has the parameters of a request.
type query map[string]string

// list sets NAME.1, NAME.2 and so on.
func (q query) list(name string, values []string) query {
	for i, value := range values {
		q[name+"."+strconv.Itoa(i+1)] = value
	}
	return q
}

// number sets a parameter unless n is 0.
func (q query) number(name string, n int) query {
	if n != 0 {
		q[name] = strconv.Itoa(n)
	}
	return q
}

// tags sets Tag.1.Key, Tag.1.Value and so on, in order. An empty value is left out: it matches any.
func (q query) tags(tags map[string]string) query {
	for i, key := range sortedKeys(tags) {
		prefix := "Tag." + strconv.Itoa(i+1)
		q[prefix+".Key"] = key
		if tags[key] != "" {
			q[prefix+".Value"] = tags[key]
		}
	}
	return q
}

// call sends one request for an action, e.g. AssignPrivateIpAddresses, when its bucket has a token,
// and decodes the answer into out.
func (a *api) call(ctx context.Context, action string, in query, out any) error {
	if err := a.buckets.Wait(ctx, action); err != nil {
		return &cloud.Error{Kind: cloud.Throttled, Action: a.name(action), Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	parameters := map[string]*string{"RegionId": &a.region}
	for name, value := range in {
		parameters[name] = &value
	}
	// The style is not "RPC": it would only let each request take the client's Headers, without a lock.
	answer, err := a.client.DoRequestWithCtx(ctx, &openapi.Params{
		Action: &action, Version: &a.version, Protocol: &a.protocol, Pathname: dara.String("/"), Method: dara.String(http.MethodPost),
		AuthType: dara.String("AK"), ReqBodyType: dara.String("formData"), BodyType: dara.String("string"),
	}, &openapi.OpenApiRequest{Query: parameters}, &dara.RuntimeOptions{})
	if err != nil {
		return refusal(a.name(action), errors.Join(err, ctx.Err()))
	}
	body, ok := answer["body"].(string)
	if !ok {
		return cloud.NotUnderstood(a.name(action), fmt.Errorf("it has no body: %v", answer))
	}
	if err := json.Unmarshal([]byte(body), out); err != nil {
		return cloud.NotUnderstood(a.name(action), err)
	}
	return nil
}

// name returns the name of an action in RAM policies, e.g. ecs:DescribeInstances.
func (a *api) name(action string) string { return a.service + ":" + action }

// invalid is the refusal of a request that Alibaba Cloud never sees.
func (a *api) invalid(action, format string, args ...any) error {
	return &cloud.Error{Kind: cloud.Invalid, Action: a.name(action), Err: fmt.Errorf(format, args...)}
}
