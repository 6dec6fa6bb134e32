package ipamtest_test

import (
	"testing"

	"spiderpool.dev/spiderpool/internal/ipam/ipamtest"
)

func TestStoreKeepsTheContract(t *testing.T) {
	ipamtest.Contract(t, func(*testing.T) ipamtest.OrderedBlocks { return &ipamtest.Store{} })
}
