-- +goose Up
CREATE TABLE profiles (
    id           TEXT    NOT NULL PRIMARY KEY,
    key_id       TEXT    NOT NULL,
    personal     TEXT    NOT NULL, -- sealed: e-mail address, name, phone, address
    prefer_email INTEGER NOT NULL,
    prefer_sms   INTEGER NOT NULL,
    prefer_push  INTEGER NOT NULL,
    created_at   BIGINT  NOT NULL,
    updated_at   BIGINT  NOT NULL
);
CREATE INDEX profiles_key_id ON profiles (key_id);

-- +goose Down
DROP TABLE profiles;
