-- +goose Up
-- The leases of internal/lease, which several of Napkin's packages share.
CREATE TABLE IF NOT EXISTS napkin_nodes (
	node    TEXT   NOT NULL PRIMARY KEY,
	grp     TEXT   NOT NULL,
	expires BIGINT NOT NULL
) WITH (fillfactor = 50); -- rewritten every few seconds: leave room for HOT updates

CREATE TABLE IF NOT EXISTS napkin_leases (
	grp   TEXT   NOT NULL,
	name  TEXT   NOT NULL,
	node  TEXT   NOT NULL,
	epoch BIGINT NOT NULL,
	PRIMARY KEY (grp, name)
);

-- +goose Down
-- The tables stay: other packages may use them.
SELECT 1;
