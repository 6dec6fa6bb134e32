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
// webhooks, so a node with its key cannot pose as a webhook.
type Issuer struct {
	client  client.Client
	live    client.Reader // without a cache: a cache of Secrets is limited to one name
	secret  client.ObjectKey
	subject Subject
	clock   clock.PassiveClock
	log     *slog.Logger
}

// NewIssuer returns an issuer. live reads Secrets without a cache.
func NewIssuer(c client.Client, live client.Reader, secret client.ObjectKey, subject Subject, log *slog.Logger) *Issuer {
	return &Issuer{client: c, live: live, secret: secret, subject: subject, clock: clock.RealClock{}, log: log}
}

// Start checks the certificate once per minute until ctx ends. The manager starts it on
// the leader.
func (i *Issuer) Start(ctx context.Context) error {
	wait.UntilWithContext(ctx, func(ctx context.Context) {
		if err := i.ensure(ctx); err != nil && ctx.Err() == nil {
			i.log.WarnContext(ctx, "cannot keep a certificate valid", "secret", i.secret.String(), "err", err)
		}
	}, issuerInterval)
	return nil
}

// ensure issues a certificate if there is none, or if it is unusable or past two thirds
// of its life. Clients trust the former authority for as long as it is valid, because
// the processes see the new certificate at different times.
func (i *Issuer) ensure(ctx context.Context) error {
	secret := &corev1.Secret{}
	err := i.live.Get(ctx, i.secret, secret)
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("read Secret %s: %w", i.secret, err)
	}
	missing, now := err != nil, i.clock.Now()
	found, err := inspect(pairOf(secret), i.subject, now)
	if !missing && err == nil && now.Before(found.renew) {
		return nil
	}
	pair, err := issue(i.subject, now, pairOf(secret).Authorities)
	if err != nil {
		return err
	}
	written, err := write(ctx, i.client, i.secret, secret, missing, pair)
	if written {
		i.log.InfoContext(ctx, "issued a certificate", "secret", i.secret.String())
	}
	return err
}
