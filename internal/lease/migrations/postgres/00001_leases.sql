-- +goose Up
CREATE TABLE napkin_nodes (
	node    TEXT   NOT NULL PRIMARY KEY,
	grp     TEXT   NOT NULL,
	expires BIGINT NOT NULL
) WITH (fillfactor = 50); -- rewritten every few seconds: leave room for HOT updates

CREATE TABLE napkin_leases (
	grp   TEXT   NOT NULL,
	name  TEXT   NOT NULL,
	node  TEXT   NOT NULL,
	epoch BIGINT NOT NULL,
	PRIMARY KEY (grp, name)
);

-- +goose Down
DROP TABLE napkin_leases;
DROP TABLE napkin_nodes;
