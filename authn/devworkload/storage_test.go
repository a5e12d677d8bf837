package devworkload

import (
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func FuzzDecodeAuthority(f *testing.F) {
	domain := spiffeid.RequireTrustDomainFromString("shop.test")
	cfg := Config{}
	if err := cfg.setDefaults(); err != nil {
		f.Fatal(err)
	}
	a, err := openAuthority(domain, cfg)
	if err != nil {
		f.Fatal(err)
	}
	whole, err := encodeAuthority(&keptKeys{roots: a.roots, jwt: a.jwt})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		k, err := decodeAuthority(data, domain)
		if err != nil {
			return
		}
		if len(k.roots) == 0 || k.jwt == nil {
			t.Fatal("accepted less than an authority")
		}
		again, err := encodeAuthority(k)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeAuthority(again, domain); err != nil {
			t.Fatalf("does not survive a round trip: %v", err)
		}
	})
}
