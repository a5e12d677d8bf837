package authn_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/authn/authntest"
)

// connect makes one TLS connection and passes a byte each way, since a TLS 1.3
// client learns of the server's refusal only when it reads.
func connect(t *testing.T, server, client *tls.Config) (serverSaw, clientSaw tls.ConnectionState, err error) {
	t.Helper()
	left, right := tcpPair(t)
	s, c := tls.Server(left, server), tls.Client(right, client)
	deadline := time.Now().Add(10 * time.Second)
	_ = s.SetDeadline(deadline)
	_ = c.SetDeadline(deadline)
	exchange := func(conn *tls.Conn) error {
		if _, err := conn.Write([]byte{1}); err != nil {
			return err
		}
		_, err := io.ReadFull(conn, make([]byte, 1))
		return err
	}
	serverErr := make(chan error, 1)
	go func() {
		err := exchange(s)
		if err != nil {
			_ = s.Close()
		}
		serverErr <- err
	}()
	clientErr := exchange(c)
	if clientErr != nil {
		_ = c.Close()
	}
	err = errors.Join(<-serverErr, clientErr)
	serverSaw, clientSaw = s.ConnectionState(), c.ConnectionState()
	_ = s.Close()
	_ = c.Close()
	return serverSaw, clientSaw, err
}

func tcpPair(t *testing.T) (net.Conn, net.Conn) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	dialed := make(chan net.Conn, 1)
	go func() {
		conn, err := net.Dial("tcp", lis.Addr().String())
		if err != nil {
			t.Error(err)
		}
		dialed <- conn
	}()
	accepted, err := lis.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return accepted, <-dialed
}

func TestTLSAdmitsOnlyWhomTheAuthorizerNames(t *testing.T) {
	ca := authntest.NewCA(t, "shop.test")
	order, payment, cart := ca.ID(t, "order"), ca.ID(t, "payment"), ca.ID(t, "cart")
	foreign := authntest.NewCA(t, "elsewhere.test")
	imposter := authntest.NewCA(t, "shop.test") // same name, other key

	server := authn.ServerTLS(ca.Identity(t, payment), tlsconfig.AuthorizeOneOf(order))
	toPayment := tlsconfig.AuthorizeID(payment)

	serverSaw, clientSaw, err := connect(t, server, authn.ClientTLS(ca.Identity(t, order), toPayment))
	if err != nil {
		t.Fatalf("order to payment: %v", err)
	}
	if id, err := authn.PeerID(serverSaw); err != nil || id != order {
		t.Errorf("server sees %v, %v; want %v", id, err, order)
	}
	if id, err := authn.PeerID(clientSaw); err != nil || id != payment {
		t.Errorf("client sees %v, %v; want %v", id, err, payment)
	}
	if serverSaw.Version != tls.VersionTLS13 {
		t.Errorf("TLS version %x", serverSaw.Version)
	}

	expired := ca.Identity(t, order)
	expired.Renew(t, -time.Minute)
	noCertificate := authn.ClientTLS(ca.Identity(t, order), toPayment)
	noCertificate.GetClientCertificate = nil
	oldVersion := authn.ClientTLS(ca.Identity(t, order), toPayment)
	oldVersion.MinVersion, oldVersion.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	for name, client := range map[string]*tls.Config{
		"an identity that is not named":        authn.ClientTLS(ca.Identity(t, cart), toPayment),
		"the same name in another domain":      authn.ClientTLS(foreign.Identity(t, foreign.ID(t, "order")), tlsconfig.AuthorizeAny()),
		"the same name from another authority": authn.ClientTLS(imposter.Identity(t, order), tlsconfig.AuthorizeAny()),
		"an expired SVID":                      authn.ClientTLS(expired, toPayment),
		"no certificate":                       noCertificate,
		"TLS 1.2":                              oldVersion,
		"a client that expects another server": authn.ClientTLS(ca.Identity(t, order), tlsconfig.AuthorizeID(cart)),
		"a client without an authorizer":       authn.ClientTLS(ca.Identity(t, order), nil),
		"a client without an identity":         authn.ClientTLS(nil, toPayment),
	} {
		if _, _, err := connect(t, server, client); err == nil {
			t.Errorf("%s was admitted", name)
		}
	}

	for name, server := range map[string]*tls.Config{
		"a server without an authorizer": authn.ServerTLS(ca.Identity(t, payment), nil),
		"a server without an identity":   authn.ServerTLS(nil, tlsconfig.AuthorizeAny()),
	} {
		_, _, err := connect(t, server, authn.ClientTLS(ca.Identity(t, order), toPayment))
		if err == nil || !strings.Contains(err.Error(), "pass both") {
			t.Errorf("%s: %v; want a refusal that says what is missing", name, err)
		}
	}
}

func TestTLSNewConnectionsUseTheNewSVID(t *testing.T) {
	ca := authntest.NewCA(t, "shop.test")
	id := ca.Identity(t, ca.ID(t, "payment"))
	server := authn.ServerTLS(id, tlsconfig.AuthorizeAny())
	client := authn.ClientTLS(ca.Identity(t, ca.ID(t, "order")), tlsconfig.AuthorizeAny())

	_, before, err := connect(t, server, client)
	if err != nil {
		t.Fatal(err)
	}
	id.Renew(t, time.Hour)
	_, after, err := connect(t, server, client)
	if err != nil {
		t.Fatal(err)
	}
	if before.PeerCertificates[0].Equal(after.PeerCertificates[0]) {
		t.Error("the second connection shows the old certificate")
	}
}

// A resumed session skips certificates, so one made while a peer was allowed
// must be of no use once it is not.
func TestTLSResumptionDoesNotOutliveAuthorization(t *testing.T) {
	ca := authntest.NewCA(t, "shop.test")
	allowed := true
	server := authn.ServerTLS(ca.Identity(t, ca.ID(t, "payment")), tlsconfig.AdaptMatcher(func(spiffeid.ID) error {
		if !allowed {
			return errors.New("no longer")
		}
		return nil
	}))
	server.SessionTicketsDisabled = false // a careless holder of the configuration
	client := authn.ClientTLS(ca.Identity(t, ca.ID(t, "order")), tlsconfig.AuthorizeAny())
	client.SessionTicketsDisabled = false
	client.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	client.ServerName = "payment"

	var state tls.ConnectionState
	for range 2 {
		var err error
		if state, _, err = connect(t, server, client); err != nil {
			t.Fatal(err)
		}
	}
	if !state.DidResume {
		t.Fatal("the session was not resumed, so this test checks nothing")
	}
	allowed = false
	if _, _, err := connect(t, server, client); err == nil {
		t.Error("a resumed session was admitted after the authorizer changed its mind")
	}
}

func TestPeerIDNeedsAHandshake(t *testing.T) {
	if _, err := authn.PeerID(tls.ConnectionState{}); !errors.Is(err, authn.ErrPeerUnknown) {
		t.Errorf("got %v", err)
	}
}
