-- +goose Up
-- The ids of each partition are a sequence of their own, so that an id which is
-- not there yet concerns the relay of that partition only.
-- +goose StatementBegin
DO $$ BEGIN
    FOR part IN 0..63 LOOP
        EXECUTE format('CREATE SEQUENCE napkin_outbox_seq_%s AS BIGINT CACHE 1', to_char(part, 'FM00'));
    END LOOP;
END $$;
-- +goose StatementEnd

-- The rows: inserted, never updated. Writers choose one of the four segments by
-- their clock; a segment that was published long ago is emptied by TRUNCATE.
CREATE TABLE napkin_outbox_0 (
    part       SMALLINT NOT NULL,
    id         BIGINT   NOT NULL,
    topic      TEXT     NOT NULL,
    key        TEXT     NOT NULL,
    key_seq    BIGINT   NOT NULL,
    event_id   TEXT     NOT NULL,
    attributes BYTEA    NOT NULL,
    data       BYTEA    NOT NULL,
    created    BIGINT   NOT NULL,
    PRIMARY KEY (part, id)
);
CREATE TABLE napkin_outbox_1 (LIKE napkin_outbox_0 INCLUDING ALL);
CREATE TABLE napkin_outbox_2 (LIKE napkin_outbox_0 INCLUDING ALL);
CREATE TABLE napkin_outbox_3 (LIKE napkin_outbox_0 INCLUDING ALL);
CREATE VIEW napkin_outbox AS
    SELECT * FROM napkin_outbox_0 UNION ALL SELECT * FROM napkin_outbox_1
    UNION ALL SELECT * FROM napkin_outbox_2 UNION ALL SELECT * FROM napkin_outbox_3;

-- Reads up to most rows of each range of ids, of one topic or ('') of all, and of
-- the topics in passed their ids only: one index scan for each range and segment,
-- merged by id. It is a function because its plan must not depend on statistics,
-- which are wrong for a segment that has just begun to fill.
-- +goose StatementBegin
CREATE FUNCTION napkin_outbox_read(parts SMALLINT[], los BIGINT[], his BIGINT[], most INT, passed TEXT[], only_topic TEXT)
RETURNS TABLE (part SMALLINT, id BIGINT, topic TEXT, key TEXT, key_seq BIGINT, attributes BYTEA, data BYTEA)
LANGUAGE plpgsql STABLE
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET plan_cache_mode = force_generic_plan SET jit = off
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY SELECT o.part, o.id, o.topic, o.key, o.key_seq,
        CASE WHEN o.topic <> ALL(passed) THEN o.attributes END, CASE WHEN o.topic <> ALL(passed) THEN o.data END
    FROM unnest(parts, los, his) AS s (part, lo, hi) CROSS JOIN LATERAL (
        SELECT * FROM napkin_outbox o
        WHERE o.part = s.part AND o.id >= s.lo AND o.id <= s.hi AND (only_topic = '' OR o.topic = only_topic)
        ORDER BY o.part, o.id LIMIT most) AS o;
END $$;
-- +goose StatementEnd

-- Since when all that a segment holds is published, up to the id in high for
-- each partition; 0 where that is not known.
CREATE TABLE napkin_outbox_segment (
    segment   SMALLINT NOT NULL PRIMARY KEY,
    published BIGINT   NOT NULL,
    high      TEXT     NOT NULL,
    emptied   BIGINT   NOT NULL
);
INSERT INTO napkin_outbox_segment (segment, published, high, emptied) SELECT n, 0, '', 0 FROM generate_series(0, 3) AS n;

-- Counts the events of each key. Its row lock also makes the writers of one key
-- take turns, so the ids of a key are in the order of its commits.
CREATE TABLE napkin_outbox_key (
    topic TEXT   NOT NULL,
    key   TEXT   NOT NULL,
    seq   BIGINT NOT NULL,
    PRIMARY KEY (topic, key)
) WITH (fillfactor = 70);

-- How far each block of partitions is published, and by which of its successive
-- relays: a JSON list of one id for each partition from first on, and for each
-- topic the broker's log behind it as far as it is known to hold our events.
CREATE TABLE napkin_outbox_block (
    first   SMALLINT NOT NULL PRIMARY KEY,
    size    SMALLINT NOT NULL,
    epoch   BIGINT   NOT NULL,
    cursors TEXT     NOT NULL,
    streams TEXT     NOT NULL
) WITH (fillfactor = 20); -- rewritten many times a second: leave room for HOT updates
INSERT INTO napkin_outbox_block (first, size, epoch, cursors, streams)
    SELECT 0, 64, 0, json_agg(0)::text, '{}' FROM generate_series(1, 64);
CREATE VIEW napkin_outbox_cursor AS
    SELECT (b.first + c.place - 1)::smallint AS part, c.id::bigint AS cursor_id
    FROM napkin_outbox_block b CROSS JOIN LATERAL json_array_elements_text(b.cursors::json) WITH ORDINALITY AS c(id, place);

-- Ids that a partition's cursor passed while no row was visible for them.
CREATE TABLE napkin_outbox_hole (
    part  SMALLINT NOT NULL,
    lo    BIGINT   NOT NULL,
    hi    BIGINT   NOT NULL,
    bound BIGINT   NOT NULL,
    PRIMARY KEY (part, lo)
);

-- Rows that the cursor passed although they could not be published, and the
-- rows behind them with the same key.
CREATE TABLE napkin_outbox_stalled (
    part     SMALLINT NOT NULL,
    id       BIGINT   NOT NULL,
    topic    TEXT     NOT NULL,
    key      TEXT     NOT NULL,
    attempts BIGINT   NOT NULL,
    retry_at BIGINT   NOT NULL,
    cause    TEXT     NOT NULL,
    PRIMARY KEY (part, id)
);

-- Topics that fell behind the cursor as a whole, each with a cursor of its own.
CREATE TABLE napkin_outbox_behind (
    part      SMALLINT NOT NULL,
    topic     TEXT     NOT NULL,
    cursor_id BIGINT   NOT NULL,
    PRIMARY KEY (part, topic)
);

-- Up to these ids, all of a block's events of the topic lie at or below seq.
CREATE TABLE napkin_outbox_checkpoint (
    first   SMALLINT NOT NULL,
    size    SMALLINT NOT NULL,
    topic   TEXT     NOT NULL,
    seq     BIGINT   NOT NULL,
    cursors TEXT     NOT NULL,
    created BIGINT   NOT NULL,
    PRIMARY KEY (first, size, topic, seq)
);

-- +goose Down
DROP TABLE napkin_outbox_checkpoint;
DROP TABLE napkin_outbox_behind;
DROP TABLE napkin_outbox_stalled;
DROP TABLE napkin_outbox_hole;
DROP VIEW napkin_outbox_cursor;
DROP TABLE napkin_outbox_block;
DROP TABLE napkin_outbox_key;
DROP TABLE napkin_outbox_segment;
DROP FUNCTION napkin_outbox_read;
DROP VIEW napkin_outbox;
DROP TABLE napkin_outbox_3;
DROP TABLE napkin_outbox_2;
DROP TABLE napkin_outbox_1;
DROP TABLE napkin_outbox_0;
-- +goose StatementBegin
DO $$ BEGIN
    FOR part IN 0..63 LOOP
        EXECUTE format('DROP SEQUENCE napkin_outbox_seq_%s', to_char(part, 'FM00'));
    END LOOP;
END $$;
-- +goose StatementEnd
