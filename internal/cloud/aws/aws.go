// Package aws is the provider for Amazon EC2.
//
// It asks for credentials as every AWS program does (https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html):
// environment, IAM roles for service accounts, EKS Pod Identity, instance role. The
// environment variable AWS_ENDPOINT_URL replaces the address of the service.
//
// Every request waits for a token first, so that the account's own buckets stay half full
// for others. Nothing is retried; the caller backs off.
package aws

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"

	awssdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/cloud/apibucket"
)

const (
	// answerTimeout is how long EC2 may take. Later answers count as lost.
	answerTimeout = 30 * time.Second
	// maxPage is the number of items that EC2 returns at most in one answer.
	maxPage = 1000
	// maxIDs is the number of IDs in one request. EC2 takes 200 values in all filters together
	// (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Filtering.html), and some of
	// them are states and tags.
	maxIDs = 180
)

// Half of the rates that AWS documents for one account, region and action, because other
// programs share them: describing calls have buckets of 100 tokens and get 20 a second,
// changes have at least 50 and get 5
// (https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html).
var (
	describing = apibucket.Size{Rate: 10, Burst: 50}
	changing   = apibucket.Size{Rate: 2.5, Burst: 25}
)

// Provider is EC2 in one region.
type Provider struct {
	region string
	// client must never become an interface. The linker then drops the 700 operations that
	// we do not call, 20 MB of them.
	client  *ec2.Client
	buckets *apibucket.Buckets
	page    int32
}

var _ cloud.Provider = (*Provider)(nil)

// New returns the provider for a region, e.g. eu-central-1. An empty region is read from
// AWS_REGION, the shared configuration or the instance metadata.
func New(ctx context.Context, region string) (*Provider, error) {
	cfg, err := config.LoadDefaultConfig(ctx, config.WithRegion(region), config.WithEC2IMDSRegion())
	if err != nil {
		return nil, fmt.Errorf("configure the AWS client; without a region, AWS_REGION or the instance metadata must have one: %w", err)
	}
	if cfg.Region == "" {
		return nil, errors.New("no AWS region: set AWS_REGION, e.g. eu-central-1, or allow the pod to read the instance metadata")
	}
	cfg.Credentials = credentials{cfg.Credentials}
	client := ec2.NewFromConfig(cfg, func(o *ec2.Options) {
		o.Retryer = awssdk.NopRetryer{}
		o.HTTPClient = plainBodies{o.HTTPClient}
	})
	return &Provider{region: cfg.Region, client: client, buckets: apibucket.New(describing, changing), page: maxPage}, nil
}

// zoneRegion is the region at the start of a zone's name: us-west-2 of us-west-2a and of
// the local zone us-west-2-lax-1a.
var zoneRegion = regexp.MustCompile(`^[a-z]+(?:-[a-z]+)+?-\d+`)

// instanceID is the form of an ID. It has no wildcard, so that a filter selects one instance.
var instanceID = regexp.MustCompile(`^i-[0-9a-f]+$`)

// InstanceID implements cloud.Provider for aws:///eu-central-1a/i-0123456789abcdef0. A node of
// another region is unknown.
func (p *Provider) InstanceID(providerID string) (string, bool) {
	path, ok := strings.CutPrefix(providerID, "aws:///")
	zone, id, found := strings.Cut(path, "/")
	return id, ok && found && instanceID.MatchString(id) && zoneRegion.FindString(zone) == p.region
}

// request sends one request for an action, e.g. AssignPrivateIpAddresses, when its bucket has
// a token.
func request[In, Out any](ctx context.Context, p *Provider, action string, in *In, send func(context.Context, *In, ...func(*ec2.Options)) (*Out, error)) (*Out, error) {
	if err := p.buckets.Wait(ctx, action); err != nil {
		return nil, &cloud.Error{Kind: cloud.Throttled, Action: service + action, Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	out, err := send(ctx, in)
	if err != nil {
		return nil, refusal(action, err)
	}
	return out, nil
}

// plainBodies hides the method WriteTo of request bodies. The SDK closes a body when the
// header of the answer has arrived, and WriteTo of a closed body returns io.EOF. net/http may
// call it so late; it then takes the request for broken, and closes the connection while the
// SDK still reads a long answer.
type plainBodies struct{ ec2.HTTPClient }

// Do implements ec2.HTTPClient.
func (c plainBodies) Do(r *http.Request) (*http.Response, error) {
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = struct{ io.ReadCloser }{r.Body}
	}
	return c.HTTPClient.Do(r)
}

// invalid is the refusal of a request that EC2 never sees.
func invalid(action, format string, args ...any) error {
	return &cloud.Error{Kind: cloud.Invalid, Action: service + action, Err: fmt.Errorf(format, args...)}
}
