package events

import (
	"testing"
	"time"

	wm "github.com/ThreeDotsLabs/watermill"
	wmsql "github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// BenchmarkWatermillSQL is watermill-sql on the same server: its PostgreSQL schema
// and offsets, over pgx, with a batch of 1,000 messages (its default is 100) and a
// poll each 10 ms (its default is 1 s). A consumer group has one subscriber at a
// time, which hands over one message at a time. Its backlog is kept small, for it
// sorts all of it for each batch.
//
// "another-database" does what our drain does: an effect and a mark against a
// second delivery committed where the messages do not come from, for each message.
// "same-database" has the effect in the subscription's own transaction, so once
// without a mark, and a commit for each batch; "ack" does nothing.
func BenchmarkWatermillSQL(b *testing.B) {
	for _, form := range []struct {
		name string
		does work
	}{
		{"drain-ack", nothing},
		{"drain-same-database", sameDatabase},
		{"drain-another-database", anotherDatabase},
	} {
		b.Run(form.name, func(b *testing.B) {
			for b.Loop() {
				apart(b, func(b testing.TB) figures {
					h, pub, sub := watermillSQL(b, form.does)
					for at := 0; at < *watermill; at += 1000 {
						must(b, pub.Publish(topic, messages(at, min(1000, *watermill-at))...))
					}
					start := time.Now()
					in, err := sub.Subscribe(b.Context(), topic)
					must(b, err)
					h.receive(b, in)
					return figures{rate: float64(*watermill) / time.Since(start).Seconds()}
				}).reportRate(b)
			}
		})
	}
	// As many writers as in the live run, each committing one message at a time.
	b.Run("live", func(b *testing.B) {
		for b.Loop() {
			apart(b, func(b testing.TB) figures {
				h, pub, sub := watermillSQL(b, sameDatabase)
				in, err := sub.Subscribe(b.Context(), topic)
				must(b, err)
				start := time.Now()
				errs := make(chan error, writers)
				for w := range writers {
					go func() {
						var err error
						for i := w; i < *watermill && err == nil; i += writers {
							err = pub.Publish(topic, messages(i, 1)...)
						}
						errs <- err
					}()
				}
				h.receive(b, in)
				for range writers {
					must(b, <-errs)
				}
				return figures{rate: float64(*watermill) / time.Since(start).Seconds()}
			}).reportRate(b)
		}
	})
}

func (f figures) reportRate(b *testing.B) {
	b.Helper()
	b.ReportMetric(f.rate, "events/s")
}

// work is what the handler does with a message.
type work int

const (
	nothing work = iota
	sameDatabase
	anotherDatabase
)

type handler struct {
	does work
	p    *pgxpool.Pool // where the effects are
}

func watermillSQL(b testing.TB, does work) (*handler, *wmsql.Publisher, *wmsql.Subscriber) {
	b.Helper()
	url := database(b)
	p := pool(b, url)
	h := &handler{does, p}
	if does == anotherDatabase {
		url = database(b)
		h.p = pool(b, url)
	}
	in := open(b, url)
	effects(b, in)
	_, err := in.Write.ExecContext(b.Context(), `CREATE TABLE mark (id TEXT PRIMARY KEY)`)
	must(b, err)
	schema := wmsql.DefaultPostgreSQLSchema{
		SubscribeBatchSize:  1000,
		GeneratePayloadType: func(string) string { return "BYTEA" },
	}
	offsets := wmsql.DefaultPostgreSQLOffsetsAdapter{}
	pub, err := wmsql.NewPublisher(wmsql.BeginnerFromPgx(p), wmsql.PublisherConfig{SchemaAdapter: schema, AutoInitializeSchema: true}, wm.NopLogger{})
	must(b, err)
	sub, err := wmsql.NewSubscriber(wmsql.BeginnerFromPgx(p), wmsql.SubscriberConfig{
		ConsumerGroup: "mail", SchemaAdapter: schema, OffsetsAdapter: offsets, PollInterval: 10 * time.Millisecond, InitializeSchema: true,
	}, wm.NopLogger{})
	must(b, err)
	must(b, sub.SubscribeInitialize(topic))
	b.Cleanup(func() { must(b, sub.Close()) })
	return h, pub, sub
}

// messages have the data and attributes of our events.
func messages(from, n int) []*message.Message {
	out := make([]*message.Message, n)
	for i := range out {
		e := order((from+i)%keys, time.Now())
		e.ID, e.Source = wm.NewULID(), "order"
		m := message.NewMessage(e.ID, e.Data)
		m.Metadata = e.Attributes()
		out[i] = m
	}
	return out
}

// receive handles all messages.
func (h *handler) receive(b testing.TB, in <-chan *message.Message) {
	b.Helper()
	const insert = `INSERT INTO effect (k, seq) VALUES ($1, $2)`
	deadline := time.After(2 * time.Minute)
	for i := range *watermill {
		select {
		case m := <-in:
			key := m.Metadata["partitionkey"]
			switch h.does {
			case sameDatabase:
				tx, ok := wmsql.TxFromContext(m.Context())
				if !ok {
					b.Fatal("no transaction in the message's context")
				}
				_, err := tx.ExecContext(m.Context(), insert, key, i)
				must(b, err)
			case anotherDatabase: // one round trip, one transaction
				var both pgx.Batch
				both.Queue(`INSERT INTO mark (id) VALUES ($1)`, m.UUID)
				both.Queue(insert, key, i)
				must(b, h.p.SendBatch(m.Context(), &both).Close())
			}
			m.Ack()
		case <-deadline:
			b.Fatalf("%d of %d messages within 2 minutes", i, *watermill)
		}
	}
	if h.does == nothing {
		return
	}
	for { // the last batch commits after its last acknowledgement
		var n int
		must(b, h.p.QueryRow(b.Context(), `SELECT count(*) FROM effect`).Scan(&n))
		if n == *watermill {
			return
		}
		time.Sleep(time.Millisecond)
	}
}
