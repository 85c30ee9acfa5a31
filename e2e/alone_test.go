package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twotier/twotier/e2e/lab"
)

// alone runs one service in one container with its example file and nothing else, and returns it as a machine once it
// says that it is healthy.
func alone(t testing.TB, service string, args ...string) *lab.Machine {
	t.Helper()
	folder := filepath.Join(lab.Root(t), "deploy", service)
	run := append([]string{"run", "-d", "--network", aloneNetwork(t), "-v", folder + ":/etc/twotier:ro", "--cap-drop", "ALL", "--read-only"}, args...)
	run = append(run, "twotier/"+service+":lab", "--node", "here", "--desired", "/etc/twotier/desired.yaml")
	id := strings.TrimSpace(lab.Run(t, "docker", run...))
	t.Cleanup(func() {
		if t.Failed() {
			logs, _ := lab.TryRun("sh", "-c", "docker logs "+id+" 2>&1 | tail -20") // for the message only
			t.Logf("%s: %s", service, logs)
		}
		lab.Run(t, "docker", "rm", "-f", id)
	})
	lab.Within(t, promise, service+" is healthy", func() error {
		_, err := lab.TryRun("docker", "exec", id, "/"+service, "health")
		return err
	})
	return lab.Is(t, service, id)
}

// aloneNetwork makes a network with the addresses of the examples.
func aloneNetwork(t testing.TB) string {
	t.Helper()
	id := strings.TrimSpace(lab.Run(t, "docker", "network", "create", "--internal", "--subnet", "192.0.2.0/24", "twotier-alone"))
	t.Cleanup(func() { lab.Run(t, "docker", "network", "rm", id) })
	return id
}

func TestDirectorAlone(t *testing.T) {
	m := alone(t, "ipvs-director", "--cap-add", "NET_ADMIN", "--cap-add", "NET_RAW", "--sysctl", "net.ipv4.ip_forward=1")
	if got := m.Network(t, "ip", "-4", "-o", "addr"); !strings.Contains(got, "192.0.2.100/") {
		t.Errorf("no VIP: %s", got)
	}
}

func TestRouterAlone(t *testing.T) {
	m := alone(t, "l7-router", "--user", "65532")
	page, err := m.Browse("http://127.0.0.1:8080").Try("/")
	if err != nil || page.Status != http.StatusServiceUnavailable {
		t.Errorf("without a living server: %+v, %v; want status 503", page, err)
	}
}

func TestAgentAlone(t *testing.T) {
	m := alone(t, "vrrp-agent", "--cap-add", "NET_ADMIN", "--cap-add", "NET_RAW")
	lab.Within(t, promise, "the agent holds the address", func() error {
		if got := m.Network(t, "ip", "-4", "-o", "addr"); !strings.Contains(got, "192.0.2.100/") {
			return fmt.Errorf("it has %s", got)
		}
		return nil
	})
}

func TestFileSyncAlone(t *testing.T) {
	data, copied := t.TempDir(), t.TempDir()
	alone(t, "file-sync", "-v", data+":/data:ro", "-v", copied+":/copy", "--cap-add", "CHOWN", "--cap-add", "DAC_OVERRIDE", "--cap-add", "FOWNER")
	if err := os.WriteFile(filepath.Join(data, "hello"), []byte("hello"), 0o644); err != nil {
		t.Fatal(err)
	}
	lab.Within(t, promise, "the file is copied", func() error {
		got, err := os.ReadFile(filepath.Join(copied, "hello"))
		if err == nil && string(got) != "hello" {
			err = fmt.Errorf("it holds %q", got)
		}
		return err
	})
}

// The forum without its database: it lives and says so.
func TestForumAlone(t *testing.T) {
	secrets, data := t.TempDir(), t.TempDir()
	for name, content := range map[string]string{"db.password": "not needed here", "session.key": strings.Repeat("0123456789abcdef", 4)} {
		if err := os.WriteFile(filepath.Join(secrets, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{secrets, data} {
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	m := alone(t, "forum-backend", "--user", "65532", "--tmpfs", "/tmp", "-v", secrets+":/run/secrets:ro", "-v", data+":/data")
	page, err := m.Browse("http://127.0.0.1:8080").Try("/test.php")
	if err != nil || strings.TrimSpace(page.Body) != "Failure..." {
		t.Errorf("/test.php without a database: %+v, %v", page, err)
	}
}
