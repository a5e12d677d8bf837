-- +goose Up
-- When and why each attempt failed, as JSON, of the last ones.
ALTER TABLE napkin_inbox_attempt ADD COLUMN history TEXT NOT NULL DEFAULT '[]';
ALTER TABLE napkin_dead_letter ADD COLUMN history TEXT NOT NULL DEFAULT '[]';

-- The number of the event whose predecessor the key waits for, 0 where it waits
-- for an operator.
ALTER TABLE napkin_parked_key ADD COLUMN gap BIGINT NOT NULL DEFAULT 0;

-- The number of the last event handled of each key, for consumers that declare
-- a sequence.
CREATE TABLE napkin_inbox_seq (
    consumer TEXT   NOT NULL,
    topic    TEXT   NOT NULL,
    source   TEXT   NOT NULL,
    key      TEXT   NOT NULL,
    last     BIGINT NOT NULL,
    updated  BIGINT NOT NULL,
    PRIMARY KEY (consumer, topic, source, key)
);

-- +goose Down
DROP TABLE napkin_inbox_seq;
ALTER TABLE napkin_parked_key DROP COLUMN gap;
ALTER TABLE napkin_dead_letter DROP COLUMN history;
ALTER TABLE napkin_inbox_attempt DROP COLUMN history;
