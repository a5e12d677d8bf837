-- +goose Up
CREATE TABLE messages (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    channel     TEXT    NOT NULL,
    message_id  TEXT    NOT NULL,
    recipient   TEXT    NOT NULL,
    subject     TEXT    NOT NULL,
    body        TEXT    NOT NULL,
    received_at BIGINT  NOT NULL
);
CREATE INDEX messages_message_id ON messages (message_id);

-- +goose Down
DROP TABLE messages;
