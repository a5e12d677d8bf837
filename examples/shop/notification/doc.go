// Package notification is the service that tells customers how their orders ended, by the channels they
// chose: e-mail over SMTP, SMS and push over HTTP.
//
// A notification is decided once, in the transaction that handles the order's event, and handed over at
// least once under a stable id by a worker that stands outside every transaction.
package notification
