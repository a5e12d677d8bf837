-- +goose Up
CREATE TABLE stock (
    product_id TEXT   PRIMARY KEY,
    on_hand    BIGINT NOT NULL DEFAULT 0,
    reserved   BIGINT NOT NULL DEFAULT 0,
    received   BIGINT NOT NULL DEFAULT 0,
    adjusted   BIGINT NOT NULL DEFAULT 0,
    committed  BIGINT NOT NULL DEFAULT 0,
    restocked  BIGINT NOT NULL DEFAULT 0,
    updated_at BIGINT NOT NULL,
    -- The rules keep these already; the database has the last word.
    CHECK (reserved >= 0),
    CHECK (reserved <= on_hand),
    CHECK (on_hand + committed = received + adjusted + restocked)
);

CREATE TABLE movements (
    id         TEXT   PRIMARY KEY,
    product_id TEXT   NOT NULL,
    kind       TEXT   NOT NULL,
    quantity   BIGINT NOT NULL,
    order_id   TEXT   NOT NULL,
    reason     TEXT   NOT NULL,
    at         BIGINT NOT NULL
);
CREATE INDEX movements_product ON movements (product_id, at);

CREATE TABLE reservations (
    order_id   TEXT   PRIMARY KEY,
    status     TEXT   NOT NULL,
    lines      TEXT   NOT NULL,
    expires_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX reservations_expiring ON reservations (expires_at) WHERE status = 'active';

-- +goose Down
DROP TABLE reservations;
DROP TABLE movements;
DROP TABLE stock;
