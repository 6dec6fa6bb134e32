package agentclient

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"strconv"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// viewPage is the maximum number of our objects in one response. A page costs a round trip, and API servers
	// up to Kubernetes 1.33 read pages from etcd, but a whole list from memory.
	viewPage = 10000
	// decodeBatch is the number of objects that one goroutine decodes at a time.
	decodeBatch = 64
)

// allOwn reads all objects of one of our kinds. limit is that of a page.
func allOwn[T any](ctx context.Context, c *Client, resource string, limit int) ([]*T, error) {
	var all []*T
	next := ""
	for {
		body, err := answer(c.spiderpool.Get().Resource(resource).Param("limit", strconv.Itoa(limit)).Param("continue", next).Do(ctx))
		if err == nil {
			var page []*T
			page, next, err = decodePage[T](body)
			all = append(all, page...)
		}
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", resource, err)
		}
		if next == "" {
			return all, nil
		}
	}
}

// decodePage decodes a list on all processors. The decoder of client-go reads the text four times, on one processor.
func decodePage[T any](page []byte) ([]*T, string, error) {
	var list struct {
		Metadata metav1.ListMeta   `json:"metadata"`
		Items    []json.RawMessage `json:"items"`
	}
	if err := json.Unmarshal(page, &list); err != nil {
		return nil, "", err
	}
	all := make([]*T, len(list.Items))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for start := 0; start < len(all); start += decodeBatch {
		group.Go(func() error {
			for i := start; i < min(start+decodeBatch, len(all)); i++ {
				all[i] = new(T)
				if err := json.Unmarshal(list.Items[i], all[i]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return all, list.Metadata.Continue, group.Wait()
}

// decodeList decodes a list of objects. item decodes the next one. next is the token of the next page, "" after the last one.
func decodeList(in io.Reader, item func(*json.Decoder) error) (next string, err error) {
	decoder := json.NewDecoder(in)
	if _, err := decoder.Token(); err != nil {
		return "", err
	}
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return "", err
		}
		switch name {
		case "metadata":
			var list metav1.ListMeta
			if err := decoder.Decode(&list); err != nil {
				return "", err
			}
			next = list.Continue
		case "items":
			if err := decodeItems(decoder, item); err != nil {
				return "", err
			}
		default:
			var ignored json.RawMessage
			if err := decoder.Decode(&ignored); err != nil {
				return "", err
			}
		}
	}
	return next, nil
}

func decodeItems(decoder *json.Decoder, item func(*json.Decoder) error) error {
	if open, err := decoder.Token(); err != nil || open == nil { // null
		return err
	}
	for decoder.More() {
		if err := item(decoder); err != nil {
			return err
		}
	}
	_, err := decoder.Token()
	return err
}
