package natsevents

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/napkin-kit/napkin/kit/events"
)

// Permissions is what one service may do at the broker: publish its own events,
// and consume those that it subscribes to. [Authorization] makes a server's
// configuration of them.
type Permissions struct {
	// User is whom the server takes the connection's certificate for: with
	// tls.verify_and_map the URI in it, such as "spiffe://shop.example/order".
	User string
	// Name is what the service passes to [Options].
	Name string
	// Makes are the topics that the service makes with EnsureTopics.
	Makes []string
	// Publishes has the types that the service publishes to a topic; none means
	// all of them.
	Publishes map[string][]string
	// Consumes are the topics that it subscribes to, as Group. Blocks is the
	// consumer's (inbox.ConsumerConfig.Blocks), 0 for all that can be.
	Consumes []string
	Group    string
	Blocks   int
}

// Authorization renders the authorization block of a nats-server's configuration:
// each service may do what its Permissions say and nothing else. Beside it the
// server needs TLS that maps certificates to users:
//
//	tls {
//	  cert_file: "server.pem", key_file: "server.key", ca_file: "bundle.pem"
//	  verify_and_map: true
//	}
//
// A service that it leaves out cannot connect. See
// https://docs.nats.io/running-a-nats-service/configuration/securing_nats.
func Authorization(services ...Permissions) (string, error) {
	var b strings.Builder
	b.WriteString("authorization {\n  users = [\n")
	for _, p := range services {
		publish, err := p.publish()
		if err != nil {
			return "", fmt.Errorf("natsevents: permissions of %q: %w", p.User, err)
		}
		fmt.Fprintf(&b, "    {\n      user: %s\n      permissions: {\n        publish: { allow: [\n", strconv.Quote(p.User))
		for _, s := range publish {
			fmt.Fprintf(&b, "          %s\n", strconv.Quote(s))
		}
		fmt.Fprintf(&b, "        ] }\n        subscribe: { allow: [%s] }\n      }\n    }\n", strconv.Quote(inbox(p.Name)+".>"))
	}
	b.WriteString("  ]\n}\n")
	return b.String(), nil
}

// inbox is the prefix of a service's replies, its own so that no other reads them.
func inbox(name string) string { return "_INBOX." + name }

func (p Permissions) publish() ([]string, error) {
	if p.User == "" || strings.ContainsFunc(p.User, func(r rune) bool { return r <= ' ' || r == '"' || r == '\\' || r > '~' }) {
		return nil, fmt.Errorf("%w: Permissions.User: give the URI of the service's certificate", events.ErrInvalid)
	}
	if err := events.ValidTopic(p.Name); err != nil {
		return nil, fmt.Errorf("%w: Permissions.Name %q: use 1 to 100 letters, digits, '-' and '_'", events.ErrInvalid, p.Name)
	}
	topics := slices.Concat(p.Makes, p.Consumes)
	// What there is may be known to all.
	allow := []string{"$JS.API.STREAM.NAMES", "$JS.API.STREAM.INFO.*", "$JS.API.CONSUMER.LIST.*", "$JS.API.CONSUMER.INFO.>"}
	for _, t := range p.Makes {
		allow = append(allow, "$JS.API.STREAM.CREATE."+t)
	}
	for topic, types := range p.Publishes {
		topics = append(topics, topic)
		if len(types) == 0 {
			allow = append(allow, topic+".*.>")
		}
		for _, t := range types {
			if err := events.ValidType(t); err != nil {
				return nil, err
			}
			allow = append(allow, topic+".*."+t)
		}
	}
	for _, t := range topics {
		if err := events.ValidTopic(t); err != nil {
			return nil, err
		}
	}
	if len(p.Consumes) > 0 {
		if err := (events.Subscription{Group: p.Group, Topics: p.Consumes, Block: events.Block{Count: p.Blocks}}).Validate(); err != nil {
			return nil, err
		}
	}
	for _, t := range p.Consumes {
		for _, c := range p.consumers() {
			at := t + "." + c
			allow = append(allow, "$JS.API.CONSUMER.CREATE."+at, "$JS.API.CONSUMER.CREATE."+at+".>", "$JS.API.CONSUMER.DELETE."+at,
				"$JS.API.CONSUMER.RESET."+at, "$JS.API.CONSUMER.MSG.NEXT."+at, "$JS.ACK."+at+".>", "$JS.FC."+at+".>")
		}
	}
	slices.Sort(allow)
	return allow, nil
}

// consumers are the names that the group's consumers may have: those of all blocks,
// and of a single one, which they may have come from.
func (p Permissions) consumers() []string {
	cuts := []int{1, p.Blocks}
	if p.Blocks == 0 {
		cuts = []int{1, 2, 4, 8, 16, 32, 64}
	}
	var names []string
	for _, n := range slices.Compact(cuts) {
		for _, b := range events.Blocks(n) {
			names = append(names, durable(p.Group, b))
		}
	}
	return names
}
