package certificate

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// issuerInterval is the time between two checks of an issued certificate. Each costs one
// read.
const issuerInterval = time.Minute

// Issuer keeps a certificate for other processes in a Secret, e.g. for the metrics of the
// agents, which read it from a mount. It has an authority of its own like that of the
// webhooks, so a node with its key cannot pose as a webhook. Further Secrets may have a
// certificate of the same authority, e.g. that of a server's clients.
type Issuer struct {
	client client.Client
	live   client.Reader // without a cache: a cache of Secrets is limited to one name
	wanted []Wanted
	clock  clock.PassiveClock
	log    *slog.Logger
}

// Wanted is a Secret and the subject of its certificate.
type Wanted struct {
	Secret  client.ObjectKey
	Subject Subject
}

// NewIssuer returns an issuer of one or more certificates with one authority. live reads
// Secrets without a cache.
func NewIssuer(c client.Client, live client.Reader, log *slog.Logger, wanted ...Wanted) *Issuer {
	return &Issuer{client: c, live: live, wanted: wanted, clock: clock.RealClock{}, log: log}
}

// Start checks the certificate once per minute until ctx ends. The manager starts it on
// the leader.
func (i *Issuer) Start(ctx context.Context) error {
	wait.UntilWithContext(ctx, func(ctx context.Context) {
		if err := i.ensure(ctx); err != nil && ctx.Err() == nil {
			i.log.WarnContext(ctx, "cannot keep a certificate valid", "secret", i.wanted[0].Secret.String(), "err", err)
		}
	}, issuerInterval)
	return nil
}

// ensure issues all certificates if one is missing, unusable or past two thirds of its
// life. The former authority is trusted for as long as it is valid, because the
// processes see the new certificates at different times.
func (i *Issuer) ensure(ctx context.Context) error {
	now, valid := i.clock.Now(), true
	secrets, missing := make([]*corev1.Secret, len(i.wanted)), make([]bool, len(i.wanted))
	for n, w := range i.wanted {
		secrets[n] = &corev1.Secret{}
		err := i.live.Get(ctx, w.Secret, secrets[n])
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("read Secret %s: %w", w.Secret, err)
		}
		missing[n] = err != nil
		pair := pairOf(secrets[n])
		pair.Authorities = pairOf(secrets[0]).Authorities // those that the server of a client trusts
		found, err := inspect(pair, w.Subject, now)
		valid = valid && !missing[n] && err == nil && now.Before(found.renew)
	}
	if valid {
		return nil
	}
	a, err := newAuthority(i.wanted[0].Subject.CALifetime, now)
	if err != nil {
		return err
	}
	for n, w := range i.wanted {
		pair, err := a.issue(w.Subject, now, pairOf(secrets[0]).Authorities)
		if err != nil {
			return err
		}
		written, err := write(ctx, i.client, w.Secret, secrets[n], missing[n], pair)
		if err != nil {
			return err
		}
		if written {
			i.log.InfoContext(ctx, "issued a certificate", "secret", w.Secret.String())
		}
	}
	return nil
}
