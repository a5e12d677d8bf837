-- +goose Up
-- Cards: the number is sealed by the vault (AES-256-GCM), the CVC is never kept.
-- BYTEA is SQLite's BLOB as well: a []byte keeps its type in any column.
CREATE TABLE payment_methods (
    id         TEXT   PRIMARY KEY,
    user_id    TEXT   NOT NULL,
    brand      TEXT   NOT NULL,
    last4      TEXT   NOT NULL,
    exp_month  BIGINT NOT NULL,
    exp_year   BIGINT NOT NULL,
    key_id     TEXT   NOT NULL,
    sealed     BYTEA  NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX payment_methods_user ON payment_methods (user_id, created_at);

CREATE TABLE payments (
    order_id         TEXT   PRIMARY KEY,
    user_id          TEXT   NOT NULL,
    method_id        TEXT   NOT NULL,
    amount           BIGINT NOT NULL,
    currency         TEXT   NOT NULL,
    state            TEXT   NOT NULL,
    authorize_key    TEXT   NOT NULL,
    authorization_id TEXT   NOT NULL,
    void_key         TEXT   NOT NULL,
    updated_at       BIGINT NOT NULL
);

CREATE TABLE intents (
    key        TEXT   PRIMARY KEY,
    order_id   TEXT   NOT NULL,
    kind       TEXT   NOT NULL,
    amount     BIGINT NOT NULL,
    currency   TEXT   NOT NULL,
    progress   TEXT   NOT NULL,
    reason     TEXT   NOT NULL,
    attempts   BIGINT NOT NULL,
    due_at     BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    -- The correlation and trace that the intent belongs to, as JSON.
    origin     TEXT   NOT NULL
);
CREATE INDEX intents_due ON intents (due_at) WHERE progress IN ('recorded', 'calling', 'unknown');
CREATE INDEX intents_order ON intents (order_id);

CREATE TABLE ledger (
    key      TEXT   NOT NULL,
    kind     TEXT   NOT NULL,
    order_id TEXT   NOT NULL,
    amount   BIGINT NOT NULL CHECK (amount > 0),
    currency TEXT   NOT NULL,
    at       BIGINT NOT NULL,
    PRIMARY KEY (key, kind)
);
CREATE INDEX ledger_order ON ledger (order_id);

-- +goose Down
DROP TABLE ledger;
DROP TABLE intents;
DROP TABLE payments;
DROP TABLE payment_methods;
