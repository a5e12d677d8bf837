-- +goose Up
CREATE TABLE accounts (
    id            TEXT    NOT NULL PRIMARY KEY,
    email         TEXT    NOT NULL UNIQUE,
    name          TEXT    NOT NULL,
    password_hash TEXT    NOT NULL,
    operator      INTEGER NOT NULL,
    created_at    BIGINT  NOT NULL
);

-- Sign-ins under way. A row outlives its use until it expires, so that a second
-- use of its code is recognised.
CREATE TABLE sign_ins (
    id               TEXT   NOT NULL PRIMARY KEY,
    client_id        TEXT   NOT NULL,
    redirect_uri     TEXT   NOT NULL,
    state            TEXT   NOT NULL,
    nonce            TEXT   NOT NULL,
    scopes           TEXT   NOT NULL,
    response_type    TEXT   NOT NULL,
    response_mode    TEXT   NOT NULL,
    challenge        TEXT   NOT NULL,
    browser_hash     TEXT   NOT NULL,
    user_id          TEXT   NOT NULL,
    authenticated_at BIGINT NOT NULL,
    created_at       BIGINT NOT NULL,
    expires_at       BIGINT NOT NULL,
    code_hash        TEXT   UNIQUE,
    code_expires_at  BIGINT NOT NULL DEFAULT 0,
    code_used_at     BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX sign_ins_expires_at ON sign_ins (expires_at);

CREATE TABLE refresh_tokens (
    hash             TEXT   NOT NULL PRIMARY KEY,
    family           TEXT   NOT NULL,
    user_id          TEXT   NOT NULL,
    client_id        TEXT   NOT NULL,
    scopes           TEXT   NOT NULL,
    authenticated_at BIGINT NOT NULL,
    issued_at        BIGINT NOT NULL,
    expires_at       BIGINT NOT NULL,
    used_at          BIGINT NOT NULL
);
CREATE INDEX refresh_tokens_family ON refresh_tokens (family);
CREATE INDEX refresh_tokens_user ON refresh_tokens (user_id, client_id);
CREATE INDEX refresh_tokens_expires_at ON refresh_tokens (expires_at);

-- The private part is sealed with the service's key.
CREATE TABLE signing_keys (
    generation BIGINT NOT NULL PRIMARY KEY,
    id         TEXT   NOT NULL UNIQUE,
    sealed     TEXT   NOT NULL,
    created_at BIGINT NOT NULL
);

-- +goose Down
DROP TABLE signing_keys;
DROP TABLE refresh_tokens;
DROP TABLE sign_ins;
DROP TABLE accounts;
