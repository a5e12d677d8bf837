-- +goose Up
CREATE TABLE napkin_sagas (
	id          TEXT   NOT NULL PRIMARY KEY,
	name        TEXT   NOT NULL,
	version     BIGINT NOT NULL,
	status      TEXT   NOT NULL,
	revision    BIGINT NOT NULL,
	owner       TEXT   NOT NULL, -- the node with calls in flight, '' for none
	epoch       BIGINT NOT NULL, -- the owner's fencing token
	state       BYTEA  NOT NULL,
	progress    BYTEA  NOT NULL,
	due_at      BIGINT,          -- microseconds since 1970; NULL is never
	deadline_at BIGINT,
	created_at  BIGINT NOT NULL,
	updated_at  BIGINT NOT NULL,
	ended_at    BIGINT
);
CREATE INDEX napkin_sagas_due ON napkin_sagas (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX napkin_sagas_owned ON napkin_sagas (owner) WHERE owner <> '';
CREATE INDEX napkin_sagas_open ON napkin_sagas (status, created_at) WHERE ended_at IS NULL;
CREATE INDEX napkin_sagas_created ON napkin_sagas (created_at);

CREATE TABLE napkin_saga_history (
	saga_id  TEXT   NOT NULL,
	revision BIGINT NOT NULL,
	idx      BIGINT NOT NULL,
	at       BIGINT NOT NULL,
	kind     TEXT   NOT NULL,
	step     TEXT   NOT NULL,
	attempt  BIGINT NOT NULL,
	detail   TEXT   NOT NULL,
	actor    TEXT   NOT NULL,
	PRIMARY KEY (saga_id, revision, idx)
);

CREATE TABLE napkin_saga_messages (
	saga_id TEXT   NOT NULL,
	kind    TEXT   NOT NULL,
	id      TEXT   NOT NULL,
	name    TEXT   NOT NULL,
	body    BYTEA  NOT NULL,
	at      BIGINT NOT NULL,
	PRIMARY KEY (saga_id, kind, id)
);

-- +goose Down
DROP TABLE napkin_saga_messages;
DROP TABLE napkin_saga_history;
DROP TABLE napkin_sagas;
