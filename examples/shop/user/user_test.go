package user_test

import (
	"bytes"
	"context"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	authv1 "github.com/napkin-kit/napkin/examples/shop/api/auth/v1"
	userv1 "github.com/napkin-kit/napkin/examples/shop/api/user/v1"
	"github.com/napkin-kit/napkin/examples/shop/auth"
	"github.com/napkin-kit/napkin/examples/shop/internal/servicetest"
	"github.com/napkin-kit/napkin/examples/shop/user"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/events/memevents"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Registering with the auth service makes a profile here, which the world is told of.
func TestServiceWithAuth(t *testing.T) {
	world, broker := servicetest.New(t), memevents.New(nil)
	authDB, userDB := servicetest.DB(t, "auth"), servicetest.DB(t, "user")
	key := bytes.Repeat([]byte{7}, 32)
	world.Start(t, auth.Name, nil, auth.Policy, func(ctx context.Context, svc *kit.Service) error {
		return auth.New(ctx, svc, auth.Config{DB: authDB, Broker: broker, Issuer: "http://localhost:8080", Key: key, Demo: true})
	})
	start := func(key []byte, former ...[]byte) *servicetest.Service {
		return world.Start(t, user.Name, nil, user.Policy, func(ctx context.Context, svc *kit.Service) error {
			return user.New(ctx, svc, user.Config{DB: userDB, Broker: broker, Key: key, FormerKeys: former})
		})
	}
	svc := start(key)

	registered, err := authv1.NewAuthServiceClient(world.Conn(t, "gateway", auth.Name)).Register(t.Context(),
		&authv1.RegisterRequest{Email: "Ann@Example.com", Password: "correct horse", Name: "Ann"})
	if err != nil {
		t.Fatal(err)
	}
	ann := world.As(t.Context(), t, registered.GetUser().GetId(), "shop")
	client := userv1.NewUserServiceClient(world.Conn(t, "gateway", user.Name))
	me, err := client.GetMe(ann, &userv1.GetMeRequest{}) // at once: the event is on its way
	if err != nil || me.GetProfile().GetEmail() != "ann@example.com" {
		t.Fatalf("me: %v, %v", me, err)
	}
	if _, err := client.GetMe(t.Context(), &userv1.GetMeRequest{}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("nobody: %v", err)
	}
	servicetest.Until(t, "three profiles are told: two demo accounts and Ann", func() bool {
		f, err := user.Audit(t.Context(), userDB)
		return err == nil && f.Profiles == 3 && f.Outbox.Empty() && f.DeadLetters == 0 && len(broker.Events("user")) == 3
	})
	if f, err := auth.Audit(t.Context(), authDB); err != nil || f.Accounts != 3 || !f.Outbox.Empty() {
		t.Errorf("auth: %+v, %v", f, err)
	}

	// The next start has a new key, and seals anew what the former one sealed.
	svc.Stop()
	next := bytes.Repeat([]byte{8}, 32)
	var former string
	if err := userDB.Read.QueryRowContext(t.Context(), `SELECT DISTINCT key_id FROM profiles`).Scan(&former); err != nil {
		t.Fatal(err)
	}
	svc = start(next, key)
	servicetest.Until(t, "nothing is sealed with the former key", func() bool {
		n := 0
		err := userDB.Read.QueryRowContext(t.Context(), `SELECT count(*) FROM profiles WHERE key_id = $1`, former).Scan(&n)
		return err == nil && n == 0
	})
	svc.Stop()
	start(next)
	client = userv1.NewUserServiceClient(world.Conn(t, "gateway", user.Name))
	if me, err := client.GetMe(ann, &userv1.GetMeRequest{}); err != nil || me.GetProfile().GetName() != "Ann" {
		t.Errorf("after the rotation: %v, %v", me, err)
	}
}
