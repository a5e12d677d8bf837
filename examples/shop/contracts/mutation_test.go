package contracts_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/napkin-kit/napkin/contracttest"
	cartv1 "github.com/napkin-kit/napkin/examples/shop/api/cart/v1"
	catalogv1 "github.com/napkin-kit/napkin/examples/shop/api/catalog/v1"
	deadletterv1 "github.com/napkin-kit/napkin/examples/shop/api/deadletter/v1"
	orderv1 "github.com/napkin-kit/napkin/examples/shop/api/order/v1"
	paymentv1 "github.com/napkin-kit/napkin/examples/shop/api/payment/v1"
	"github.com/napkin-kit/napkin/kit/problem"
	"github.com/napkin-kit/napkin/kit/problem/grpcproblem"
	"github.com/napkin-kit/napkin/saga"
)

// TestMutations applies breaking and compatible changes to the providers, one by
// one. Each is verified with all contracts of its provider: the consumers that it
// breaks are flagged by name, and nobody else.
func TestMutations(t *testing.T) {
	contracttest.Need(t)
	s := open(t)
	var broken, found, compatible, wrong int
	for _, m := range mutations {
		t.Run(m.provider+"/"+m.what, func(t *testing.T) {
			p, err := m.apply(s.provider(m.provider))
			if err != nil {
				t.Fatal(err)
			}
			r, err := contracttest.Check(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			flagged := r.Flagged()
			if len(m.flags) > 0 {
				broken++
			} else {
				compatible++
			}
			switch {
			case slices.Equal(flagged, m.flags):
				if len(m.flags) > 0 {
					found++
				}
				return
			case len(m.flags) == 0:
				wrong++
			}
			t.Errorf("flagged %v, want %v%s", flagged, m.flags, problems(r))
		})
	}
	if t.Failed() {
		return
	}
	// What `make test-contract` ends with.
	fmt.Printf("BAR contract_mutations_flagged %d >= 30 %s\n", found, verdict(found == broken && found >= 30))
	fmt.Printf("BAR contract_compatible_flagged %d == 0 %s\n", wrong, verdict(wrong == 0 && compatible >= 10))
	if found < 30 || compatible < 10 {
		t.Errorf("%d breaking and %d compatible changes; that is no proof", found, compatible)
	}
}

func verdict(ok bool) string {
	if ok {
		return "ok"
	}
	return "short"
}

func problems(r *contracttest.Report) string {
	var b strings.Builder
	for _, c := range r.Contracts {
		for _, res := range c.Results {
			if len(res.Problems) > 0 {
				fmt.Fprintf(&b, "\n%s: %s: %s", c.Consumer, res.Interaction, strings.Join(res.Problems, "; "))
			}
		}
	}
	return b.String()
}

const (
	tString = descriptorpb.FieldDescriptorProto_TYPE_STRING
	tInt32  = descriptorpb.FieldDescriptorProto_TYPE_INT32
	tInt64  = descriptorpb.FieldDescriptorProto_TYPE_INT64
)

// Full names of methods that several changes are about.
const (
	batchGet  = catalogv1.CatalogService_BatchGetProducts_FullMethodName
	getOne    = catalogv1.CatalogService_GetProduct_FullMethodName
	list      = catalogv1.CatalogService_ListProducts_FullMethodName
	quote     = cartv1.CartService_Quote_FullMethodName
	putItem   = cartv1.CartService_PutItem_FullMethodName
	place     = orderv1.OrderService_CreateOrder_FullMethodName
	letters   = deadletterv1.DeadLetterService_ListDeadLetters_FullMethodName
	payMethod = paymentv1.PaymentService_GetPaymentMethod_FullMethodName
)

// refuse answers a method's calls where f says so.
func refuse(method string, f func(ctx context.Context, in protoreflect.Message) error) func(context.Context, string, protoreflect.Message) (context.Context, error) {
	return func(ctx context.Context, called string, in protoreflect.Message) (context.Context, error) {
		if called != method {
			return ctx, nil
		}
		return ctx, f(ctx, in)
	}
}

func invalid(field, message string) error {
	return grpcproblem.ToStatus(problem.Invalid(problem.Field{Field: field, Message: message})).Err()
}

// code gives a method's refusals another code.
func code(method string, from, to codes.Code) func(string, *status.Status) *status.Status {
	return func(called string, s *status.Status) *status.Status {
		if called == method && s.Code() == from {
			p := s.Proto()
			p.Code = int32(to) //nolint:gosec // codes are small
			return status.FromProto(p)
		}
		return s
	}
}

// reason gives refusals another reason in their details.
func reason(from, to string) func(string, *status.Status) *status.Status {
	return func(_ string, s *status.Status) *status.Status {
		details := s.Details()
		changed := status.New(s.Code(), s.Message())
		for _, d := range details {
			if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetReason() == from {
				info.Reason = to
			}
			if d, ok := d.(protoadapt.MessageV1); ok {
				if with, err := changed.WithDetails(d); err == nil {
					changed = with
				}
			}
		}
		return changed
	}
}

// answers changes the messages of a type in every answer.
func answers(name string, change func(protoreflect.Message)) func(string, protoreflect.Message, metadata.MD) {
	return func(_ string, out protoreflect.Message, _ metadata.MD) { each(out, name, change) }
}

func text(f func(string) string) func(protoreflect.Value) protoreflect.Value {
	return func(v protoreflect.Value) protoreflect.Value { return protoreflect.ValueOfString(f(v.String())) }
}

// ofType limits a change to events of a type, such as "order.v1.OrderFailed".
func ofType(name string, change func(*contracttest.Message) error) func(*contracttest.Message) error {
	return func(m *contracttest.Message) error {
		if m.Attributes["type"] != "shop."+name {
			return nil
		}
		return change(m)
	}
}

func unsent(*contracttest.Message) error { return errors.New("the event is not emitted any more") }

func onTopic(topic string) func(*contracttest.Message) error {
	return func(m *contracttest.Message) error { m.Topic = topic; return nil }
}

func without(attribute string) func(*contracttest.Message) error {
	return func(m *contracttest.Message) error { delete(m.Attributes, attribute); return nil }
}

// scopes are those of a call's token.
func scopes(ctx context.Context) []string {
	md, _ := metadata.FromOutgoingContext(ctx)
	for _, v := range md.Get("authorization") {
		parts := strings.Split(v, ".")
		if len(parts) != 3 {
			continue
		}
		raw, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err != nil {
			continue
		}
		var claims struct {
			Scopes []string `json:"scp"`
		}
		if json.Unmarshal(raw, &claims) == nil {
			return append(claims.Scopes, "signed in")
		}
	}
	return nil
}

func needs(scope string) func(context.Context, protoreflect.Message) error {
	return func(ctx context.Context, _ protoreflect.Message) error {
		if !slices.Contains(scopes(ctx), scope) {
			return status.Error(codes.PermissionDenied, "the token lacks "+scope)
		}
		return nil
	}
}

// on limits a change of REST answers to requests like this one.
func on(method, prefix string, change func(*answer)) func(*http.Request, *answer) {
	return func(r *http.Request, a *answer) {
		if r.Method == method && strings.HasPrefix(r.URL.Path, prefix) && a.status < 400 {
			change(a)
		}
	}
}

var mutations = []mutation{
	// catalog
	{what: "field removed: a product's price", provider: "catalog", flags: []string{"cart", "gateway", "storefront"},
		schema: func(s schema) { s.remove("catalog.v1.Product", "price") }},
	{what: "field renamed: a product's name", provider: "catalog", flags: []string{"cart", "console", "gateway", "storefront"},
		schema: func(s schema) { s.rename("catalog.v1.Product", "name", "title") }},
	{what: "type changed: in_stock becomes text", provider: "catalog", flags: []string{"gateway", "storefront"},
		schema: func(s schema) { s.retype("catalog.v1.Product", "in_stock", tString) }},
	{what: "type changed: amounts of 64 bits, which JSON quotes", provider: "catalog", flags: []string{"cart", "gateway", "storefront"},
		schema: func(s schema) { s.retype("common.v1.Money", "amount_minor", tInt64) }},
	{what: "status changed: a missing product is a failed precondition", provider: "catalog", flags: []string{"gateway", "storefront"},
		refusal: code(getOne, codes.NotFound, codes.FailedPrecondition)},
	{what: "error detail changed: another reason for a missing product", provider: "catalog", flags: []string{"gateway", "storefront"},
		refusal: reason("PRODUCT_NOT_FOUND", "UNKNOWN_PRODUCT")},
	{what: "an unknown id fails the whole batch", provider: "catalog", flags: []string{"cart"},
		request: refuse(batchGet, func(_ context.Context, in protoreflect.Message) error {
			if ids := get(in, "ids").List(); ids.Len() > 0 && ids.Get(0).String() == "ghost" {
				return status.Error(codes.NotFound, "there is no ghost")
			}
			return nil
		})},
	{what: "request field renamed: page_size is limit", provider: "catalog", flags: []string{"gateway", "storefront"},
		schema: func(s schema) { s.rename("catalog.v1.ListProductsRequest", "page_size", "limit") }},
	{what: "enum value dropped: no sorting by price", provider: "catalog", flags: []string{"storefront"},
		request: refuse(list, func(_ context.Context, in protoreflect.Message) error {
			if get(in, "sort").String() == "price" {
				return invalid("sort", "must be name or -updated")
			}
			return nil
		})},
	{what: "method removed: BatchGetProducts", provider: "catalog", flags: []string{"cart", "console", "storefront"},
		schema: func(s schema) {
			s.methods("catalog.v1.CatalogService", func(all []*descriptorpb.MethodDescriptorProto) []*descriptorpb.MethodDescriptorProto {
				return slices.DeleteFunc(all, func(m *descriptorpb.MethodDescriptorProto) bool { return m.GetName() == "BatchGetProducts" })
			})
		}},
	{what: "authorization tightened: batches are for signed-in users", provider: "catalog", flags: []string{"cart", "console", "storefront"},
		request: refuse(batchGet, needs("signed in"))},
	{what: "event not emitted: a new product", provider: "catalog", flags: []string{"inventory"}, event: ofType("catalog.v1.ProductCreated", unsent)},
	{what: "topic renamed: catalog is products", provider: "catalog", flags: []string{"inventory"}, event: onTopic("products")},
	{what: "default changed: facets are left out unless asked for", provider: "catalog", flags: []string{"gateway", "storefront"},
		response: answers("catalog.v1.ListProductsResponse", func(m protoreflect.Message) { m.Clear(m.Descriptor().Fields().ByName("facets")) })},

	// cart
	{what: "format changed: currencies in lower case", provider: "cart", flags: []string{"gateway", "order", "storefront"},
		response: answers("common.v1.Money", set("currency", text(strings.ToLower)))},
	{what: "field removed: whether an item is available", provider: "cart", flags: []string{"gateway", "order", "storefront"},
		schema: func(s schema) { s.remove("cart.v1.CartItem", "available") }},
	{what: "required field added: a unit for each quantity", provider: "cart", flags: []string{"gateway", "storefront"},
		schema: func(s schema) { s.add("cart.v1.PutItemRequest", "unit") },
		request: refuse(putItem, func(_ context.Context, in protoreflect.Message) error {
			if get(in, "unit").String() == "" {
				return invalid("unit", "is required")
			}
			return nil
		})},
	{what: "error code changed: an empty cart is not found", provider: "cart", flags: []string{"order"},
		refusal: code(quote, codes.FailedPrecondition, codes.NotFound)},
	{what: "default changed: a quote without lines is not of the cart", provider: "cart", flags: []string{"order"},
		request: refuse(quote, func(_ context.Context, in protoreflect.Message) error {
			if get(in, "items").List().Len() == 0 {
				return invalid("items", "is required")
			}
			return nil
		})},
	{what: "authorization tightened: writing needs the scope cart:write", provider: "cart", flags: []string{"gateway", "storefront"},
		request: refuse(putItem, needs("cart:write"))},
	{what: "validation tightened: at most two of a product", provider: "cart", flags: []string{"gateway", "storefront"},
		request: refuse(putItem, func(_ context.Context, in protoreflect.Message) error {
			if n := get(in, "quantity").Int(); n > 2 && n < 100 {
				return invalid("quantity", "must be at most 2")
			}
			return nil
		})},
	{what: "list paginated: items come on pages of their own", provider: "cart", flags: []string{"gateway", "storefront"},
		response: answers("cart.v1.Cart", func(m protoreflect.Message) { m.Clear(m.Descriptor().Fields().ByName("items")) })},
	{what: "required header added: every quote names its channel", provider: "cart", flags: []string{"order"},
		request: refuse(quote, func(ctx context.Context, _ protoreflect.Message) error {
			if md, _ := metadata.FromOutgoingContext(ctx); len(md.Get("x-channel")) == 0 {
				return status.Error(codes.InvalidArgument, "x-channel is required")
			}
			return nil
		})},

	// order
	{what: "enum values renamed: statuses in capitals", provider: "order", flags: []string{"console", "gateway", "storefront"},
		response: answers("order.v1.Order", set("status", text(strings.ToUpper)))},
	{what: "stream message missing: a watcher is not told of an order that has ended", provider: "order", flags: []string{"gateway", "storefront"}, silent: true},
	{what: "field removed: whether an order was made of the cart", provider: "order", flags: []string{"cart"},
		schema: func(s schema) { s.remove("order.v1.OrderCreated", "from_cart") }},
	{what: "field removed: why an order failed", provider: "order", flags: []string{"notification"},
		schema: func(s schema) { s.remove("order.v1.OrderFailed", "reason") }},
	{what: "event not emitted: an order was confirmed", provider: "order", flags: []string{"notification"}, event: ofType("order.v1.OrderConfirmed", unsent)},
	{what: "event renamed: an order was cancelled", provider: "order", flags: []string{"notification"},
		event: ofType("order.v1.OrderCancelled", func(m *contracttest.Message) error { m.Attributes["type"] = "shop.order.v1.OrderCanceled"; return nil })},
	{what: "encoding changed: events are JSON", provider: "order", flags: []string{"cart", "inventory", "notification", "payment"},
		event: func(m *contracttest.Message) error {
			m.Attributes["datacontenttype"], m.Data = "application/json", []byte(`{"order_id":"ord_1"}`)
			return nil
		}},
	{what: "field renamed: a command's payment method", provider: "order", flags: []string{"payment"},
		schema: func(s schema) { s.rename("payment.v1.AuthorizePayment", "payment_method_id", "card_id") }},
	{what: "field removed: when a reservation expires", provider: "order", flags: []string{"inventory"},
		schema: func(s schema) { s.remove("inventory.v1.ReserveStock", "expires_at") }},
	{what: "command not sent: commit the stock", provider: "order", flags: []string{"inventory"}, event: ofType("inventory.v1.CommitStock", unsent)},
	{what: "attribute missing: commands do not name their step", provider: "order", flags: []string{"inventory", "payment"}, event: without(saga.ExtStep)},
	{what: "attribute missing: events have no key", provider: "order", flags: []string{"cart", "inventory", "notification", "payment"}, event: without("partitionkey")},
	{what: "header renamed: the idempotency key", provider: "order", flags: []string{"gateway", "storefront"},
		request: func(ctx context.Context, method string, _ protoreflect.Message) (context.Context, error) {
			if method != place {
				return ctx, nil
			}
			md, _ := metadata.FromOutgoingContext(ctx)
			md = md.Copy()
			md.Delete("idempotency-key")
			return metadata.NewOutgoingContext(ctx, md), nil
		}},
	{what: "field removed: orders by status", provider: "order", flags: []string{"console"},
		schema: func(s schema) { s.remove("order.v1.AdminListOrdersResponse", "counts") }},
	{what: "field renamed: what happened in a timeline", provider: "order", flags: []string{"console"},
		schema: func(s schema) { s.rename("order.v1.TimelineEntry", "what", "kind") }},
	{what: "field removed: the token of the next page", provider: "order", flags: []string{"gateway", "storefront"},
		schema: func(s schema) { s.remove("order.v1.ListOrdersResponse", "next_page_token") }},

	// payment
	{what: "type changed: last4 becomes a number", provider: "payment", flags: []string{"gateway", "storefront"},
		schema: func(s schema) { s.retype("payment.v1.PaymentMethod", "last4", tInt32) }},
	{what: "enum value renamed: the reason of a declined card", provider: "payment", flags: []string{"order"},
		event: ofType("payment.v1.PaymentDeclined", func(m *contracttest.Message) error {
			if m.Attributes[saga.ExtReason] == "card_declined" {
				m.Attributes[saga.ExtReason] = "declined_by_issuer"
			}
			return nil
		})},
	{what: "topic renamed: captures are told elsewhere", provider: "payment", flags: []string{"order"}, event: ofType("payment.v1.PaymentCaptured", onTopic("payment-ledger"))},
	{what: "attribute missing: replies have no outcome", provider: "payment", flags: []string{"order"}, event: without(saga.ExtOutcome)},
	{what: "status changed: another customer's card is forbidden", provider: "payment", flags: []string{"order"},
		refusal: code(payMethod, codes.NotFound, codes.PermissionDenied)},
	{what: "validation tightened: cards have to be valid for less than ten years", provider: "payment", flags: []string{"gateway", "storefront"},
		request: refuse(paymentv1.PaymentService_CreatePaymentMethod_FullMethodName, func(_ context.Context, in protoreflect.Message) error {
			if get(in, "exp_year").Int() > int64(time.Now().Year()+10) && len(get(in, "card_number").String()) == 16 && len(get(in, "cvc").String()) == 3 {
				return invalid("exp_year", "is too far off")
			}
			return nil
		})},

	// inventory
	{what: "type changed: what is available becomes text", provider: "inventory", flags: []string{"catalog"},
		schema: func(s schema) { s.retype("inventory.v1.StockLevelChanged", "available", tString) }},
	{what: "event not emitted: stock was reserved", provider: "inventory", flags: []string{"order"}, event: ofType("inventory.v1.StockReserved", unsent)},
	{what: "field removed: the stock on hand", provider: "inventory", flags: []string{"console", "gateway"},
		schema: func(s schema) { s.remove("inventory.v1.Stock", "on_hand") }},
	{what: "error details left out", provider: "inventory", flags: []string{"console", "gateway"},
		refusal: func(_ string, s *status.Status) *status.Status { return status.New(s.Code(), s.Message()) }},

	// user, auth, notification
	{what: "field removed: preferences in the event", provider: "user", flags: []string{"notification"},
		schema: func(s schema) { s.remove("user.v1.ProfileChanged", "preferences") }},
	{what: "field removed: the preference for push", provider: "user", flags: []string{"gateway", "notification", "storefront"},
		schema: func(s schema) { s.remove("user.v1.Preferences", "push") }},
	{what: "list emptied: dead letters need a filter", provider: "user", flags: []string{"console"},
		response: func(method string, out protoreflect.Message, _ metadata.MD) {
			if method == letters {
				out.Clear(out.Descriptor().Fields().ByName("dead_letters"))
			}
		}},
	{what: "field renamed: the e-mail address in the event", provider: "auth", flags: []string{"user"},
		schema: func(s schema) { s.rename("auth.v1.UserRegistered", "email", "mail") }},
	{what: "validation tightened: passwords of 16 characters", provider: "auth", flags: []string{"gateway", "storefront"},
		request: func(ctx context.Context, _ string, in protoreflect.Message) (context.Context, error) {
			if n := len(get(in, "password").String()); n >= 10 && n < 16 && get(in, "name").String() != "" {
				return ctx, invalid("password", "must be at least 16 characters")
			}
			return ctx, nil
		}},
	{what: "field removed: the subject", provider: "notification", flags: []string{"console"},
		schema: func(s schema) { s.remove("notification.v1.Notification", "subject") }},
	{what: "enum value added that answers use: letters by post", provider: "notification", flags: []string{"console"},
		response: answers("notification.v1.Notification", set("channel", text(func(string) string { return "post" })))},

	// gateway
	{what: "status changed: a new order is 200", provider: "gateway", flags: []string{"client"},
		rest: on("POST", "/v1/orders", func(a *answer) {
			if a.status == http.StatusAccepted {
				a.status = http.StatusOK
			}
		})},
	{what: "header missing: where a new order is", provider: "gateway", flags: []string{"client"},
		rest: on("POST", "/v1/orders", func(a *answer) { a.header.Del("Location") })},
	{what: "header missing: the products' tag", provider: "gateway", flags: []string{"client"},
		rest: on("GET", "/v1/products", func(a *answer) { a.header.Del("ETag") })},
	{what: "field renamed: orders have an order_id", provider: "gateway", flags: []string{"client"},
		rest: on("GET", "/v1/orders/", func(a *answer) { a.json(func(o map[string]any) { o["order_id"] = o["id"]; delete(o, "id") }) })},
	{what: "list wrapped: products become data", provider: "gateway", flags: []string{"client"},
		rest: on("GET", "/v1/products", func(a *answer) { a.json(func(o map[string]any) { o["data"] = o["products"]; delete(o, "products") }) })},
	{what: "type changed: amounts as decimals", provider: "gateway", flags: []string{"client"},
		rest: on("GET", "/v1/orders/", func(a *answer) {
			a.json(func(o map[string]any) { o["total"] = map[string]any{"amount_minor": 25.8, "currency": "EUR"} })
		})},
	{what: "error field removed: the code of a problem", provider: "gateway", flags: []string{"client"},
		rest: func(_ *http.Request, a *answer) {
			if a.status >= 400 {
				a.json(func(o map[string]any) { delete(o, "code") })
			}
		}},
	{what: "media type changed: problems are plain JSON", provider: "gateway", flags: []string{"client"},
		rest: func(_ *http.Request, a *answer) {
			if a.status >= 400 {
				a.header.Set("Content-Type", "application/json")
			}
		}},
	{what: "authorization tightened: searching needs a token", provider: "gateway", flags: []string{"client"},
		rest: func(r *http.Request, a *answer) {
			if r.URL.Path == "/v1/products" && r.Header.Get("Authorization") == "" {
				a.status = http.StatusUnauthorized
			}
		}},
	{what: "path removed: pictures", provider: "gateway", flags: []string{"storefront"},
		rest: on("GET", "/images/", func(a *answer) { a.status = http.StatusNotFound })},
	{what: "media type changed: an order's events are JSON lines", provider: "gateway", flags: []string{"client"},
		rest: on("GET", "/v1/orders/", func(a *answer) {
			if strings.HasPrefix(a.header.Get("Content-Type"), "text/event-stream") {
				a.header.Set("Content-Type", "application/jsonl")
			}
		})},

	// Compatible.
	{what: "field added to an answer", provider: "catalog", schema: func(s schema) { s.add("catalog.v1.Product", "weight") }},
	{what: "optional field added to a request", provider: "cart", schema: func(s schema) { s.add("cart.v1.PutItemRequest", "note") }},
	{what: "field added to an event", provider: "order", schema: func(s schema) { s.add("order.v1.OrderConfirmed", "channel") }},
	{what: "field removed that nobody reads", provider: "notification", schema: func(s schema) { s.remove("notification.v1.Notification", "sent_at") }},
	{what: "method added", provider: "payment", schema: func(s schema) {
		s.methods("payment.v1.PaymentService", func(all []*descriptorpb.MethodDescriptorProto) []*descriptorpb.MethodDescriptorProto {
			more := proto.CloneOf(all[0])
			more.Name = proto.String("ReplacePaymentMethod")
			return append(all, more)
		})
	}},
	{what: "validation loosened: words of a search in any case", provider: "catalog",
		request: refuse(list, func(_ context.Context, in protoreflect.Message) error {
			set("q", text(func(q string) string { return strings.ToLower(strings.TrimSpace(q)) }))(in)
			return nil
		})},
	{what: "enum value added that consumers take as it is", provider: "order",
		response: answers("order.v1.AdminOrder", set("saga_state", text(func(string) string { return "paused" })))},
	{what: "order of a list changed", provider: "catalog",
		response: answers("catalog.v1.ListProductsResponse", func(m protoreflect.Message) {
			l := m.Mutable(m.Descriptor().Fields().ByName("products")).List()
			for i, j := 0, l.Len()-1; i < j; i, j = i+1, j-1 {
				a, b := l.Get(i), l.Get(j)
				l.Set(i, b)
				l.Set(j, a)
			}
		})},
	{what: "header added", provider: "cart",
		response: func(_ string, _ protoreflect.Message, h metadata.MD) { h.Set("server-timing", "db;dur=3") }},
	{what: "text of errors changed", provider: "inventory",
		refusal: func(_ string, s *status.Status) *status.Status {
			p := s.Proto()
			p.Message = "No: " + p.GetMessage()
			return status.FromProto(p)
		}},
	{what: "attribute added to events", provider: "payment",
		event: func(m *contracttest.Message) error { m.Attributes["region"] = "eu"; return nil }},
	{what: "values changed within their types", provider: "user",
		response: answers("user.v1.Profile", set("address", text(func(string) string { return "Elsewhere 7" })))},
	{what: "REST: field and header added", provider: "gateway",
		rest: func(_ *http.Request, a *answer) {
			a.header.Set("Server-Timing", "app;dur=3")
			a.json(func(o map[string]any) { o["links"] = []string{"/v1"} })
		}},
}
