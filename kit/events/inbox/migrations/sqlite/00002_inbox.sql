-- +goose Up
CREATE TABLE napkin_inbox (
    consumer TEXT   NOT NULL,
    event_id TEXT   NOT NULL,
    handled  BIGINT NOT NULL,
    PRIMARY KEY (consumer, event_id)
);

-- Failures that handlers reported, of events not handled yet.
CREATE TABLE napkin_inbox_attempt (
    consumer TEXT   NOT NULL,
    event_id TEXT   NOT NULL,
    attempts BIGINT NOT NULL,
    cause    TEXT   NOT NULL,
    PRIMARY KEY (consumer, event_id)
);

-- A key behind a dead letter. Its row lock orders new events of the key against
-- those that are redriven.
CREATE TABLE napkin_parked_key (
    consumer TEXT   NOT NULL,
    topic    TEXT   NOT NULL,
    key      TEXT   NOT NULL,
    draining BIGINT NOT NULL,
    since    BIGINT NOT NULL,
    PRIMARY KEY (consumer, topic, key)
);

-- Dead letters, and the events parked behind them, in their order.
CREATE TABLE napkin_dead_letter (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    consumer   TEXT   NOT NULL,
    topic      TEXT   NOT NULL,
    key        TEXT   NOT NULL,
    event_id   TEXT   NOT NULL,
    attributes BLOB   NOT NULL,
    data       BLOB   NOT NULL,
    state      TEXT   NOT NULL,
    cause      TEXT   NOT NULL,
    attempts   BIGINT NOT NULL,
    created    BIGINT NOT NULL,
    resolved   BIGINT NOT NULL
);
CREATE INDEX napkin_dead_letter_open ON napkin_dead_letter (consumer, topic, key, id)
    WHERE state IN ('dead', 'parked', 'redrive');

-- +goose Down
DROP TABLE napkin_dead_letter;
DROP TABLE napkin_parked_key;
DROP TABLE napkin_inbox_attempt;
DROP TABLE napkin_inbox;
