package devworkload

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
)

// jwtTTL is the life of a JWT-SVID: short, since it is a bearer token.
const jwtTTL = 5 * time.Minute

// FetchJWTSVID signs a JWT-SVID for the endpoint's identity.
func (e *endpoint) FetchJWTSVID(_ context.Context, req *workload.JWTSVIDRequest) (*workload.JWTSVIDResponse, error) {
	if len(req.GetAudience()) == 0 {
		return nil, status.Error(codes.InvalidArgument, "audience must be specified")
	}
	if asked := req.GetSpiffeId(); asked != "" && asked != e.id.String() {
		return nil, status.Error(codes.PermissionDenied, "no such identity issued here")
	}
	key := e.issuer.ca.jwtKey()
	kid, err := e.jwtKeyID()
	if err != nil {
		return nil, status.Error(codes.Internal, "cannot name the signing key")
	}
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: kid}},
		(&jose.SignerOptions{}).WithType("JWT"),
	)
	if err != nil {
		return nil, status.Error(codes.Internal, "cannot sign")
	}
	now := time.Now()
	token, err := jwt.Signed(signer).Claims(jwt.Claims{
		Subject:  e.id.String(),
		Audience: req.GetAudience(),
		IssuedAt: jwt.NewNumericDate(now),
		Expiry:   jwt.NewNumericDate(now.Add(jwtTTL)),
	}).Serialize()
	if err != nil {
		return nil, status.Error(codes.Internal, "cannot sign")
	}
	return &workload.JWTSVIDResponse{Svids: []*workload.JWTSVID{{SpiffeId: e.id.String(), Svid: token}}}, nil
}

// FetchJWTBundles sends the keys that JWT-SVIDs are verified by.
func (e *endpoint) FetchJWTBundles(_ *workload.JWTBundlesRequest, stream grpc.ServerStreamingServer[workload.JWTBundlesResponse]) error {
	return e.each(stream.Context(), func(issued, []byte) error {
		bundle, err := e.jwtBundle()
		if err != nil {
			return status.Error(codes.Internal, "cannot build the JWT bundle")
		}
		doc, err := bundle.Marshal()
		if err != nil {
			return status.Error(codes.Internal, "cannot build the JWT bundle")
		}
		return stream.Send(&workload.JWTBundlesResponse{
			Bundles: map[string][]byte{e.issuer.domain.IDString(): doc},
		})
	})
}

// ValidateJWTSVID checks a JWT-SVID of this trust domain.
func (e *endpoint) ValidateJWTSVID(_ context.Context, req *workload.ValidateJWTSVIDRequest) (*workload.ValidateJWTSVIDResponse, error) {
	if req.GetAudience() == "" || req.GetSvid() == "" {
		return nil, status.Error(codes.InvalidArgument, "audience and svid must be specified")
	}
	bundle, err := e.jwtBundle()
	if err != nil {
		return nil, status.Error(codes.Internal, "cannot build the JWT bundle")
	}
	svid, err := jwtsvid.ParseAndValidate(req.GetSvid(), bundle, []string{req.GetAudience()})
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, "the JWT-SVID is not valid")
	}
	// structpb takes only the types JSON decodes to.
	doc, err := json.Marshal(svid.Claims)
	if err != nil {
		return nil, status.Error(codes.Internal, "cannot encode the claims")
	}
	claims := &structpb.Struct{}
	if err := claims.UnmarshalJSON(doc); err != nil {
		return nil, status.Error(codes.Internal, "cannot encode the claims")
	}
	return &workload.ValidateJWTSVIDResponse{SpiffeId: svid.ID.String(), Claims: claims}, nil
}

func (e *endpoint) jwtBundle() (*jwtbundle.Bundle, error) {
	kid, err := e.jwtKeyID()
	if err != nil {
		return nil, err
	}
	bundle := jwtbundle.New(e.issuer.domain)
	return bundle, bundle.AddJWTAuthority(kid, e.issuer.ca.jwtKey().Public())
}

func (e *endpoint) jwtKeyID() (string, error) {
	point, err := e.issuer.ca.jwtKey().PublicKey.Bytes()
	if err != nil {
		return "", err
	}
	digest := sha256.Sum256(point)
	return hex.EncodeToString(digest[:8]), nil
}
