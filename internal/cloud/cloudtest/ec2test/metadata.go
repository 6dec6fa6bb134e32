package ec2test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The headers of version 2 (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-metadata-v2-how-it-works.html).
const (
	tokenHeader = "X-aws-ec2-metadata-token"
	ttlHeader   = "X-aws-ec2-metadata-token-ttl-seconds"
	// maxTokenTTL is six hours, in seconds.
	maxTokenTTL = 21600
)

// MetadataHandler returns the metadata service of an instance, on EC2 the one at 169.254.169.254.
func (c *Cloud) MetadataHandler(instance string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { c.serveMetadata(w, r, instance) })
}

// serveMetadata answers a request to a metadata service. It refuses requests without a token: version 1 is off.
func (c *Cloud) serveMetadata(w http.ResponseWriter, r *http.Request, instance string) {
	path := strings.TrimPrefix(r.URL.Path, "/latest/")
	c.set(func() { c.mu.calls["IMDS"]++ })
	if r.Method == http.MethodPut && path == "api/token" {
		c.giveToken(w, r, instance)
		return
	}
	if !c.tokenIsValid(r.Header.Get(tokenHeader), instance) {
		http.Error(w, "401 - Unauthorized", http.StatusUnauthorized)
		return
	}
	content, ok := c.metadata(instance, path)
	if !ok {
		http.Error(w, "404 - Not Found", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	_, _ = w.Write([]byte(content))
}

// giveToken answers with a session token: the instance and the time of expiry.
func (c *Cloud) giveToken(w http.ResponseWriter, r *http.Request, instance string) {
	ttl, err := strconv.Atoi(r.Header.Get(ttlHeader))
	if err != nil || ttl < 1 || ttl > maxTokenTTL {
		http.Error(w, "400 - Bad Request", http.StatusBadRequest)
		return
	}
	expiry := c.options.Now().Add(time.Duration(ttl) * time.Second).Unix()
	w.Header().Set(ttlHeader, strconv.Itoa(ttl))
	_, _ = w.Write([]byte(base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%s %d", instance, expiry))))
}

func (c *Cloud) tokenIsValid(token, instance string) bool {
	text, err := base64.StdEncoding.DecodeString(token)
	owner, expiry, _ := strings.Cut(string(text), " ")
	seconds, parseErr := strconv.ParseInt(expiry, 10, 64)
	return err == nil && parseErr == nil && owner == instance && c.options.Now().Unix() < seconds
}

// metadata returns the value at a path, or the names below it, one a line.
func (c *Cloud) metadata(instance, path string) (content string, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.options.Now()
	x := c.session(c.seen(now), now)
	i, err := find(x.instances, instance)
	if err != nil {
		return "", false
	}
	values := x.metadataOf(i)
	if value, ok := values[path]; ok {
		return value, true
	}
	directory := strings.TrimSuffix(path, "/") + "/"
	names := map[string]bool{}
	for key := range values {
		if rest, ok := strings.CutPrefix(key, directory); ok {
			name, _, isDirectory := strings.Cut(rest, "/")
			if isDirectory {
				name += "/"
			}
			names[name] = true
		}
	}
	return strings.Join(slices.Sorted(maps.Keys(names)), "\n"), len(names) > 0
}

// metadataOf returns the values of an instance by path
// (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-categories.html).
func (x *session) metadataOf(i *Instance) map[string]string {
	n := x.subnets[i.Subnet]
	values := map[string]string{
		"meta-data/ami-id":                      "ami-00000000000000000",
		"meta-data/hostname":                    x.hostname(i.Address),
		"meta-data/instance-id":                 i.ID,
		"meta-data/instance-life-cycle":         "on-demand",
		"meta-data/instance-type":               i.Type,
		"meta-data/local-hostname":              x.hostname(i.Address),
		"meta-data/local-ipv4":                  i.Address.String(),
		"meta-data/placement/availability-zone": n.Zone,
		"meta-data/placement/region":            x.options.Region,
		"meta-data/services/domain":             "amazonaws.com",
		"meta-data/services/partition":          "aws",
		"dynamic/instance-identity/document": asJSON(map[string]any{
			"accountId": x.options.Account, "architecture": "x86_64", "availabilityZone": n.Zone, "imageId": "ami-00000000000000000",
			"instanceId": i.ID, "instanceType": i.Type, "pendingTime": stamp(i.launched), "privateIp": i.Address.String(),
			"region": x.options.Region, "version": "2017-09-30",
		}),
	}
	if i.Role != "" {
		values["meta-data/iam/info"] = asJSON(map[string]any{
			"Code": "Success", "LastUpdated": stamp(x.now), "InstanceProfileId": "AIPAFAKE",
			"InstanceProfileArn": fmt.Sprintf("arn:aws:iam::%s:instance-profile/%s", x.options.Account, i.Role),
		})
		values["meta-data/iam/security-credentials/"+i.Role] = asJSON(map[string]any{
			"Code": "Success", "LastUpdated": stamp(x.now), "Type": "AWS-HMAC", "AccessKeyId": accessKey(i.Role),
			"SecretAccessKey": "fake", "Token": "fake", "Expiration": stamp(x.now.Add(6 * time.Hour)),
		})
	}
	for _, iface := range x.of(i.ID) {
		if iface.Attachment.status(x.now) == "attaching" {
			continue
		}
		if iface.Attachment.Device == 0 {
			values["meta-data/mac"] = iface.MAC
		}
		for name, value := range x.metadataOfInterface(iface) {
			if value != "" {
				values["meta-data/network/interfaces/macs/"+iface.MAC+"/"+name] = value
			}
		}
	}
	return values
}

// metadataOfInterface returns the values of an interface; those without a value are absent on EC2.
func (x *session) metadataOfInterface(i *Interface) map[string]string {
	n := x.subnets[i.Subnet]
	v := x.vpcs[n.VPC]
	names := []string{}
	for _, id := range i.Groups {
		if g := x.groups[id]; g != nil {
			names = append(names, g.Name)
		}
	}
	return map[string]string{
		"device-number":           number(i.Attachment.Device),
		"interface-id":            i.ID,
		"ipv4-prefix":             lines(prefixTexts(i.prefixes(true))),
		"ipv6-prefix":             lines(prefixTexts(i.prefixes(false))),
		"ipv6s":                   lines(texts(i.IPv6)),
		"local-hostname":          x.hostname(i.IPv4[0]),
		"local-ipv4s":             lines(texts(i.IPv4)),
		"mac":                     i.MAC,
		"network-card":            number(i.Attachment.Card),
		"owner-id":                x.options.Account,
		"security-group-ids":      lines(i.Groups),
		"security-groups":         lines(names),
		"subnet-id":               n.ID,
		"subnet-ipv4-cidr-block":  n.IPv4.String(),
		"subnet-ipv6-cidr-blocks": optional(n.IPv6),
		"vpc-id":                  n.VPC,
		"vpc-ipv4-cidr-block":     v.IPv4.String(),
		"vpc-ipv4-cidr-blocks":    v.IPv4.String(),
		"vpc-ipv6-cidr-blocks":    optional(v.IPv6),
	}
}

func lines(values []string) string { return strings.Join(values, "\n") }

func prefixTexts(prefixes []netip.Prefix) []string {
	var all []string
	for _, p := range prefixes {
		all = append(all, p.String())
	}
	return all
}

func optional(p netip.Prefix) string {
	if !p.IsValid() {
		return ""
	}
	return p.String()
}

func asJSON(values map[string]any) string {
	content, err := json.MarshalIndent(values, "", "  ")
	if err != nil {
		panic(err) // strings only
	}
	return string(content)
}
