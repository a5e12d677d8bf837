package grpcresilience

import (
	"errors"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/napkin-kit/napkin/resilience"
)

// Whatever a server writes into its trailer and its status, the wait it asks for
// is none or a positive one, and only a number in gRFC A6's range asks for one.
func FuzzPushback(f *testing.F) {
	for _, s := range []string{"0", "200", "-1", "", "soon", "1e3", "2147483647", "2147483648", "99999999999999999999", " 5", "+5", "0x10"} {
		f.Add(s, uint32(codes.Unavailable), int64(1), int32(0))
	}
	f.Add("5", uint32(codes.ResourceExhausted), int64(-1<<62), int32(-1<<31))
	f.Add("5", uint32(77), int64(1<<62), int32(1<<31-1))
	f.Fuzz(func(t *testing.T, pushback string, code uint32, seconds int64, nanos int32) {
		st := status.New(codes.Code(code), "x")
		if with, err := st.WithDetails(&errdetails.RetryInfo{RetryDelay: &durationpb.Duration{Seconds: seconds, Nanos: nanos}}); err == nil {
			st = with
		}
		if st.Err() == nil {
			return
		}
		err := attemptError(st.Err(), true, metadata.MD{pushbackKey: {pushback}})
		var classified interface{ Class() resilience.Class }
		if !errors.As(err, &classified) {
			t.Fatalf("%v has no class", err)
		}
		c := classified.Class()
		if c.After < 0 || c.NeverSent {
			t.Fatalf("pushback %q: %+v", pushback, c)
		}
		if c.Retry && c.After > (1<<31-1)*time.Millisecond {
			t.Fatalf("pushback %q: retries after %v", pushback, c.After)
		}
		if status.Code(err) != codes.Code(code) {
			t.Fatalf("code %v became %v", codes.Code(code), status.Code(err))
		}
	})
}
