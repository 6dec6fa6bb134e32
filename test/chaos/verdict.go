package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"spiderpool.dev/spiderpool/test/history"
)

// enough is the run time that must produce every kind of event.
const enough = 45 * time.Second

// errNotTried is the result of fillPools if remaining leases would make it fail.
var errNotTried = errors.New("the test that every address can be allocated again was skipped, because leases remain")

// fillPools creates as many pods as the pools have addresses, on all nodes, and deletes
// them. It fails if a pool has lost an address.
func (c *chaos) fillPools(ctx context.Context) error {
	filling, cancel := context.WithTimeoutCause(ctx, c.quietFor, fmt.Errorf("a pool of %d addresses was too small for as many pods", c.poolSize()))
	defer cancel()
	var work sync.WaitGroup
	found := &problems{}
	size := c.poolSize()
	sandboxes := make([]*sandbox, size)
	for i := range size {
		work.Go(func() {
			s, err := c.begin(filling, i%c.nodes, pod{name: fmt.Sprintf("last-%d", i)})
			if err != nil {
				found.add(err)
				return
			}
			sandboxes[i] = s
		})
	}
	work.Wait()
	// No pod may end before the last one has started, or the pool would not be full.
	for _, s := range sandboxes {
		if s == nil {
			continue
		}
		work.Go(func() {
			if err := errors.Join(c.end(ctx, s), c.deletePod(ctx, s)); err != nil {
				found.add(err)
			}
		})
	}
	work.Wait()
	return errors.Join(found.all()...)
}

// judge joins all failures and prints the summary.
func (c *chaos) judge(leaked, full error) error {
	violations := history.Check(c.history.Events())
	errs := []error{leaked, full}
	for _, v := range violations {
		errs = append(errs, errors.New(v.String()))
	}
	errs = append(errs, c.refused.all()...)
	errs = append(errs, c.moved.all()...)
	errs = append(errs, c.provesNothing())
	fmt.Fprintf(os.Stderr, "\n%s\n", &c.count)
	fmt.Fprintf(os.Stderr, "addresses with two holders, or changed: %d; fixed addresses that changed: %d; calls that failed without an excuse: %d; %s; %s\n",
		len(violations), len(c.moved.all()), len(c.refused.all()),
		verdict(leaked, "no lease and no endpoint remains", "LEASES OR ENDPOINTS REMAIN"),
		verdict(full, "every address can be allocated again", "NOT EVERY ADDRESS CAN BE ALLOCATED AGAIN"))
	return errors.Join(errs...)
}

// provesNothing returns an error if a long run lacks some kind of event.
func (c *chaos) provesNothing() error {
	if c.time < enough {
		return nil
	}
	n := &c.count
	for name, seen := range map[string]int64{
		"kills": n.kills.Load(), "successful ADDs": n.adds.Load(), "successful DELs without an API server": n.delsWithoutAPI.Load(),
		"successful CHECKs": n.checks.Load(), "repeated ADDs": n.repeated.Load(), "late DELs": n.lateDels.Load(),
		"pods with two interfaces": n.second.Load(), "pods with their fixed addresses": n.fixed.Load(), "GCs": n.gcs.Load(),
	} {
		if seen == 0 {
			return fmt.Errorf("the run had no %s and proves nothing about them", name)
		}
	}
	return nil
}

func verdict(err error, good, bad string) string {
	if err != nil {
		return bad
	}
	return good
}
