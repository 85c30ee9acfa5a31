package stricttest

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twotier/twotier/services/internal/testreq"
)

// Kind is one of the incumbents. Each is run as Debian has it, with nothing configured but where it listens and the one
// server to which it passes everything on.
type Kind string

// The incumbents.
const (
	HAProxy Kind = "haproxy"
	Nginx   Kind = "nginx"
	Apache  Kind = "apache2"
	Caddy   Kind = "caddy"
	Varnish Kind = "varnish"
)

// Kinds are all of them.
func Kinds() []Kind { return []Kind{HAProxy, Nginx, Apache, Caddy, Varnish} }

// program of Debian, and the package that has it.
func (k Kind) program() (program, debian string) {
	switch k {
	case Nginx:
		return "nginx", "nginx-light"
	case Apache:
		return "apache2", "apache2-bin"
	case Varnish:
		return "varnishd", "varnish"
	}
	return string(k), string(k)
}

// Start runs an incumbent before a server at an address until the test ends, and returns where it listens.
func Start(t testing.TB, k Kind, server string) string {
	t.Helper()
	program, debian := k.program()
	path, err := exec.LookPath(program)
	for _, folder := range []string{"/usr/sbin", "/sbin"} {
		if err != nil {
			path, err = exec.LookPath(filepath.Join(folder, program)) // not in the path of ordinary users
		}
	}
	if err != nil {
		testreq.Missing(t, program+" (Debian package "+debian+")")
	}
	var words string
	for range 3 { // somebody else may take the port first
		address, said, ok := attempt(t, k, path, server)
		if ok {
			return address
		}
		words = said
	}
	t.Fatalf("%s does not start: %s", k, words)
	return ""
}

// attempt starts the program and waits until it answers or has ended.
func attempt(t testing.TB, k Kind, path, server string) (address, words string, ok bool) {
	t.Helper()
	// None of them takes a port of the kernel's choice.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address = l.Addr().String()
	_ = l.Close() // for the program
	folder, err := os.MkdirTemp("", "twotier-peer-")
	if err != nil {
		t.Fatal(err)
	}
	arguments, config := k.config(folder, address, server)
	if err := os.WriteFile(filepath.Join(folder, "config"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	command := exec.Command(path, arguments...)
	command.Env = append(os.Environ(), "HOME="+folder, "XDG_CONFIG_HOME="+folder, "XDG_DATA_HOME="+folder)
	said := &saying{}
	command.Stdout, command.Stderr = said, said
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // some have children
	command.WaitDelay = time.Second
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = command.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = syscall.Kill(-command.Process.Pid, syscall.SIGTERM) // it has ended: there is nobody
		select {
		case <-ended:
		case <-time.After(2 * time.Second):
		}
		_ = syscall.Kill(-command.Process.Pid, syscall.SIGKILL)
		<-ended
		_ = os.RemoveAll(folder)
	})
	retry := time.NewTicker(20 * time.Millisecond)
	defer retry.Stop()
	give := time.After(Patience)
	for {
		if r, err := http.Get("http://" + address + Fence); err == nil {
			_ = r.Body.Close()
			if r.StatusCode == 200 {
				return address, "", true
			}
		}
		select {
		case <-retry.C:
		case <-ended:
			return "", said.String(), false
		case <-give:
			t.Fatalf("%s does not answer: %s", k, said)
		}
	}
}

// config returns the program's arguments and the text of the file "config" in folder.
func (k Kind) config(folder, address, server string) (arguments []string, config string) {
	file := filepath.Join(folder, "config")
	host, port, _ := net.SplitHostPort(server)
	_, own, _ := net.SplitHostPort(address)
	switch k {
	case HAProxy:
		return []string{"-db", "-q", "-f", file}, fmt.Sprintf(`global
 nbthread 1
defaults
 mode http
 timeout client 10s
 timeout server 10s
 timeout connect 5s
frontend f
 bind %s
 default_backend b
backend b
 server s %s
`, address, server)
	case Nginx:
		var temp strings.Builder
		for _, use := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
			fmt.Fprintf(&temp, " %s_temp_path %s/%s;\n", use, folder, use)
		}
		return []string{"-c", file, "-e", "stderr"}, fmt.Sprintf(`daemon off;
master_process off;
pid %s/pid;
error_log stderr crit;
events { }
http {
 access_log off;
%s server {
  listen %s;
  location / {
   proxy_pass http://%s;
   proxy_http_version 1.1;
   proxy_set_header Host $http_host;
   proxy_set_header Connection "";
  }
 }
}
`, folder, temp.String(), address, server)
	case Apache:
		var modules strings.Builder
		for _, name := range []string{"mpm_event", "authz_core", "proxy", "proxy_http"} {
			fmt.Fprintf(&modules, "LoadModule %s_module /usr/lib/apache2/modules/mod_%s.so\n", name, name)
		}
		return []string{"-DFOREGROUND", "-f", file}, fmt.Sprintf(`ServerRoot %s
DefaultRuntimeDir %s
%sPidFile %s/pid
ErrorLog %s/log
ServerName localhost
User www-data
Group www-data
Listen %s
StartServers 1
ThreadsPerChild 25
MaxRequestWorkers 25
ProxyPreserveHost On
ProxyPass / http://%s/
`, folder, folder, modules.String(), folder, folder, address, server)
	case Caddy:
		return []string{"run", "--config", file, "--adapter", "caddyfile"}, fmt.Sprintf(`{
 admin off
 auto_https off
}
:%s {
 bind 127.0.0.1
 reverse_proxy %s
}
`, own, server)
	case Varnish:
		return []string{"-F", "-j", "none", "-n", folder, "-a", address, "-f", file, "-s", "malloc,10m", "-p", "thread_pools=1"}, // without it bodies of GET are thrown away
			fmt.Sprintf(`vcl 4.1;
backend default { .host = "%s"; .port = "%s"; }
sub vcl_recv { return (pass); }
sub vcl_backend_fetch { return (fetch); }
`, host, port)
	}
	return nil, ""
}

// saying collects what a program says.
type saying struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *saying) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *saying) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
