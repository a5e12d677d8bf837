package user_test

import (
	"bytes"
	"context"
	"testing"

	"github.com/napkin-kit/napkin/contracttest"
	"github.com/napkin-kit/napkin/contracttest/match"
	authv1 "github.com/napkin-kit/napkin/examples/shop/api/auth/v1"
	userv1 "github.com/napkin-kit/napkin/examples/shop/api/user/v1"
	"github.com/napkin-kit/napkin/examples/shop/internal/servicetest"
	"github.com/napkin-kit/napkin/examples/shop/user"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/events/memevents"
)

// Auth tells of an account, and there is a profile.
func TestContractWithAuth(t *testing.T) {
	contracttest.Need(t)
	world, broker, db := servicetest.New(t), memevents.New(nil), servicetest.DB(t, "user")
	world.Start(t, user.Name, nil, user.Policy, func(ctx context.Context, svc *kit.Service) error {
		return user.New(ctx, svc, user.Config{DB: db, Broker: broker, Key: bytes.Repeat([]byte{7}, 32)})
	})
	client := userv1.NewUserServiceClient(world.Conn(t, "gateway", user.Name))
	contracttest.Consumer{Name: user.Name, Provider: "auth", Dir: "../contracts/pacts"}.Event(t, contracttest.Event{
		Name: "an account was registered", Topic: "auth", Attributes: map[string]any{"partitionkey": match.Like("usr_1")},
		Data: &authv1.UserRegistered{UserId: "usr_1", Email: "ann@example.com", Name: "Ann"},
	}, func(ctx context.Context, msg contracttest.Message) error {
		e, err := msg.Event()
		if err != nil {
			return err
		}
		if err := servicetest.Tell(ctx, broker, e); err != nil {
			return err
		}
		ann := world.As(ctx, t, "usr_1", "shop")
		return servicetest.Await(ctx, "Ann has a profile", func() bool {
			me, err := client.GetMe(ann, &userv1.GetMeRequest{})
			return err == nil && me.GetProfile().GetEmail() == "ann@example.com" && me.GetProfile().GetName() == "Ann"
		})
	})
}
