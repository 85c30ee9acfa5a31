// Package mariadbtest runs a private MariaDB for the tests of one package: a new data folder, a unix socket, no network.
package mariadbtest

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/twotier/twotier/services/internal/testreq"
)

// Generous, because a loaded machine must not fail a test.
const patience = 60 * time.Second

// Server is the MariaDB of this test binary.
type Server struct {
	folder    string
	installed bool
	command   *exec.Cmd
	exited    chan struct{}
	out       bytes.Buffer // of the current run; read after it has ended
	databases atomic.Int64
}

var server Server

// Main runs the tests of a package and ends the server, if one was started. Call it from TestMain.
func Main(m *testing.M) {
	code := m.Run()
	if err := server.end(); err != nil {
		fmt.Fprintln(os.Stderr, "mariadbtest:", err)
		code = 1
	}
	os.Exit(code)
}

// Start answers the server, started when it does not run. Tests of one package share it and must not be parallel to one
// that stops it.
func Start(t testing.TB) *Server {
	t.Helper()
	for _, program := range []string{"mariadbd", "mariadb-install-db"} {
		if _, err := exec.LookPath(find(program)); err != nil {
			testreq.Missing(t, program+" (Debian package mariadb-server)")
		}
	}
	if err := server.start(); err != nil {
		t.Fatal(err)
	}
	return &server
}

// find looks where Debian puts programs for the administrator, which is not on everybody's PATH.
func find(program string) string {
	if p, err := exec.LookPath(program); err == nil {
		return p
	}
	return "/usr/sbin/" + program
}

// Socket is the path of the unix socket.
func (s *Server) Socket() string { return filepath.Join(s.folder, "sock") }

// User is the name of the database's administrator, who needs no password.
func (s *Server) User() string { return "root" }

// Database makes a new, empty database and answers its name; latin1 as its default, so that a table or connection which
// does not ask for utf8mb4 is noticed.
func (s *Server) Database(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("test%d", s.databases.Add(1))
	s.Exec(t, "CREATE DATABASE "+name+" CHARACTER SET latin1")
	return name
}

// Exec runs one statement as the administrator.
func (s *Server) Exec(t testing.TB, statement string) {
	t.Helper()
	db, err := s.open()
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func (s *Server) open() (*sql.DB, error) {
	c := mysql.NewConfig()
	c.Net, c.Addr, c.User, c.Logger = "unix", s.Socket(), s.User(), &mysql.NopLogger{}
	connector, err := mysql.NewConnector(c)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(connector), nil
}

// Stop ends the server; its data stay. Start it again with Start.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
}

func (s *Server) start() (err error) {
	if s.command != nil {
		return nil
	}
	var as []string // mariadbd refuses to run as root unless told
	if u, err := user.Current(); err == nil && u.Uid == "0" {
		as = []string{"--user=root"}
	}
	if !s.installed {
		if s.folder, err = os.MkdirTemp("", "mariadbtest"); err != nil {
			return err
		}
		install := exec.Command(find("mariadb-install-db"), append([]string{"--no-defaults", "--datadir=" + filepath.Join(s.folder, "data"),
			"--auth-root-authentication-method=normal", "--skip-test-db"}, as...)...)
		if out, err := install.CombinedOutput(); err != nil {
			return fmt.Errorf("mariadb-install-db: %w\n%s", err, out)
		}
		s.installed = true
	}
	s.out.Reset()
	// No sync to the disk on every commit: what a test needs to survive is the end of the process, not of the machine.
	s.command = exec.Command(find("mariadbd"), append([]string{"--no-defaults", "--datadir=" + filepath.Join(s.folder, "data"),
		"--socket=" + s.Socket(), "--pid-file=" + filepath.Join(s.folder, "pid"), "--skip-networking", "--innodb-flush-log-at-trx-commit=0",
		"--innodb-buffer-pool-size=32M", "--performance-schema=OFF"}, as...)...)
	s.command.Stdout, s.command.Stderr = &s.out, &s.out
	s.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.command.Start(); err != nil {
		s.command = nil
		return err
	}
	exited := make(chan struct{})
	s.exited = exited
	go func(c *exec.Cmd) { // ends with the process, which stop waits for
		_ = c.Wait()
		close(exited)
	}(s.command)
	return s.await()
}

// await waits until the server answers.
func (s *Server) await() error {
	db, err := s.open()
	if err != nil {
		return err
	}
	defer db.Close()
	deadline := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if err = db.Ping(); err == nil {
			return nil
		}
		select {
		case <-s.exited:
			s.command = nil
			return fmt.Errorf("mariadbd ended at its start\n%s", s.out.String())
		case <-deadline:
			return errors.Join(fmt.Errorf("mariadbd does not answer: %w", err), s.stop())
		case <-tick.C:
		}
	}
}

func (s *Server) stop() error {
	if s.command == nil {
		return nil
	}
	defer func() { s.command = nil }()
	if err := s.command.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-s.exited:
		return nil
	case <-time.After(patience):
		_ = s.command.Process.Kill() // it has had its time
		<-s.exited
		return errors.New("mariadbd had to be killed")
	}
}

func (s *Server) end() error {
	err := s.stop()
	if s.folder != "" {
		err = errors.Join(err, os.RemoveAll(s.folder))
	}
	return err
}
