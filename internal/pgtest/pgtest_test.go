package pgtest_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/pgxdb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main(m)) }

func TestDatabasesAreApart(t *testing.T) {
	a, b := pgtest.DB(t), pgtest.DB(t)
	ctx := context.Background()
	if _, err := a.Write.ExecContext(ctx, `CREATE TABLE only_a (n BIGINT)`); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Write.ExecContext(ctx, `SELECT * FROM only_a`); sqldb.SQLState(err) != "42P01" {
		t.Fatalf("a table of another test's database is visible: %v", err)
	}
	var level string
	if err := a.Read.QueryRowContext(ctx, `SHOW wal_level`).Scan(&level); err != nil || level != "logical" {
		t.Fatalf("wal_level %q, %v", level, err)
	}
}

func TestServerSurvivesRestartAndCrash(t *testing.T) {
	s, err := pgtest.Start("", 0)
	if errors.Is(err, pgtest.ErrNotInstalled) && !pgtest.Required("postgres") {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		dir := s.Dir()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("Close left %s behind: %v", dir, err)
		}
	}()
	ctx := context.Background()
	if err := s.CreateDatabase(ctx, "keep"); err != nil {
		t.Fatal(err)
	}
	db, err := pgxdb.Open(ctx, s.URL("keep"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Write.ExecContext(ctx, `CREATE TABLE kept (n BIGINT)`); err != nil {
		t.Fatal(err)
	}
	for i, end := range []func() error{s.Stop, s.Crash} {
		if _, err := db.Write.ExecContext(ctx, `INSERT INTO kept VALUES ($1)`, i); err != nil {
			t.Fatal(err)
		}
		if err := end(); err != nil {
			t.Fatal(err)
		}
		if _, err := db.Write.ExecContext(ctx, `SELECT 1`); !sqldb.IsUnavailable(err) {
			t.Fatalf("a stopped server is not reported as unavailable: %v", err)
		}
		if err := s.Restart(); err != nil {
			t.Fatal(err)
		}
		var n int
		if err := db.Read.QueryRowContext(ctx, `SELECT count(*) FROM kept`).Scan(&n); err != nil || n != i+1 {
			t.Fatalf("after the restart: %d rows, %v; want %d", n, err, i+1)
		}
	}
}

// The server ends with the process that started it, even a killed one.
func TestServerEndsWithAKilledProcess(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the parent-death signal is Linux's")
	}
	if _, err := pgtest.Find(); err != nil && !pgtest.Required("postgres") {
		t.Skip(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestHelperStartsAServer$")
	cmd.Env = append(os.Environ(), "NAPKIN_PGTEST_CHILD=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var url string
	for sc := bufio.NewScanner(out); sc.Scan(); {
		if u, ok := strings.CutPrefix(sc.Text(), "url "); ok {
			url = u
			break
		}
	}
	if url == "" {
		t.Fatal("the child started no server")
	}
	db, err := pgxdb.Open(t.Context(), url, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed: that is no news
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for db.Ping(t.Context()) == nil {
		if time.Now().After(deadline) {
			t.Fatal("the server outlives the process that started it")
		}
		<-tick.C
	}
	// The next server sweeps up what it left.
	s, err := pgtest.Start("", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	left, err := filepath.Glob(fmt.Sprintf("/tmp/np-pg-%d-*", cmd.Process.Pid))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestHelperStartsAServer is the process that is killed.
func TestHelperStartsAServer(t *testing.T) {
	if os.Getenv("NAPKIN_PGTEST_CHILD") == "" {
		t.Skip("runs in a child process only")
	}
	s, err := pgtest.Start("", 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("url " + s.URL("postgres"))
	select {}
}
