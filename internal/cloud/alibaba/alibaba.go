// Package alibaba is the provider for Alibaba Cloud: ECS and its VPCs.
//
// It asks for credentials in this order, and never falls back from one source to another: an
// access key (ALIBABA_CLOUD_ACCESS_KEY_ID, ALIBABA_CLOUD_ACCESS_KEY_SECRET), a RAM role for the service
// account (RRSA: ALIBABA_CLOUD_OIDC_TOKEN_FILE and others, from ack-pod-identity-webhook), the RAM
// role of the controller's instance.
//
// Alibaba Cloud has no device indexes (the field DeviceIndex of its answers is not in use). The tag
// DeviceTag of an interface has its position, e.g. "1" for eth1; Attach sets it. A secondary interface
// without the tag is at cloud.UnknownDevice.
//
// Every request waits for a token first, so that the account's own limits stay half free
// for others. Nothing is retried; the caller backs off.
package alibaba

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"

	"spiderpool.dev/spiderpool/internal/cloud"
	"spiderpool.dev/spiderpool/internal/cloud/apibucket"
)

// DeviceTag is the tag with the position of a secondary interface at its instance.
const DeviceTag = "spiderpool.spidernet.io/device"

const (
	// maxPage is the number of items that the describing actions return at most in one answer.
	maxPage = 100
	// maxIDs is the number of IDs in one request.
	maxIDs = 100
	// maxSubnetPage is the limit of DescribeVSwitches, maxTypes the one of DescribeInstanceTypes.
	maxSubnetPage = 50
	maxTypes      = 10
	// maxTagged is the number of interfaces that a query by tags returns at most.
	maxTagged = 1000
)

// Half of the smallest rates that Alibaba Cloud's own CNI assumes for one account and action: 300 calls a
// minute (https://github.com/AliyunContainerService/terway/blob/main/pkg/aliyun/client/ratelimit.go).
var (
	describing = apibucket.Size{Rate: 2.5, Burst: 50}
	changing   = apibucket.Size{Rate: 2.5, Burst: 25}
)

// Provider is Alibaba Cloud in one region.
type Provider struct {
	region   string
	ecs, vpc *api
	page     int
}

var _ cloud.Provider = (*Provider)(nil)

// regionName is the form of a region. The region becomes a part of the address of the service.
var regionName = regexp.MustCompile(`^[a-z0-9-]+$`)

// New returns the provider for a region, e.g. cn-hangzhou. An empty region is read from
// ALIBABA_CLOUD_REGION_ID. The addresses of the services are those within the region's VPCs, unless
// ALIBABA_CLOUD_ECS_ENDPOINT and ALIBABA_CLOUD_VPC_ENDPOINT replace them, e.g. ecs.cn-hangzhou.aliyuncs.com.
func New(region string) (*Provider, error) {
	region = cmp.Or(region, os.Getenv("ALIBABA_CLOUD_REGION_ID"))
	if !regionName.MatchString(region) {
		return nil, fmt.Errorf("%q is no region of Alibaba Cloud: set spec.region or ALIBABA_CLOUD_REGION_ID, e.g. cn-hangzhou", region)
	}
	found, err := findCredentials(os.Getenv)
	if err != nil {
		return nil, err
	}
	buckets := apibucket.New(describing, changing)
	open := func(service, version, endpoint string) (*api, error) {
		return newAPI(api{service: service, version: version, region: region, buckets: buckets}, cmp.Or(endpoint, service+"-vpc."+region+".aliyuncs.com"), found)
	}
	ecs, err := open("ecs", "2014-05-26", os.Getenv("ALIBABA_CLOUD_ECS_ENDPOINT"))
	vpc, err2 := open("vpc", "2016-04-28", os.Getenv("ALIBABA_CLOUD_VPC_ENDPOINT"))
	if err := errors.Join(err, err2); err != nil {
		return nil, err
	}
	return &Provider{region, ecs, vpc, maxPage}, nil
}

// instanceID is the form of an ID.
var instanceID = regexp.MustCompile(`^i-[0-9a-z]+$`)

// InstanceID implements cloud.Provider for cn-hangzhou.i-bp1e2l6djkndyuli, with or without the prefix
// alicloud:// (https://github.com/kubernetes/cloud-provider-alibaba-cloud). A node of another region
// is unknown.
func (p *Provider) InstanceID(providerID string) (string, bool) {
	region, id, found := strings.Cut(strings.TrimPrefix(providerID, "alicloud://"), ".")
	return id, found && region == p.region && instanceID.MatchString(id)
}
