-- +goose Up
CREATE TABLE authorizations (
    id         TEXT   PRIMARY KEY,
    reference  TEXT   NOT NULL,
    amount     BIGINT NOT NULL,
    currency   TEXT   NOT NULL,
    behaviour  TEXT   NOT NULL,
    captured   BIGINT NOT NULL DEFAULT 0,
    refunded   BIGINT NOT NULL DEFAULT 0,
    voided     BOOLEAN NOT NULL DEFAULT FALSE,
    -- When the capture takes effect; later than now for a card that captures late.
    captured_at BIGINT NOT NULL DEFAULT 0,
    CHECK (captured BETWEEN 0 AND amount),
    CHECK (refunded BETWEEN 0 AND captured)
);
CREATE INDEX authorizations_reference ON authorizations (reference);

-- One row for each idempotency key: what was asked and what came of it.
CREATE TABLE operations (
    key              TEXT   PRIMARY KEY,
    kind             TEXT   NOT NULL,
    fingerprint      TEXT   NOT NULL,
    authorization_id TEXT   NOT NULL,
    reference        TEXT   NOT NULL,
    amount           BIGINT NOT NULL,
    currency         TEXT   NOT NULL,
    status           TEXT   NOT NULL,
    reason           TEXT   NOT NULL,
    created_at       BIGINT NOT NULL,
    effective_at     BIGINT NOT NULL
);
CREATE INDEX operations_reference ON operations (reference);

-- Attempts that were answered with an error before anything was recorded.
CREATE TABLE failures (
    key   TEXT   PRIMARY KEY,
    count BIGINT NOT NULL
);

-- +goose Down
DROP TABLE failures;
DROP TABLE operations;
DROP TABLE authorizations;
