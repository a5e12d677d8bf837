-- +goose Up
CREATE TABLE napkin_saga_commands (
	step_key   TEXT   NOT NULL PRIMARY KEY, -- of Do
	saga_id    TEXT   NOT NULL,
	msg_key    TEXT   NOT NULL,             -- order key of the replies
	do_state   TEXT   NOT NULL,             -- none, pending, ok, refused
	do_reply   BYTEA,                       -- the stored outcome
	undo_state TEXT   NOT NULL,             -- none, pending, ok, refused; any but none is the tombstone
	undo_reply BYTEA,
	created_at BIGINT NOT NULL,             -- microseconds since 1970
	updated_at BIGINT NOT NULL,
	expires_at BIGINT                       -- of Do; NULL is never
);
CREATE INDEX napkin_saga_commands_updated ON napkin_saga_commands (updated_at);

-- +goose Down
DROP TABLE napkin_saga_commands;
