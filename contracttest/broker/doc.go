// Package broker is a client of the Pact Broker, and of services with the same API: it publishes contracts,
// hands them to the provider's verification, publishes how that ended, and asks whether a version can be deployed.
//
//	client, err := broker.FromEnv(os.Getenv)                                            // PACT_BROKER_BASE_URL …
//	notices, err := client.Publish(ctx, broker.Publication{Version: commit, Branch: branch, Pacts: files})
//	source := client.Source(broker.Selection{Selectors: broker.Usual(), ProviderBranch: branch, Pending: true})
//	answer, err := client.CanIDeploy(ctx, "order", commit, "production")
//	err = client.RecordDeployment(ctx, "order", commit, "production")
//
// [Client.Source] is a source of contracts for the verification, like a folder of files is.
//
// The broker's API is hypermedia (HAL, https://datatracker.ietf.org/doc/html/draft-kelly-json-hal): the client
// knows names of links and no paths. Every request ends after [Config.Timeout], and no more than
// [Config.MaxBody] of an answer is read. Credentials go to the broker's own host only.
//
// # Errors
//
// [ErrUnreachable], [ErrUnauthorized], [ErrNotFound] and [ErrMalformed] say what happened; they fit
// [errors.Is]. Every error is one line that names the request.
//
// Sources: https://docs.pact.io/pact_broker/api, https://docs.pact.io/consumer_version_selectors,
// https://docs.pact.io/pending, https://docs.pact.io/wip. A [Client] is safe for concurrent use.
package broker
