package agentclient

import (
	"context"
	"encoding/json"
	"errors"
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

// allOwn reads all objects of one of our kinds, in no certain order. limit is that of a page.
func allOwn[T any](ctx context.Context, c *Client, resource string, limit int) ([]*T, error) {
	var all []*T
	next := ""
	for {
		request := c.spiderpool.Get().Resource(resource).Param("limit", strconv.Itoa(limit)).Param("continue", next)
		body, err := request.Stream(ctx)
		if err == nil {
			var page []*T
			page, next, err = decodePage[T](body)
			all = append(all, page...)
			err = errors.Join(err, body.Close())
		}
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", resource, err)
		}
		if next == "" {
			return all, nil
		}
	}
}

// decodePage decodes a list while it arrives, on all processors.
func decodePage[T any](in io.Reader) (all []*T, next string, err error) {
	batches, decoded := make(chan []json.RawMessage), make(chan []*T)
	var workers errgroup.Group
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() (err error) {
			for batch := range batches {
				objects := make([]*T, len(batch))
				for i, raw := range batch {
					objects[i] = new(T)
					err = errors.Join(err, json.Unmarshal(raw, objects[i]))
				}
				decoded <- objects
			}
			return err
		})
	}
	go func() {
		var batch []json.RawMessage
		next, err = decodeList(in, func(decoder *json.Decoder) error {
			var raw json.RawMessage
			if err := decoder.Decode(&raw); err != nil {
				return err
			}
			if batch = append(batch, raw); len(batch) == decodeBatch {
				batches <- batch
				batch = nil
			}
			return nil
		})
		batches <- batch
		close(batches)
		err = errors.Join(err, workers.Wait())
		close(decoded)
	}()
	for objects := range decoded {
		all = append(all, objects...)
	}
	return all, next, err
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
