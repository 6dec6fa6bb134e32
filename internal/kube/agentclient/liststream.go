package agentclient

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"slices"
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
	items, rest, err := splitList(page)
	if err != nil {
		return nil, "", err
	}
	var list metav1.List
	if err := json.Unmarshal(rest, &list); err != nil {
		return nil, "", err
	}
	all := make([]*T, len(items))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for start := 0; start < len(items); start += decodeBatch {
		group.Go(func() error {
			for i := start; i < min(start+decodeBatch, len(items)); i++ {
				all[i] = new(T)
				if err := json.Unmarshal(items[i], all[i]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return all, list.Continue, group.Wait()
}

// splitList returns the text of each object in the field items of a list, and the list without them. It only looks for
// brackets and strings: the decoder of the parts validates them.
func splitList(page []byte) (items [][]byte, rest []byte, err error) {
	depth, start, first, last := 0, 0, 0, 0
	key := ""
	for i := 0; i < len(page); i++ {
		switch page[i] {
		case '"':
			end := endOfString(page, i)
			if depth == 1 && end > i {
				key = string(page[i+1 : end])
			}
			if i = end; end < 0 {
				return nil, nil, io.ErrUnexpectedEOF
			}
		case '{', '[':
			if depth++; depth == 2 && page[i] == '[' && key == "items" {
				first = i + 1
			}
			if depth == 3 && first > 0 && last == 0 {
				start = i
			}
		case '}', ']':
			if depth == 3 && first > 0 && last == 0 {
				items = append(items, page[start:i+1])
			}
			if depth == 2 && first > 0 && last == 0 {
				last = i
			}
			depth--
		}
	}
	if depth != 0 || first > 0 && last == 0 {
		return nil, nil, io.ErrUnexpectedEOF
	}
	return items, slices.Concat(page[:first], page[last:]), nil
}

// endOfString returns the index of the quotation mark that ends the string at start, -1 without one.
func endOfString(text []byte, start int) int {
	for i := start + 1; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '"':
			return i
		}
	}
	return -1
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
