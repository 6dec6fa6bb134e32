package ipam_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"

	"spiderpool.dev/spiderpool/internal/inet"
	"spiderpool.dev/spiderpool/internal/ipam/alloc"
	"spiderpool.dev/spiderpool/internal/ipam/withhold"
	"spiderpool.dev/spiderpool/internal/lease"
)

// simCloud is the cloud network of the simulation. The pools keep the addresses of all pieces: no
// agent ever hears that one was returned.
type simCloud struct {
	pieces []inet.Set
	// returned are the pieces that the cloud has got back.
	returned []bool
	// listed are decisions of controllers to end a withholding, also of those that were paused since.
	listed []simRestore
}

type simRestore struct {
	seen  withhold.Withheld
	addrs inet.Set
}

func newSimCloud(s *sim) simCloud {
	var c simCloud
	for _, ranges := range [][]string{{"10.0.0.12-10.0.0.13"}, {"10.0.0.15-10.0.0.17"}, {"10.0.0.18"}} {
		set, err := inet.Parse(ranges, inet.Bounds{})
		if err != nil {
			s.t.Fatal(err)
		}
		c.pieces = append(c.pieces, set)
	}
	c.returned = make([]bool, len(c.pieces))
	return c
}

// gone returns the addresses that the cloud has got back.
func (c *simCloud) gone() inet.Set {
	var gone []inet.Set
	for i, piece := range c.pieces {
		if c.returned[i] {
			gone = append(gone, piece)
		}
	}
	return inet.Union(gone...)
}

func (s *sim) withholder() *withhold.Withholder {
	return withhold.New(&lossyStore{Store: s.cluster.Store, sim: s}, s.cluster.Now, slog.New(slog.DiscardHandler))
}

// cloudStep lets the controller return a piece, or the cloud assign one again.
func (s *sim) cloudStep() {
	i := s.r.Intn(len(s.cloud.pieces))
	switch {
	case s.r.Intn(3) == 0:
		s.giveBack(i)
	case s.r.Intn(2) == 0 && s.cloud.returned[i]:
		s.cloud.returned[i] = false
		s.note("piece assigned again")
		s.say("the cloud assigns %s again", s.cloud.pieces[i])
	case s.r.Intn(2) == 0:
		s.listWithheld()
	case len(s.cloud.listed) > 0:
		l := s.cloud.listed[s.r.Intn(len(s.cloud.listed))]
		err := s.withholder().Restore(context.Background(), l.seen, l.addrs)
		if errors.Is(err, alloc.ErrConflict) {
			s.note("old decision to restore refused")
		}
		s.say("restore %s of %s: %v", l.addrs, l.seen.Addrs, err)
	}
}

func (s *sim) giveBack(i int) {
	if s.cloud.returned[i] {
		return
	}
	holders, err := s.withholder().Withhold(context.Background(), withhold.Piece{Network: "aws", Pool: "p", Addrs: s.cloud.pieces[i]})
	s.say("withhold %s: holders %v, %v", s.cloud.pieces[i], holders, err)
	switch {
	case err == nil && len(holders) == 0:
		s.cloud.returned[i] = true
		s.note("piece returned")
	case err == nil:
		s.note("piece in use stays")
	}
}

// listWithheld decides to free what the cloud has not got back.
func (s *sim) listWithheld() {
	all, err := s.withholder().List(context.Background())
	if err != nil {
		return
	}
	gone := s.cloud.gone()
	for _, seen := range all {
		s.cloud.listed = append(s.cloud.listed, simRestore{seen, seen.Addrs.Minus(gone)})
	}
}

// checkCloud checks that all addresses that the cloud has got back are withheld, and that no
// sandbox uses one. Such an address may have a former sandbox that has ended: the agent of its node
// remembers it again if it started between a DEL and the late write of that DEL.
func (s *sim) checkCloud() {
	s.t.Helper()
	gone := s.cloud.gone()
	for base, mask := range gone.Blocks() {
		b := s.blocks()[base]
		for k := range inet.BlockSize {
			addr := inet.BlockAddr(base, k)
			if l, _ := b.Lease(addr); mask&(1<<k) != 0 && l.State != lease.Withheld {
				s.fail("the cloud has got %s back, and its block is %+v", addr, b)
			}
		}
	}
	for _, sandbox := range s.living {
		for _, addrs := range sandbox.addrs {
			if slices.ContainsFunc(addrs, gone.Contains) {
				s.fail("the cloud has got %s back, and %s uses it", gone, sandbox.id)
			}
		}
	}
}

// loseCloud ends the guarantee: after a restore of etcd, or without blocks, nothing says what the cloud
// has got back. The controller assigns it again. It lists again, too: etcd may use versions twice.
func (s *sim) loseCloud() {
	clear(s.cloud.returned)
	s.cloud.listed = nil
}

// endCloud ends all withholdings.
func (s *sim) endCloud() {
	s.loseCloud()
	s.listWithheld()
	for _, l := range s.cloud.listed {
		if err := s.withholder().Restore(context.Background(), l.seen, l.addrs); err != nil {
			s.fail("end a withholding at rest: %v", err)
		}
	}
}
