-- +goose Up
CREATE TABLE products (
    id          TEXT    NOT NULL PRIMARY KEY,
    name        TEXT    NOT NULL,
    description TEXT    NOT NULL,
    category    TEXT    NOT NULL,
    price_minor INTEGER NOT NULL CHECK (price_minor > 0),
    in_stock    INTEGER NOT NULL,
    revision    INTEGER NOT NULL,
    updated_at  BIGINT  NOT NULL
);
-- The search index of each replica follows the table by this column.
CREATE INDEX products_updated_at ON products (updated_at);

-- +goose Down
DROP TABLE products;
