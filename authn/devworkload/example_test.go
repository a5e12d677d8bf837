package devworkload_test

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/napkin-kit/napkin/authn/devworkload"
	"github.com/napkin-kit/napkin/authn/workload"
)

// An issuer in this process, used as SPIRE would be.
func ExampleIssuer_Listen() {
	ctx := context.Background()
	issuer, err := devworkload.New("shop.test", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer issuer.Close()

	order := spiffeid.RequireFromString("spiffe://shop.test/order")
	addr, err := issuer.Listen(ctx, order, "")
	if err != nil {
		fmt.Println(err)
		return
	}
	id, err := workload.Connect(ctx, addr, order, &workload.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer id.Close()

	svid, err := id.GetX509SVID()
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("running as", svid.ID)
	// Output: running as spiffe://shop.test/order
}

// A service in another process finds its socket without asking the issuer.
func ExampleSocketAddr() {
	addr, err := devworkload.SocketAddr("/run/shop", spiffeid.RequireFromString("spiffe://shop.test/order"))
	fmt.Println(addr, err)
	// Output: unix:///run/shop/order-766d8f.sock <nil>
}
