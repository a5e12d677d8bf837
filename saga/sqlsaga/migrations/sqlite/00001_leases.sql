-- +goose Up
-- The leases of internal/lease, which several of Napkin's packages share.
CREATE TABLE IF NOT EXISTS napkin_nodes (
	node    TEXT   NOT NULL PRIMARY KEY,
	grp     TEXT   NOT NULL,
	expires BIGINT NOT NULL
);

CREATE TABLE IF NOT EXISTS napkin_leases (
	grp   TEXT   NOT NULL,
	name  TEXT   NOT NULL,
	node  TEXT   NOT NULL,
	epoch BIGINT NOT NULL,
	PRIMARY KEY (grp, name)
) WITHOUT ROWID;

-- +goose Down
-- The tables stay: other packages may use them.
SELECT 1;
