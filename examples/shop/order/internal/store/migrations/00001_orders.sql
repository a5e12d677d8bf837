-- +goose Up
CREATE TABLE orders (
    id             TEXT    PRIMARY KEY,
    user_id        TEXT    NOT NULL,
    method_id      TEXT    NOT NULL,
    status         TEXT    NOT NULL,
    items          TEXT    NOT NULL,
    total          BIGINT  NOT NULL CHECK (total > 0),
    discount       BIGINT  NOT NULL,
    currency       TEXT    NOT NULL,
    failure_reason TEXT    NOT NULL,
    from_cart      BOOLEAN NOT NULL,
    refunding      BOOLEAN NOT NULL,
    cancel_requested BOOLEAN NOT NULL,
    revision       BIGINT  NOT NULL,
    created_at     BIGINT  NOT NULL,
    updated_at     BIGINT  NOT NULL
);
CREATE INDEX orders_user ON orders (user_id, created_at, id);
CREATE INDEX orders_created ON orders (created_at, id);
CREATE INDEX orders_status ON orders (status, created_at, id);

-- +goose Down
DROP TABLE orders;
