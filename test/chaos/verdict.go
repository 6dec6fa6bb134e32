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

// enough is the time from which on a run must have met every kind of event.
const enough = 45 * time.Second

// errNotTried stands for the outcome of fillPools where it could not but fail.
var errNotTried = errors.New("whether every address can be had again was not tried, since leases are left")

// fillPools gives as many pods addresses as the pools have, spread over all nodes,
// and takes them back: nothing may be missing from a pool that all have left.
func (c *chaos) fillPools(ctx context.Context) error {
	filling, cancel := context.WithTimeoutCause(ctx, c.quietFor, fmt.Errorf("a pool of %d addresses did not suffice for as many pods", c.poolSize()))
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
	// They end after all have begun, or they would not fill the pool.
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

// judge puts everything together that is wrong, and prints the summary.
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
	fmt.Fprintf(os.Stderr, "addresses given to two, or changed: %d; fixed addresses that changed: %d; calls that failed without a reason: %d; %s; %s\n",
		len(violations), len(c.moved.all()), len(c.refused.all()),
		verdict(leaked, "no lease and no endpoint is left", "LEASES OR ENDPOINTS ARE LEFT"),
		verdict(full, "every address could be had again", "NOT EVERY ADDRESS COULD BE HAD AGAIN"))
	return errors.Join(errs...)
}

// provesNothing is an error if a long run did not meet what it is there for.
func (c *chaos) provesNothing() error {
	if c.time < enough {
		return nil
	}
	n := &c.count
	for name, seen := range map[string]int64{
		"kills": n.kills.Load(), "successful ADDs": n.adds.Load(), "successful DELs without an API server": n.delsWithoutAPI.Load(),
		"successful CHECKs": n.checks.Load(), "repeated ADDs": n.repeated.Load(), "late DELs": n.lateDels.Load(),
		"pods with two interfaces": n.second.Load(), "pods with their former addresses": n.fixed.Load(), "GCs": n.gcs.Load(),
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
