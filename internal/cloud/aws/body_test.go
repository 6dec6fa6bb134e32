package aws

import (
	"io"
	"net/http"
	"strings"
	"testing"

	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// lateClient reads a request as net/http does, but looks for the end of the body only after the caller has closed it.
type lateClient struct{ sent io.Reader }

func (c *lateClient) Do(r *http.Request) (*http.Response, error) {
	c.sent = r.Body
	if _, err := io.CopyN(io.Discard, r.Body, r.ContentLength); err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: http.NoBody}, nil
}

func TestClosedBodyEndsWithoutError(t *testing.T) {
	request, err := smithyhttp.NewStackRequest().(*smithyhttp.Request).SetStream(strings.NewReader("Action=DescribeInstances"))
	if err != nil {
		t.Fatal(err)
	}
	request.ContentLength = 24
	request.URL.Host = "ec2.eu-central-1.amazonaws.com"
	late := &lateClient{}
	if _, _, err := smithyhttp.NewClientHandlerWithOptions(plainBodies{late}).Handle(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, late.sent); n != 0 || err != nil {
		t.Errorf("%d bytes after the end of the body, error %v", n, err)
	}
}
