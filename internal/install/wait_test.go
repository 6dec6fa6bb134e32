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

func TestWaitReason(t *testing.T) {
	pools := schema.GroupResource{Group: "spiderpool.spidernet.io", Resource: "spiderippools"}
	kind := schema.GroupKind{Group: pools.Group, Kind: "SpiderIPPool"}
	unserved := apierrors.NewGenericServerResponse(404, "post", pools, "", "the server could not find the requested resource", 0, true)
	unserved.ErrStatus.Details = nil
	const denied = "admission webhook \"spiderippool.validate.spiderpool.spidernet.io\" denied the request: no"
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"unavailable webhook": {
			apierrors.NewInternalError(errors.New(`failed calling webhook "spiderippool.mutate.spiderpool.spidernet.io": dial tcp: connection refused`)),
			"webhook spiderippool.mutate.spiderpool.spidernet.io is not available yet",
		},
		"kind unknown to the client":     {&meta.NoKindMatchError{GroupKind: kind}, "the API server does not serve its kind yet"},
		"kind unknown to the API server": {unserved, "the API server does not serve its kind yet"},
		"missing permission": {
			apierrors.NewForbidden(pools, "p", errors.New(`User "init" cannot create resource`)), "RBAC does not permit it yet",
		},
		"too many requests":  {apierrors.NewTooManyRequests("later", 1), "the API server is overloaded or starting"},
		"busy server":        {apierrors.NewServerTimeout(pools, "create", 1), "the API server is overloaded or starting"},
		"slow request":       {apierrors.NewTimeoutError("slow", 1), "the API server is overloaded or starting"},
		"starting server":    {apierrors.NewServiceUnavailable("starting"), "the API server is overloaded or starting"},
		"faulty server":      {apierrors.NewInternalError(errors.New("etcd")), "the API server is overloaded or starting"},
		"unreachable server": {&net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}, "the API server is unreachable"},
		"truncated answer":   {fmt.Errorf("Post: %w", errors.New("unexpected EOF")), "the API server is unreachable"},

		"rejecting webhook": {
			&apierrors.StatusError{ErrStatus: metav1.Status{Status: "Failure", Code: 403, Reason: metav1.StatusReasonForbidden, Message: denied}}, "",
		},
		"invalid object":  {apierrors.NewInvalid(kind, "p", nil), ""},
		"missing object":  {apierrors.NewNotFound(pools, "p"), ""},
		"existing object": {apierrors.NewAlreadyExists(pools, "p"), ""},
		"unknown caller":  {apierrors.NewUnauthorized("who are you"), ""},
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
