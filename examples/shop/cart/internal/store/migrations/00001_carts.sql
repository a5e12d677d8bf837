-- +goose Up
CREATE TABLE carts (
    user_id    TEXT   NOT NULL PRIMARY KEY,
    coupon     TEXT   NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE TABLE cart_items (
    user_id    TEXT    NOT NULL REFERENCES carts (user_id) ON DELETE CASCADE,
    product_id TEXT    NOT NULL,
    quantity   INTEGER NOT NULL CHECK (quantity > 0),
    added_at   BIGINT  NOT NULL,
    PRIMARY KEY (user_id, product_id)
);

-- +goose Down
DROP TABLE cart_items;
DROP TABLE carts;
