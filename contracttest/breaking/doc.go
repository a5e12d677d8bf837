// Package breaking tells which changes of a contract break those who rely on it: Protobuf by buf's rules,
// OpenAPI documents and events' JSON schemas by oasdiff's.
//
//	changes, err := breaking.Protobuf(ctx, "proto", breaking.Ref("origin/main"), nil)
//	changes, err := breaking.OpenAPI(ctx, "api/openapi.yaml", breaking.Ref("origin/main"), nil)
//	changes, err := breaking.EventSchemas(ctx, "events", breaking.Saved("released/events"), nil)
//
// Events whose data is Protobuf need nothing of their own: their messages are part of the first check, and a
// message that is renamed or removed is a CloudEvents type that is not emitted any more (rules of buf's
// category PACKAGE). Events with JSON data are described by one JSON schema per type, in one directory.
//
// # Tools
//
// buf and oasdiff run as programs, so that importing this package brings neither along. They are looked for in
// PATH and in .cache/bin of this directory or one above it. [ToolError] has the line that installs them.
// Versions that are known to work are [BufVersion] and [OasdiffVersion].
//
// # Accepting a change
//
// Every breaking change ends with one that is meant: the old field goes, once nobody reads it. [Accepted] are
// the changes that were looked at, each as [Change.Key] has it.
//
// # Errors
//
// [ErrNothingBefore]: what is compared with has no such contract yet, so there is nothing to break. Everything
// else means that the check could not be done; an error never means that changes were found.
//
// Rules: https://buf.build/docs/breaking/rules, https://www.oasdiff.com/docs. All functions are safe for
// concurrent use; they end when their context does.
package breaking
