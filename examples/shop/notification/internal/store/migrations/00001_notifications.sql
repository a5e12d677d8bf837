-- +goose Up
CREATE TABLE contacts (
    user_id    TEXT    NOT NULL PRIMARY KEY,
    -- e-mail, name and phone, sealed with AES-256-GCM
    sealed     TEXT    NOT NULL,
    want_email INTEGER NOT NULL,
    want_sms   INTEGER NOT NULL,
    want_push  INTEGER NOT NULL
);

-- Every ending that was heard of, once; decided is 0 while its customer's contact is not known yet.
CREATE TABLE outcomes (
    order_id    TEXT    NOT NULL,
    kind        TEXT    NOT NULL,
    user_id     TEXT    NOT NULL,
    reason      TEXT    NOT NULL,
    total_minor BIGINT  NOT NULL,
    currency    TEXT    NOT NULL,
    decided     INTEGER NOT NULL,
    PRIMARY KEY (order_id, kind)
);
CREATE INDEX outcomes_undecided ON outcomes (user_id) WHERE decided = 0;

CREATE TABLE notifications (
    id         TEXT    NOT NULL PRIMARY KEY,
    order_id   TEXT    NOT NULL,
    user_id    TEXT    NOT NULL,
    kind       TEXT    NOT NULL,
    channel    TEXT    NOT NULL,
    subject    TEXT    NOT NULL,
    -- recipient and text, sealed
    sealed     TEXT    NOT NULL,
    status     TEXT    NOT NULL,
    attempts   INTEGER NOT NULL,
    -- when a pending one is due; while one is being sent, when another worker may take it over
    due_at     BIGINT  NOT NULL,
    created_at BIGINT  NOT NULL,
    sent_at    BIGINT  NOT NULL,
    UNIQUE (order_id, kind, channel)
);
CREATE INDEX notifications_due ON notifications (due_at) WHERE status = 'pending';
CREATE INDEX notifications_newest ON notifications (created_at, id);

-- +goose Down
DROP TABLE notifications;
DROP TABLE outcomes;
DROP TABLE contacts;
