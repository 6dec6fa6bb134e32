package install

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"spiderpool.dev/spiderpool/api/v2beta1"
	"spiderpool.dev/spiderpool/internal/kube/compile"
)

const (
	// takeoverPage is the page size of the list of pools. The status of one can be a megabyte.
	takeoverPage = 20
	// takeoverNamed is the maximum number of pools in the error.
	takeoverNamed = 5
)

// refuseTakeover returns an error if pods of another Spiderpool release, e.g. 1.2, have
// addresses of our pools: this release does not know them.
func refuseTakeover(ctx context.Context, log *slog.Logger, c client.Client) error {
	pools := &v2beta1.SpiderIPPoolList{}
	var foreign []string
	for {
		if err := retry(ctx, log, "the list of SpiderIPPools", func() error {
			return c.List(ctx, pools, client.Limit(takeoverPage), client.Continue(pools.Continue))
		}); err != nil {
			return err
		}
		page := make([]*v2beta1.SpiderIPPool, len(pools.Items))
		for i := range pools.Items {
			page[i] = &pools.Items[i]
		}
		foreign = append(foreign, compile.DescribeForeign(page, takeoverNamed-len(foreign))...)
		if pools.Continue == "" {
			break
		}
	}
	if len(foreign) == 0 {
		return nil
	}
	return fmt.Errorf("pods of another Spiderpool release have addresses, and this release cannot take them over: %s. "+
		"Delete these pods and wait until status.allocatedIPCount of every pool is 0 before you uninstall the other release; the condition Ready of each pool says what to do without it",
		strings.Join(foreign, "; "))
}
