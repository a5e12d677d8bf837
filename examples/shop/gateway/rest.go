package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	authv1 "github.com/napkin-kit/napkin/examples/shop/api/auth/v1"
	cartv1 "github.com/napkin-kit/napkin/examples/shop/api/cart/v1"
	catalogv1 "github.com/napkin-kit/napkin/examples/shop/api/catalog/v1"
	inventoryv1 "github.com/napkin-kit/napkin/examples/shop/api/inventory/v1"
	orderv1 "github.com/napkin-kit/napkin/examples/shop/api/order/v1"
	paymentv1 "github.com/napkin-kit/napkin/examples/shop/api/payment/v1"
	userv1 "github.com/napkin-kit/napkin/examples/shop/api/user/v1"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/problem"
)

var errUnavailable = problem.New(http.StatusServiceUnavailable, "unavailable", "this part of the store does not answer just now; try again in a moment")

// jsonOut is the public form of every message: names as in the contract, zero values spelt out.
var jsonOut = protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}

// newAPI maps the annotated methods of every service to REST.
func newAPI(ctx context.Context, svc *kit.Service) (http.Handler, error) {
	methods, err := newAllowed()
	if err != nil {
		return nil, fmt.Errorf("gateway: the API's document: %w", err)
	}
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, strictJSON{&runtime.JSONPb{MarshalOptions: jsonOut}}),
		runtime.SetQueryParameterParser(strictQuery{}),
		runtime.WithIncomingHeaderMatcher(incomingHeader),
		runtime.WithOutgoingHeaderMatcher(outgoingHeader),
		runtime.WithOutgoingTrailerMatcher(outgoingHeader),
		runtime.WithForwardResponseOption(created),
		runtime.WithMetadata(nameRoute),
		runtime.WithErrorHandler(writeError),
		runtime.WithRoutingErrorHandler(routingError(methods)),
		runtime.WithDisablePathLengthFallback(),
	)
	for _, r := range []register{
		{"auth", authv1.RegisterAuthServiceHandler},
		{"user", userv1.RegisterUserServiceHandler},
		{"catalog", catalogv1.RegisterCatalogServiceHandler},
		{"cart", cartv1.RegisterCartServiceHandler},
		{"order", orderv1.RegisterOrderServiceHandler},
		{"payment", paymentv1.RegisterPaymentServiceHandler},
		{"inventory", inventoryv1.RegisterInventoryServiceHandler},
	} {
		conn, err := svc.Dial(r.peer)
		if err != nil {
			return nil, err
		}
		if err := r.bind(ctx, mux, conn); err != nil {
			return nil, err
		}
	}
	return headAsGet(mux), nil
}

// incomingHeader names the request headers that go on as metadata. Correlation and trace headers travel
// in the context, the token with the connection.
func incomingHeader(key string) (string, bool) {
	if key == "Idempotency-Key" {
		return "idempotency-key", true
	}
	return "", false
}

func outgoingHeader(key string) (string, bool) {
	if key == "idempotent-replayed" {
		return "Idempotent-Replayed", true
	}
	return "", false
}

// nameRoute tells telemetry the route by its pattern, so that /v1/orders/1 and /v1/orders/2 are one.
func nameRoute(ctx context.Context, r *http.Request) metadata.MD {
	if pattern, ok := runtime.HTTPPathPattern(ctx); ok {
		kit.SetRoute(r.Context(), pattern)
	}
	return nil
}

// created gives what is made its status and its address.
func created(ctx context.Context, w http.ResponseWriter, m proto.Message) error {
	method, ok := runtime.RPCMethod(ctx)
	if !ok {
		return nil
	}
	switch method {
	case orderv1.OrderService_CreateOrder_FullMethodName:
		if r, ok := m.(interface{ GetOrder() *orderv1.Order }); ok {
			w.Header().Set("Location", "/v1/orders/"+r.GetOrder().GetId())
		}
		w.WriteHeader(http.StatusAccepted)
	case catalogv1.CatalogService_CreateProduct_FullMethodName:
		if r, ok := m.(interface{ GetProduct() *catalogv1.Product }); ok {
			w.Header().Set("Location", "/v1/products/"+r.GetProduct().GetId())
		}
		w.WriteHeader(http.StatusCreated)
	case authv1.AuthService_Register_FullMethodName, paymentv1.PaymentService_CreatePaymentMethod_FullMethodName:
		w.WriteHeader(http.StatusCreated)
	}
	return nil
}

// writeError answers with a problem document.
func writeError(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error) {
	if s, ok := status.FromError(err); ok && s.Code() == codes.InvalidArgument {
		if p := decodeProblem(s.Message()); p != nil {
			err = p
		}
	}
	if s, ok := status.FromError(err); ok && s.Code() == codes.Unavailable && len(s.Details()) == 0 {
		err = errUnavailable.Because(err)
	}
	kit.WriteError(w, r, err)
}

func routingError(methods *allowed) runtime.RoutingErrorHandlerFunc {
	return func(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, code int) {
		switch code {
		case http.StatusNotFound:
			kit.WriteError(w, r, problem.New(code, "no_such_path", "there is no such path; /openapi.json lists those there are"))
		case http.StatusMethodNotAllowed:
			if allow := methods.of(r); allow != "" {
				w.Header().Set("Allow", allow)
			}
			kit.WriteError(w, r, problem.New(code, "method_not_allowed", r.Method+" is not allowed here; /openapi.json says what is"))
		default:
			kit.WriteError(w, r, problem.New(code, "bad_request", "the path is malformed"))
		}
	}
}

// bodyError carries a decoding error through grpc-gateway's generated code, which keeps only its text.
const bodyError = "request body: "

var bodyErrorForm = regexp.MustCompile(`^` + bodyError + `(\S*): (.*)$`)

func decodeProblem(text string) *problem.Problem {
	switch {
	case strings.Contains(text, "http: request body too large"):
		return problem.New(http.StatusRequestEntityTooLarge, "body_too_large", "the body is larger than this API takes")
	case strings.HasPrefix(text, bodyError):
		if m := bodyErrorForm.FindStringSubmatch(text); m != nil {
			return problem.Invalid(problem.Field{Field: m[1], Message: m[2]})
		}
	}
	return nil
}

// strictQuery is grpc-gateway's parser of query parameters, except that an unknown one is refused.
type strictQuery struct{ runtime.DefaultQueryParser }

func (q strictQuery) Parse(m proto.Message, values url.Values, filter *utilities.DoubleArray) error {
	for key := range values {
		if !knownPath(m.ProtoReflect().Descriptor(), key) {
			return errors.New(bodyError + strings.ReplaceAll(key, " ", "_") + ": unknown query parameter")
		}
	}
	if err := q.DefaultQueryParser.Parse(m, values, filter); err != nil {
		return fmt.Errorf("%s%s: %w", bodyError, "query", err)
	}
	return nil
}

func knownPath(d protoreflect.MessageDescriptor, path string) bool {
	head, rest, nested := strings.Cut(path, ".")
	f := d.Fields().ByName(protoreflect.Name(head))
	if f == nil {
		return false
	}
	if !nested {
		return true
	}
	return f.Message() != nil && !f.IsList() && !f.IsMap() && knownPath(f.Message(), rest)
}
