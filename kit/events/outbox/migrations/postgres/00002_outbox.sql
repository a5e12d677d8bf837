-- +goose Up
CREATE SEQUENCE napkin_outbox_id_seq AS BIGINT CACHE 1;

-- xid stands before id: defaults are evaluated in column order, so the
-- transaction has its xid before it takes a sequence value. The relay relies on
-- it to know when an id that it skipped can no longer appear.
CREATE TABLE napkin_outbox (
    xid        XID8     NOT NULL DEFAULT pg_current_xact_id(),
    id         BIGINT   NOT NULL DEFAULT nextval('napkin_outbox_id_seq') PRIMARY KEY,
    part       SMALLINT NOT NULL,
    topic      TEXT     NOT NULL,
    key        TEXT     NOT NULL,
    key_seq    BIGINT   NOT NULL,
    event_id   TEXT     NOT NULL,
    attributes BYTEA    NOT NULL,
    data       BYTEA    NOT NULL,
    created    BIGINT   NOT NULL
);

-- Counts the events of each key. Its row lock also makes the writers of one key
-- take turns, so the ids of a key are in the order of its commits.
CREATE TABLE napkin_outbox_key (
    topic TEXT   NOT NULL,
    key   TEXT   NOT NULL,
    seq   BIGINT NOT NULL,
    PRIMARY KEY (topic, key)
) WITH (fillfactor = 70);

CREATE TABLE napkin_outbox_relay (
    name      TEXT   NOT NULL PRIMARY KEY,
    cursor_id BIGINT NOT NULL,
    trimmed   BIGINT NOT NULL,
    epoch     BIGINT NOT NULL
);
INSERT INTO napkin_outbox_relay (name, cursor_id, trimmed, epoch) VALUES ('outbox', 0, 0, 0);

-- Ids that the cursor passed while no row was visible for them.
CREATE TABLE napkin_outbox_hole (
    lo    BIGINT NOT NULL PRIMARY KEY,
    hi    BIGINT NOT NULL,
    bound BIGINT NOT NULL
);

-- Rows that the cursor passed although they could not be published, and the
-- rows behind them with the same key.
CREATE TABLE napkin_outbox_stalled (
    id       BIGINT NOT NULL PRIMARY KEY,
    topic    TEXT   NOT NULL,
    key      TEXT   NOT NULL,
    attempts BIGINT NOT NULL,
    retry_at BIGINT NOT NULL,
    cause    TEXT   NOT NULL
);

-- The broker's log behind each topic, as far as it is known to hold our events.
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
DROP SEQUENCE napkin_outbox_id_seq;
