-- +goose Up
-- SQLite has one writer at a time, so the order of ids is the order of commits:
-- there is one order, that of part 0, and no holes.
CREATE TABLE napkin_outbox (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    part       INTEGER NOT NULL DEFAULT 0,
    topic      TEXT    NOT NULL,
    key        TEXT    NOT NULL,
    key_seq    BIGINT  NOT NULL,
    event_id   TEXT    NOT NULL,
    attributes BLOB    NOT NULL,
    data       BLOB    NOT NULL,
    created    BIGINT  NOT NULL
);

-- Row 0: since when all rows up to the id in high are published, and when rows
-- were last removed.
CREATE TABLE napkin_outbox_segment (
    segment   INTEGER NOT NULL PRIMARY KEY,
    published BIGINT  NOT NULL,
    high      TEXT    NOT NULL,
    emptied   BIGINT  NOT NULL
);
INSERT INTO napkin_outbox_segment (segment, published, high, emptied) VALUES (0, 0, '', 0);

CREATE TABLE napkin_outbox_key (
    topic TEXT   NOT NULL,
    key   TEXT   NOT NULL,
    seq   BIGINT NOT NULL,
    PRIMARY KEY (topic, key)
) WITHOUT ROWID;

CREATE TABLE napkin_outbox_block (
    first   INTEGER NOT NULL PRIMARY KEY,
    size    INTEGER NOT NULL,
    epoch   BIGINT  NOT NULL,
    cursors TEXT    NOT NULL,
    streams TEXT    NOT NULL
);
INSERT INTO napkin_outbox_block (first, size, epoch, cursors, streams) VALUES (0, 1, 0, '[0]', '{}');
CREATE VIEW napkin_outbox_cursor AS
    SELECT b.first + c.key AS part, c.value AS cursor_id FROM napkin_outbox_block b, json_each(b.cursors) AS c;

-- Stays empty on SQLite.
CREATE TABLE napkin_outbox_hole (
    part  INTEGER NOT NULL,
    lo    BIGINT  NOT NULL,
    hi    BIGINT  NOT NULL,
    bound BIGINT  NOT NULL,
    PRIMARY KEY (part, lo)
) WITHOUT ROWID;

CREATE TABLE napkin_outbox_stalled (
    part     INTEGER NOT NULL,
    id       BIGINT  NOT NULL,
    topic    TEXT    NOT NULL,
    key      TEXT    NOT NULL,
    attempts BIGINT  NOT NULL,
    retry_at BIGINT  NOT NULL,
    cause    TEXT    NOT NULL,
    PRIMARY KEY (part, id)
) WITHOUT ROWID;

CREATE TABLE napkin_outbox_behind (
    part      INTEGER NOT NULL,
    topic     TEXT    NOT NULL,
    cursor_id BIGINT  NOT NULL,
    PRIMARY KEY (part, topic)
) WITHOUT ROWID;

CREATE TABLE napkin_outbox_checkpoint (
    first   INTEGER NOT NULL,
    size    INTEGER NOT NULL,
    topic   TEXT    NOT NULL,
    seq     BIGINT  NOT NULL,
    cursors TEXT    NOT NULL,
    created BIGINT  NOT NULL,
    PRIMARY KEY (first, size, topic, seq)
) WITHOUT ROWID;

-- +goose Down
DROP TABLE napkin_outbox_checkpoint;
DROP TABLE napkin_outbox_behind;
DROP TABLE napkin_outbox_stalled;
DROP TABLE napkin_outbox_hole;
DROP VIEW napkin_outbox_cursor;
DROP TABLE napkin_outbox_block;
DROP TABLE napkin_outbox_key;
DROP TABLE napkin_outbox_segment;
DROP TABLE napkin_outbox;
