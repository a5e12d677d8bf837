-- +goose Up
-- SQLite has one writer at a time, so the order of ids is the order of commits.
CREATE TABLE napkin_outbox (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    part       INTEGER NOT NULL,
    topic      TEXT    NOT NULL,
    key        TEXT    NOT NULL,
    key_seq    BIGINT  NOT NULL,
    event_id   TEXT    NOT NULL,
    attributes BLOB    NOT NULL,
    data       BLOB    NOT NULL,
    created    BIGINT  NOT NULL
);

CREATE TABLE napkin_outbox_key (
    topic TEXT   NOT NULL,
    key   TEXT   NOT NULL,
    seq   BIGINT NOT NULL,
    PRIMARY KEY (topic, key)
) WITHOUT ROWID;

CREATE TABLE napkin_outbox_relay (
    name      TEXT   NOT NULL PRIMARY KEY,
    cursor_id BIGINT NOT NULL,
    trimmed   BIGINT NOT NULL,
    epoch     BIGINT NOT NULL
);
INSERT INTO napkin_outbox_relay (name, cursor_id, trimmed, epoch) VALUES ('outbox', 0, 0, 0);

-- Stays empty on SQLite.
CREATE TABLE napkin_outbox_hole (
    lo    BIGINT NOT NULL PRIMARY KEY,
    hi    BIGINT NOT NULL,
    bound BIGINT NOT NULL
);

CREATE TABLE napkin_outbox_stalled (
    id       BIGINT NOT NULL PRIMARY KEY,
    topic    TEXT   NOT NULL,
    key      TEXT   NOT NULL,
    attempts BIGINT NOT NULL,
    retry_at BIGINT NOT NULL,
    cause    TEXT   NOT NULL
);

CREATE TABLE napkin_outbox_stream (
    topic    TEXT   NOT NULL PRIMARY KEY,
    identity TEXT   NOT NULL,
    high_seq BIGINT NOT NULL
);
CREATE TABLE napkin_outbox_checkpoint (
    topic     TEXT   NOT NULL,
    seq       BIGINT NOT NULL,
    cursor_id BIGINT NOT NULL,
    created   BIGINT NOT NULL,
    PRIMARY KEY (topic, seq)
);

-- +goose Down
DROP TABLE napkin_outbox_checkpoint;
DROP TABLE napkin_outbox_stream;
DROP TABLE napkin_outbox_stalled;
DROP TABLE napkin_outbox_hole;
DROP TABLE napkin_outbox_relay;
DROP TABLE napkin_outbox_key;
DROP TABLE napkin_outbox;
