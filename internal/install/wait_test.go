package install

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestReasonToWait(t *testing.T) {
	pools := schema.GroupResource{Group: "spiderpool.spidernet.io", Resource: "spiderippools"}
	kind := schema.GroupKind{Group: pools.Group, Kind: "SpiderIPPool"}
	unserved := apierrors.NewGenericServerResponse(404, "post", pools, "", "the server could not find the requested resource", 0, true)
	unserved.ErrStatus.Details = nil
	const denied = "admission webhook \"spiderippool.validate.spiderpool.spidernet.io\" denied the request: no"
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"a webhook that does not answer": {
			apierrors.NewInternalError(errors.New(`failed calling webhook "spiderippool.mutate.spiderpool.spidernet.io": dial tcp: connection refused`)),
			"the webhook spiderippool.mutate.spiderpool.spidernet.io does not answer yet",
		},
		"a kind that the client does not know":     {&meta.NoKindMatchError{GroupKind: kind}, "its kind is not served yet"},
		"a kind that the API server does not know": {unserved, "its kind is not served yet"},
		"a permission that is missing": {
			apierrors.NewForbidden(pools, "p", errors.New(`User "init" cannot create resource`)), "it is not permitted yet",
		},
		"too many requests":          {apierrors.NewTooManyRequests("later", 1), "the API server cannot do it now"},
		"a server that is busy":      {apierrors.NewServerTimeout(pools, "create", 1), "the API server cannot do it now"},
		"a request that took long":   {apierrors.NewTimeoutError("slow", 1), "the API server cannot do it now"},
		"a server that is starting":  {apierrors.NewServiceUnavailable("starting"), "the API server cannot do it now"},
		"a server with a fault":      {apierrors.NewInternalError(errors.New("etcd")), "the API server cannot do it now"},
		"an API server that is away": {&net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}, "the API server does not answer"},
		"an answer that is cut off":  {fmt.Errorf("Post: %w", errors.New("unexpected EOF")), "the API server does not answer"},

		"a webhook that refuses": {
			&apierrors.StatusError{ErrStatus: metav1.Status{Status: "Failure", Code: 403, Reason: metav1.StatusReasonForbidden, Message: denied}}, "",
		},
		"an invalid object":               {apierrors.NewInvalid(kind, "p", nil), ""},
		"an object that is not there":     {apierrors.NewNotFound(pools, "p"), ""},
		"an object that is there already": {apierrors.NewAlreadyExists(pools, "p"), ""},
		"a caller that is unknown":        {apierrors.NewUnauthorized("who are you"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			for _, err := range []error{c.err, fmt.Errorf("create: %w", c.err)} {
				if got := waitReason(err); got != c.want {
					t.Errorf("%v: waits because %q, want %q", err, got, c.want)
				}
			}
		})
	}
}
