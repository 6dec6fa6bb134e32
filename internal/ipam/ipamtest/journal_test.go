package ipamtest

import (
	"testing"

	"spiderpool.dev/spiderpool/internal/ipam"
)

func TestMemoryJournalMeetsContract(t *testing.T) {
	JournalContract(t, func(*testing.T) (a, b ipam.Journal) {
		j := newMemoryJournal()
		return j, j
	})
}
