package main

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	forumv1 "github.com/twotier/twotier/proto/forum/v1"
	"github.com/twotier/twotier/services/forum-backend/internal/control"
	"github.com/twotier/twotier/services/forum-backend/internal/mariadbtest"
	"github.com/twotier/twotier/services/internal/daemon"
)

func TestMain(m *testing.M) { mariadbtest.Main(m) }

// The whole program, from a file, asked through its own doors.
func TestRun(t *testing.T) {
	db := mariadbtest.Start(t)
	folder := t.TempDir()
	files := filepath.Join(folder, "files")
	if err := os.Mkdir(files, 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"key":      strings.Repeat("k", 32),
		"password": "0123456789",
		"site.yaml": strings.NewReplacer("FOLDER", folder, "ADDRESS", address, "SOCKET", db.Socket(), "DATABASE", db.Database(t), "USER", db.User()).Replace(`kind: site
name: forum
database: {address: "unix:SOCKET", name: DATABASE, user: USER}
session: {key_file: FOLDER/key, lifetime: 3600s}
servers: [{node: server2, address: "ADDRESS", files_path: FOLDER/files, upload_origin: true}]
unattended_install: {admin_name: admin, admin_email: admin@example.com, admin_password_file: FOLDER/password}
`),
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	socket := "unix:" + filepath.Join(folder, "grpc")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, &daemon.Process{Version: "test", Log: zaptest.NewLogger(t), Config: daemon.Config{
			Service: "forum-backend", Node: "server2", Desired: filepath.Join(folder, "site.yaml"),
			StateDir: filepath.Join(folder, "state"), GRPCListen: socket,
		}})
	}()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run ended with %v", err)
		}
		if _, err := http.Get("http://" + address + "/healthz"); err == nil {
			t.Error("pages are served after the end")
		}
	}()

	conn, err := grpc.NewClient(socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	forum := forumv1.NewForumClient(conn)
	statuses, err := forum.WatchStatus(ctx, &commonv1.WatchStatusRequest{}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	for {
		s, err := statuses.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if s.GetOutcome() == commonv1.Outcome_OUTCOME_DONE {
			break
		}
	}
	for _, service := range []string{"", control.Service} {
		answer, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service})
		if err != nil || answer.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
			t.Errorf("health of %q: got %v %v, want SERVING", service, answer, err)
		}
	}
	answer, err := forum.GetSite(ctx, &forumv1.GetSiteRequest{})
	if err != nil || !answer.GetInstalled() || !answer.GetDatabaseAvailable() || !answer.GetUploadOrigin() || !answer.GetUploadsAvailable() ||
		answer.GetUsers() != 1 || !strings.Contains(answer.GetDatabaseVersion(), "MariaDB") {
		t.Errorf("site: got %v %v", answer, err)
	}
	list, err := forum.ListDesired(ctx, &commonv1.PageRequest{})
	if err != nil || len(list.GetObjects()) != 1 || list.GetObjects()[0].GetObject().GetSite().GetName() != "forum" {
		t.Fatalf("desired: got %v %v", list, err)
	}
	object := list.GetObjects()[0].GetObject()
	object.GetSite().Title = "Another"
	plan, err := forum.PreviewPlan(ctx, &forumv1.PreviewPlanRequest{Object: object})
	if err != nil || len(plan.GetChanges()) != 1 || !strings.Contains(plan.GetChanges()[0], `set title "Another"`) {
		t.Errorf("preview: got %v %v", plan, err)
	}
	admin := forumv1.NewForumAdminClient(conn)
	if _, err := admin.Apply(ctx, &forumv1.ApplyRequest{Object: object}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("apply to a file: got %v, want FAILED_PRECONDITION", err)
	}
	object.GetSite().MaxUploadBytes = 1 << 40
	if _, err := admin.Apply(ctx, &forumv1.ApplyRequest{Object: object, ValidateOnly: true}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("apply what is wrong: got %v, want INVALID_ARGUMENT", err)
	}
	resp, err := http.Get("http://" + address + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("front page: got %s", resp.Status)
	}
}
