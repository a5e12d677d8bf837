package inbox_test

import (
	"testing"

	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/pgxdb"
)

func openPostgres(t testing.TB, url string) *sqldb.DB {
	t.Helper()
	db, err := pgxdb.Open(t.Context(), url, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}
