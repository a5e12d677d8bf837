package transport_test

import (
	"context"
	"database/sql"
	"errors"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/authn"
	authv1 "github.com/napkin-kit/napkin/examples/shop/api/auth/v1"
	userv1 "github.com/napkin-kit/napkin/examples/shop/api/user/v1"
	"github.com/napkin-kit/napkin/examples/shop/user/internal/domain"
	"github.com/napkin-kit/napkin/examples/shop/user/internal/store"
	"github.com/napkin-kit/napkin/examples/shop/user/internal/transport"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/events/protoevents"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

func TestFromRegistrationToPreferences(t *testing.T) {
	db, err := sqlitedb.Open(t.Context(), filepath.Join(t.TempDir(), "user.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := errors.Join(
		migrate.Up(t.Context(), db, "napkin_outbox", outbox.Migrations(db.Dialect)),
		migrate.Up(t.Context(), db, "users", store.Migrations()),
	); err != nil {
		t.Fatal(err)
	}
	ob, err := outbox.New(db.Dialect, "user", nil)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := store.NewKeys(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	st := store.New(db, keys, ob, transport.Encode)
	server := transport.NewServer(domain.NewProfiles(st, time.Now))
	ann := authn.WithPrincipal(t.Context(), authn.Principal{Subject: "usr_ann"})

	handle := transport.Registered(st, time.Now)
	e, err := protoevents.New("", transport.AuthTopic, "usr_ann", &authv1.UserRegistered{UserId: "usr_ann", Email: "ann@example.com", Name: "Ann"})
	if err != nil {
		t.Fatal(err)
	}
	if e.Type != transport.RegisteredType {
		t.Errorf("type %s, want %s", e.Type, transport.RegisteredType)
	}
	if err := sqldb.InTx(t.Context(), db, func(ctx context.Context, tx *sql.Tx) error { return handle(ctx, tx, e) }); err != nil {
		t.Fatal(err)
	}
	bad, err := protoevents.New("", transport.AuthTopic, "x", &userv1.ProfileChanged{})
	if err != nil {
		t.Fatal(err)
	}
	if err := sqldb.InTx(t.Context(), db, func(ctx context.Context, tx *sql.Tx) error { return handle(ctx, tx, bad) }); !inbox.IsPermanent(err) {
		t.Errorf("an event that cannot be read: %v, want a permanent failure", err)
	}

	me, err := server.GetMe(ann, &userv1.GetMeRequest{})
	if err != nil || me.GetProfile().GetEmail() != "ann@example.com" {
		t.Fatalf("me: %v, %v", me, err)
	}
	phone := "+4930123456"
	if _, err := server.UpdateMe(ann, &userv1.UpdateMeRequest{Phone: &phone}); err != nil {
		t.Fatal(err)
	}
	want := &userv1.Preferences{Email: true, Sms: true}
	if _, err := server.PutPreferences(ann, &userv1.PutPreferencesRequest{Preferences: want}); err != nil {
		t.Fatal(err)
	}
	got, err := server.GetPreferences(ann, &userv1.GetPreferencesRequest{})
	if err != nil || !got.GetPreferences().GetSms() || !got.GetPreferences().GetEmail() || got.GetPreferences().GetPush() {
		t.Errorf("preferences %v, %v", got, err)
	}
	empty := ""
	_, err = server.UpdateMe(ann, &userv1.UpdateMeRequest{Phone: &empty})
	if p := kit.Problem(err); err == nil || p.Status != http.StatusBadRequest || len(p.Fields) != 1 || p.Fields[0].Field != "phone" {
		t.Errorf("the number removed: %v", err)
	}
	backlog, err := outbox.ReadBacklog(t.Context(), db)
	if err != nil || backlog.Unpublished != 3 {
		t.Errorf("%d events to publish, %v; want one for each of the three changes", backlog.Unpublished, err)
	}

	if _, err := server.GetMe(t.Context(), &userv1.GetMeRequest{}); !errors.Is(err, authn.ErrUnauthenticated) {
		t.Errorf("nobody: %v", err)
	}
	soon, cancel := context.WithTimeout(authn.WithPrincipal(t.Context(), authn.Principal{Subject: "usr_bob"}), 50*time.Millisecond)
	defer cancel()
	if _, err := server.GetMe(soon, &userv1.GetMeRequest{}); kit.Problem(err).Status != http.StatusNotFound {
		t.Errorf("somebody without a profile: %v", err)
	}
}
