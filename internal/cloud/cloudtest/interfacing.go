package cloudtest

import (
	"net/netip"
	"testing"

	"spiderpool.dev/spiderpool/internal/cloud"
)

func checkCreate(t *testing.T, s scene) {
	ctx := t.Context()
	made := get(s.Create(ctx, s.wanted("token-1")))(t)
	if made.ID == "" || made.Subnet != s.subnet || made.Attached != "" || len(made.Primary) == 0 || made.Tags["cluster"] != "suite" {
		t.Errorf("the new interface is described as %+v", made)
	}
	if again := get(s.Create(ctx, s.wanted("token-1")))(t); again.ID != made.ID {
		t.Errorf("the same token made %s and %s", made.ID, again.ID)
	}
	if other := get(s.Create(ctx, s.wanted("token-2")))(t); other.ID == made.ID {
		t.Errorf("two tokens made %s", made.ID)
	}
	for value, want := range map[string]int{"suite": 2, "": 2, "other": 0} {
		if found := get(s.Interfaces(ctx, cloud.Query{Tags: map[string]string{"cluster": value}}))(t); len(found) != want {
			t.Errorf("cluster=%s selects %d interfaces, want %d", value, len(found), want)
		}
	}
	if found := get(s.Interfaces(ctx, cloud.Query{IDs: []string{made.ID}, Tags: map[string]string{"cluster": "other"}}))(t); len(found) != 0 {
		t.Errorf("the query's fields must all match, but %+v does not", found)
	}
}

func checkCreateGone(t *testing.T, s scene) {
	wanted := s.wanted("token-1")
	wanted.Subnet = "subnet-00000000000000bad"
	wantKind(t, errorOf(s.Create(t.Context(), wanted)), cloud.Gone)
	wanted = s.wanted("token-2")
	wanted.SecurityGroups = []string{"sg-00000000000000bad"}
	wantKind(t, errorOf(s.Create(t.Context(), wanted)), cloud.Gone)
	small := s.AddSubnet("eu-central-1a", nil, netip.MustParsePrefix("10.0.9.0/28"))
	s.Occupy(small, netip.MustParsePrefix("10.0.9.0/28"))
	wanted = s.wanted("token-3")
	wanted.Subnet = small
	wantKind(t, errorOf(s.Create(t.Context(), wanted)), cloud.NoCapacity)
}

func checkAttach(t *testing.T, s scene) {
	ctx := t.Context()
	other, _ := s.addNode(t, typeLarge, s.subnet)
	eth1 := get(s.Create(ctx, s.wanted("token-1")))(t)
	eth2 := get(s.Create(ctx, s.wanted("token-2")))(t)
	for range 2 {
		must(t, s.Attach(ctx, eth1.ID, s.instance, 1))
	}
	if got := s.describe(t, eth1.ID); got.Attached != s.instance || got.Device != 1 || got.Survives {
		t.Errorf("the attached interface is described as %+v", got)
	}
	if i := get(s.Instances(ctx, []string{s.instance}))(t)[0]; len(i.Interfaces) != 2 || i.Interfaces[1].ID != eth1.ID {
		t.Errorf("the instance has %+v, want eth1 second", i.Interfaces)
	}
	wantKind(t, s.Attach(ctx, eth1.ID, other, 1), cloud.Conflict)
	wantKind(t, s.Attach(ctx, eth2.ID, s.instance, 1), cloud.Conflict)
	wantKind(t, s.Attach(ctx, "eni-00000000000000bad", s.instance, 2), cloud.Gone)
	wantKind(t, s.Attach(ctx, eth2.ID, "i-00000000000000bad", 2), cloud.Gone)
	wantKind(t, s.Delete(ctx, eth1.ID), cloud.Conflict)
	for range 2 {
		must(t, s.Detach(ctx, eth1.ID))
	}
	for range 2 {
		must(t, s.Delete(ctx, eth1.ID))
	}
	if found := get(s.Interfaces(ctx, cloud.Query{IDs: []string{eth1.ID}}))(t); len(found) != 0 {
		t.Errorf("the deleted interface is described as %+v", found)
	}
	wantKind(t, s.Detach(ctx, eth1.ID), cloud.Gone)
}

func checkAttachQuota(t *testing.T, s scene) {
	ctx := t.Context()
	for device := 1; device < limitsLarge.Interfaces; device++ {
		must(t, s.Attach(ctx, get(s.Create(ctx, s.wanted(token(device))))(t).ID, s.instance, device))
	}
	more := get(s.Create(ctx, s.wanted("token-more")))(t)
	wantKind(t, s.Attach(ctx, more.ID, s.instance, limitsLarge.Interfaces), cloud.Quota)
}

func token(n int) string { return "token-" + string(rune('0'+n)) }

func checkPrimary(t *testing.T, s scene) {
	wantKind(t, s.Detach(t.Context(), s.eth0.ID), cloud.Invalid)
}

func checkDiesWithInstance(t *testing.T, s scene) {
	ctx := t.Context()
	eth1 := get(s.Create(ctx, s.wanted("token-1")))(t)
	idle := get(s.Create(ctx, s.wanted("token-2")))(t)
	must(t, s.Attach(ctx, eth1.ID, s.instance, 1))
	s.Terminate(s.instance)
	found := get(s.Interfaces(ctx, cloud.Query{Tags: map[string]string{"instance": s.instance}}))(t)
	if len(found) != 1 || found[0].ID != idle.ID {
		t.Errorf("%+v is left of the instance, want the interface that was not attached", found)
	}
}

func checkLostCreate(t *testing.T, s scene) {
	s.Lose("Create")
	wantKind(t, errorOf(s.Create(t.Context(), s.wanted("token-1"))), cloud.Unknown)
	found := get(s.Interfaces(t.Context(), cloud.Query{Tags: map[string]string{"cluster": "suite"}}))(t)
	again := get(s.Create(t.Context(), s.wanted("token-1")))(t)
	if len(found) != 1 || found[0].ID != again.ID {
		t.Errorf("the lost creation made %+v, the repetition returned %s", found, again.ID)
	}
}

func checkLostAttach(t *testing.T, s scene) {
	eth1 := get(s.Create(t.Context(), s.wanted("token-1")))(t)
	s.Lose("Attach")
	wantKind(t, s.Attach(t.Context(), eth1.ID, s.instance, 1), cloud.Unknown)
	must(t, s.Attach(t.Context(), eth1.ID, s.instance, 1))
	if got := s.describe(t, eth1.ID); got.Attached != s.instance {
		t.Errorf("the interface is described as %+v", got)
	}
}
