package cloudnews

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

// URL is the address of the metadata service of Amazon EC2
// (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html).
const URL = "http://169.254.169.254"

const (
	// answerTimeout limits one request.
	answerTimeout = 2 * time.Second
	// tokenTTL is the life of a session token, in seconds: the longest one.
	tokenTTL = "21600"
	// maxAnswer is the number of bytes of an answer that count.
	maxAnswer = 64 << 10
	macs      = "/latest/meta-data/network/interfaces/macs/"
)

// lists are the names of the lists of addresses and prefixes of an interface
// (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-categories.html).
var lists = []string{"local-ipv4s", "ipv4-prefix", "ipv6s", "ipv6-prefix"}

// errNotFound is the answer for a list without entries.
var errNotFound = errors.New("not found")

// service is a client of the metadata service, version 2.
type service struct {
	url   string
	http  *http.Client
	token string
}

func newService(url string) *service {
	return &service{url: url, http: &http.Client{
		Timeout: answerTimeout,
		// The service is on the link: a proxy would ask that of another machine.
		Transport:     &http.Transport{MaxIdleConns: 1, IdleConnTimeout: time.Minute},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// assigned returns the addresses and prefixes of the instance's interfaces, by MAC address.
func (s *service) assigned(ctx context.Context) (map[string][]string, error) {
	found, err := s.list(ctx, macs)
	if err != nil {
		return nil, err
	}
	all := map[string][]string{}
	for _, mac := range found {
		mac = strings.TrimSuffix(mac, "/")
		all[mac] = nil
		for _, name := range lists {
			entries, err := s.list(ctx, macs+mac+"/"+name)
			if err != nil && !errors.Is(err, errNotFound) {
				return nil, err
			}
			all[mac] = append(all[mac], entries...)
		}
		slices.Sort(all[mac])
	}
	return all, nil
}

// list returns the lines of an answer. An expired token is renewed once.
func (s *service) list(ctx context.Context, path string) ([]string, error) {
	for range 2 {
		if s.token == "" {
			token, _, err := s.ask(ctx, http.MethodPut, "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds", tokenTTL)
			if err != nil {
				return nil, fmt.Errorf("get a token: %w", err)
			}
			s.token = token
		}
		text, status, err := s.ask(ctx, http.MethodGet, path, "X-aws-ec2-metadata-token", s.token)
		if status != http.StatusUnauthorized {
			return strings.Fields(text), err
		}
		s.token = ""
	}
	return nil, errors.New("the service refuses its own token")
}

// ask sends one request with one header.
func (s *service) ask(ctx context.Context, method, path, header, value string) (text string, status int, err error) {
	request, err := http.NewRequestWithContext(ctx, method, s.url+path, nil)
	if err != nil {
		return "", 0, err
	}
	request.Header.Set(header, value)
	response, err := s.http.Do(request)
	if err != nil {
		return "", 0, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	switch {
	case err != nil:
		return "", 0, err
	case response.StatusCode == http.StatusNotFound:
		return "", response.StatusCode, errNotFound
	case response.StatusCode != http.StatusOK:
		return "", response.StatusCode, fmt.Errorf("%s %s: %s", method, path, response.Status)
	}
	return string(body), response.StatusCode, nil
}
