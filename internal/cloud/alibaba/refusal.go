package alibaba

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"spiderpool.dev/spiderpool/internal/cloud"
)

// kinds are the codes that a caller can do something about, in lower case: the documentation spells some in two ways
// (https://api.alibabacloud.com/document/Ecs/2014-05-26/errorCode).
var kinds = map[string]cloud.Kind{
	"toomanyrequests": cloud.Throttled,

	"invalidvswitchid.ipnotenough": cloud.NoCapacity,

	"invalidoperation.ipv4countexceeded": cloud.Quota,
	"invalidoperation.ipv6countexceeded": cloud.Quota,
	"invalidoperation.enicountexceeded":  cloud.Quota,
	"maxeniipv6ipscountexceeded":         cloud.Quota,
	"quotaexceeded.privateipaddress":     cloud.Quota,
	"eniperinstancelimitexceeded":        cloud.Quota,
	"securitygroupinstancelimitexceed":   cloud.Quota,

	"invalideniid.notfound":           cloud.Gone,
	"invalidecsid.notfound":           cloud.Gone,
	"invalidinstanceid.notfound":      cloud.Gone,
	"invalidvswitchid.notfound":       cloud.Gone,
	"invalidsecuritygroupid.notfound": cloud.Gone,
	"invalidresourceid.notfound":      cloud.Gone,

	"forbidden":         cloud.Permission,
	"forbidden.ram":     cloud.Permission,
	"forbidden.subuser": cloud.Permission,
	"forbbiden.subuser": cloud.Permission, // sic
	"nopermission":      cloud.Permission,
	"accessdenied":      cloud.Permission,

	"invalidaccesskeyid.notfound":                cloud.Credentials,
	"invalidaccesskeyid.inactive":                cloud.Credentials,
	"invalidaccesskeyid":                         cloud.Credentials,
	"forbidden.accesskeydisabled":                cloud.Credentials,
	"invalidsecuritytoken.expired":               cloud.Credentials,
	"invalidsecuritytoken.malformed":             cloud.Credentials,
	"invalidsecuritytoken.mismatchwithaccesskey": cloud.Credentials,
	"missingsecuritytoken":                       cloud.Credentials,
	"signaturedoesnotmatch":                      cloud.Credentials,
	"incompletesignature":                        cloud.Credentials,
	"invalidtimestamp.expired":                   cloud.Credentials,

	"invalidip.ipassigned":               cloud.Conflict,
	"invalidprivateipaddress.duplicated": cloud.Conflict,
	"invalidoperation.invalidenistate":   cloud.Conflict,
	"invalidoperation.invalidecsstate":   cloud.Conflict,
	"invalidoperation.conflict":          cloud.Conflict,
	"incorrectinstancestatus":            cloud.Conflict,
	"operation.conflict":                 cloud.Conflict,
	"operationconflict":                  cloud.Conflict,
	"lasttokenprocessing":                cloud.Conflict,
	"idempotentprocessing":               cloud.Conflict,
}

// notAssigned is the code of the refusal to take an address from an interface that does not have it.
const notAssigned = "InvalidIp.IpUnassigned"

// apiError is an error that a service answered.
type apiError interface {
	error
	GetStatusCode() *int
	GetCode() *string
	GetAccessDeniedDetail() map[string]any
}

// refusal returns the cloud.Error of a failed request. The action is a name such as ecs:DescribeInstances.
func refusal(action string, err error) *cloud.Error {
	e := &cloud.Error{Kind: cloud.Unknown, Action: action, Err: err}
	if _, ok := errors.AsType[credentialsError](err); ok {
		e.Kind = cloud.Credentials // nothing was sent: no change can have happened
		return e
	}
	answered, ok := errors.AsType[apiError](err)
	if !ok || answered.GetStatusCode() == nil {
		return e
	}
	e.Kind = kindOf(codeOf(err), *answered.GetStatusCode())
	if refused, ok := answered.GetAccessDeniedDetail()["AuthAction"].(string); ok && e.Kind == cloud.Permission {
		e.Action = refused // may be another one than the called
	}
	if throttled, ok := errors.AsType[interface {
		error
		GetRetryAfter() *int64
	}](err); ok && throttled.GetRetryAfter() != nil {
		e.After = time.Duration(max(0, *throttled.GetRetryAfter())) * time.Millisecond
	}
	return e
}

// codeOf returns the code of an error, or "".
func codeOf(err error) string {
	if answered, ok := errors.AsType[apiError](err); ok && answered.GetCode() != nil {
		return *answered.GetCode()
	}
	return ""
}

func kindOf(code string, status int) cloud.Kind {
	code = strings.ToLower(code)
	if kind, ok := kinds[code]; ok {
		return kind
	}
	switch {
	case code == "throttling" || strings.HasPrefix(code, "throttling."):
		return cloud.Throttled
	case strings.HasPrefix(code, "quotaexceed"):
		return cloud.Quota
	case code != "" && status < http.StatusInternalServerError:
		return cloud.Invalid // a request that is not carried out has a status below 500
	}
	return cloud.Unknown
}
