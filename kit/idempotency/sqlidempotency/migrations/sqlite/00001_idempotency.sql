-- +goose Up
CREATE TABLE napkin_idempotency (
	scope        TEXT    NOT NULL,
	operation    TEXT    NOT NULL,
	key          TEXT    NOT NULL,
	fingerprint  BLOB    NOT NULL,
	code         INTEGER NOT NULL,
	header       BLOB    NOT NULL,
	content_type TEXT    NOT NULL,
	body         BLOB    NOT NULL,
	expires      BIGINT  NOT NULL,
	PRIMARY KEY (scope, operation, key)
);
CREATE INDEX napkin_idempotency_expires ON napkin_idempotency (expires);

CREATE TABLE napkin_idempotency_leased (
	scope        TEXT     NOT NULL,
	operation    TEXT     NOT NULL,
	key          TEXT     NOT NULL,
	fingerprint  BLOB     NOT NULL,
	done         INTEGER  NOT NULL, -- 0: claimed, 1: completed
	token        TEXT     NOT NULL,
	lease_until  BIGINT   NOT NULL,
	code         INTEGER  NOT NULL,
	header       BLOB     NOT NULL,
	content_type TEXT     NOT NULL,
	body         BLOB     NOT NULL,
	body_omitted INTEGER  NOT NULL,
	expires      BIGINT   NOT NULL,
	PRIMARY KEY (scope, operation, key)
);
CREATE INDEX napkin_idempotency_leased_expires ON napkin_idempotency_leased (expires);

-- +goose Down
DROP TABLE napkin_idempotency_leased;
DROP TABLE napkin_idempotency;
