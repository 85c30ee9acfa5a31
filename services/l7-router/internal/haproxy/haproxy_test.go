package haproxy

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/twotier/twotier/services/internal/importing"
	"github.com/twotier/twotier/services/internal/importing/importingtest"

	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

func TestGolden(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"tutorial", "grown"} {
		config, err := os.ReadFile("testdata/" + name + ".cfg")
		if err != nil {
			t.Fatal(err)
		}
		result, err := Import(config)
		if err != nil {
			t.Fatal(err)
		}
		importingtest.Complete(t, config, result.Report)
		importingtest.Golden(t, "testdata/"+name+".golden", objects(result), result.Report)
		valid(t, result)
		for _, secret := range []string{"admin:admin", "hunter2"} {
			if strings.Contains(importingtest.Print(t, objects(result), result.Report), secret) {
				t.Errorf("%s: %s is told", name, secret)
			}
		}
	}
}

// Each line stands in a frontend or backend of a small file; want is in what is said of it.
func TestLines(t *testing.T) {
	t.Parallel()
	const file = "defaults\n mode http\nbackend b\n option httpchk\n server s1 172.16.0.88:80 check cookie s1\n%b\nfrontend f\n bind *:80\n default_backend b\n%f\n"
	for _, c := range []struct{ section, line, want string }{
		{"f", "bind 10.0.0.1:81", "taken"},
		{"f", "bind :81,[::1]:82", "bind [::1]:82"},
		{"f", "bind :::81", "IPv6 only"},
		{"f", "bind 10.0.0.1:80", "overlaps"},
		{"f", "bind 10.0.0.1:80-90", "ranges are not taken"},
		{"f", "bind 10.0.0.1", "want a port"},
		{"f", "bind /run/haproxy.sock", "sockets"},
		{"f", "bind www.example.org:81", "want an IP address"},
		{"f", "bind 10.0.0.1:81 accept-proxy", `"accept-proxy"`},
		{"f", "bind", "want an address"},
		{"f", "use_backend b if METH_POST", "method POST"},
		{"f", "use_backend b if METH_POST { method GET }", "never holds"},
		{"f", "use_backend b if { path_beg /a/ } { path_beg /a/b /c }", "with path /a/b go"},
		{"f", "use_backend b if { path_beg /a } or { path_beg /b } || METH_PUT", "path /a or /b, or method PUT"},
		{"f", "use_backend b if FALSE", "ignored"},
		{"f", "use_backend b if", "condition is missing"},
		{"f", "use_backend b if METH_GET or", "condition is missing"},
		{"f", "use_backend b if unknown", `no acl "unknown"`},
		{"f", "use_backend b if { path_beg /a", "want { CRITERION"},
		{"f", "use_backend b if { path_beg }", "want 1 to"},
		{"f", "use_backend b if { src 10.0.0.0/8 }", `criterion "src"`},
		{"f", "use_backend b if { path_beg -f /etc/list }", `flag "-f"`},
		{"f", "use_backend %[req.hdr(host)]", "name of a backend"},
		{"f", "use_backend c", "is not there"},
		{"f", "acl a path_beg /a", "no use_backend line"},
		{"f", "acl a", "want a name"},
		{"f", "default_backend c", "answers 503"},
		{"f", "maxconn 100", "taken"},
		{"f", "maxconn many", "want a number"},
		{"f", "maxconn 4000000000", "want 1 to"},
		{"f", "timeout client 30s", "30s"},
		{"f", "clitimeout 30000", "30s"},
		{"f", "timeout http-request 5s", "5s"},
		{"f", "timeout client 2x", "us, ms"},
		{"f", "timeout client 99999999d", "us, ms"},
		{"f", "timeout server 30s", "no effect"},
		{"f", "timeout tunnel 1h", "hold for this phase"},
		{"f", "server s 10.0.0.1:80", "a frontend has no servers"},
		{"f", "option httplog", "ignored"},
		{"f", "no option httplog", "ignored"},
		{"f", "no option transparent", "ignored"},
		{"f", "option mystery", `"option mystery"`},
		{"f", "redirect scheme https", "can redirect"},
		{"f", "mode tcp", "HTTP only"},
		{"f", "disabled", "does not start"},
		{"f", "use_backend b if { path_beg \"/$X\" }", "environment variable"},
		{"f", "use_backend \"b", "quote"},
		{"b", "server s2 172.16.0.99:80", "checked like the others"},
		{"b", "server s1 172.16.0.99:80 check", "another name"},
		{"b", "server s2 172.16.0.99 check", "port 80: HAProxy sends"},
		{"b", "server s2 172.16.0.99:80 check port 81", "checks at port 81"},
		{"b", "server s2 172.16.0.99:80 check inter 5s", "line 5"},
		{"b", "server s2 172.16.0.99:80 weight 300", "want 0 to 256"},
		{"b", "server s2 172.16.0.99:80 weight x", "not a good value"},
		{"b", "server s2 172.16.0.99:80 disabled", "left out until"},
		{"b", "server s2 172.16.0.99:80 send-proxy", "PROXY"},
		{"b", "server s2 172.16.0.99:80 check verify none", "belongs to ssl"},
		{"b", "server s2 172.16.0.99:80 mystery 1 check", `"mystery"`},
		{"b", "server s2 172.16.0.99:+1", "offsets"},
		{"b", "server s2 0.0.0.0:80", "one machine"},
		{"b", "server s2", "want a name"},
		{"b", "server s2 172.16.0.99:80 check cookie s2", "the backend has no cookie"},
		{"b", "cookie SRV insert", "taken"},
		{"b", "cookie SRV insert domain .example.org", "domain"},
		{"b", "cookie SRV prefix", "cookie NAME insert"},
		{"b", "cookie S;V insert", "want a cookie name"},
		{"b", "balance static-rr", "shares alike"},
		{"b", "balance source", "cookie NAME insert"},
		{"b", "option httpchk HEAD /x HTTP/1.0", "taken"},
		{"b", "option httpchk x", "want a path"},
		{"b", "http-check send meth GET uri /x hdr Host www", "taken"},
		{"b", "http-check send meth GET hdr X-A b", `"X-A"`},
		{"b", "use_backend b", "no effect"},
		{"b", "no option httpchk", "TCP connections"},
		{"b", "stats auth a:hunter2", "auth ***"},
		{"b", "http-check send hdr Authorization hunter2", "***"},
		{"b", "http-request set-header X-Api-Key hunter2 if TRUE", "X-Api-Key *** ***"},
		{"b", "tcp-check send PING\\r\\n", "send ***"},
		{"b", "setenv DB hunter2", "DB ***"},
		{"b", "reqadd Authorization:\\ Basic\\ hunter2", "reqadd ***"},
		{"b", "stats auth \"a:hunter2", "quote"},
		{"b", "errorfile 503 /x # the key is hunter2", "# ***"},
	} {
		text := strings.NewReplacer("%b", "", "%f", c.line).Replace(file)
		at := 9
		if c.section == "b" {
			text, at = strings.NewReplacer("%b", c.line, "%f", "").Replace(file), 5
		}
		result, err := Import([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", c.line, err)
			continue
		}
		got := importingtest.Line(result.Report.GetLines()[at])
		if !strings.Contains(got, c.want) || strings.Contains(got, "%!") || strings.Contains(got, "hunter2") {
			t.Errorf("%s: got %s, want %q", c.line, got, c.want)
		}
		valid(t, result)
	}
}

func TestImportBounds(t *testing.T) {
	t.Parallel()
	if _, err := Import(make([]byte, importing.MaxBytes+1)); !errors.Is(err, importing.ErrTooLarge) {
		t.Errorf("got %v", err)
	}
	// As much of everything as fits, and more: what is too much is told, the rest is taken.
	var text strings.Builder
	text.WriteString("defaults\nmode http\n")
	for i := range MaxSections + 1 {
		fmt.Fprintf(&text, "listen l%d\nbind :%d,:80\nserver s 10.0.0.1:80\n", i, 10000+i)
		for n := range 2 * spec.MaxServers {
			if i == 0 {
				fmt.Fprintf(&text, "server s%d 10.0.0.1:80\nuse_backend l0 if { path_beg /%d }\n", n, n)
			}
		}
	}
	result, err := Import([]byte(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	importingtest.Complete(t, []byte(text.String()), result.Report)
	if _, violations := spec.Parse(result.Frontends, result.Backends); len(violations) > 0 || len(result.Backends) != MaxSections {
		t.Errorf("%d backends, %v", len(result.Backends), violations)
	}
}

func objects(result Result) (all []proto.Message) {
	for _, b := range result.Backends {
		all = append(all, b)
	}
	for _, f := range result.Frontends {
		all = append(all, f)
	}
	return all
}

// valid checks what Import promises: the objects can be applied one after the other.
func valid(t testing.TB, result Result) {
	t.Helper()
	for i := range result.Backends {
		if _, violations := spec.Parse(nil, result.Backends[:i+1]); len(violations) > 0 {
			t.Errorf("backends up to %d: %v", i, violations)
		}
	}
	for i := range result.Frontends {
		if _, violations := spec.Parse(result.Frontends[:i+1], result.Backends); len(violations) > 0 {
			t.Errorf("frontends up to %d: %v", i, violations)
		}
	}
}

func FuzzImport(f *testing.F) {
	for _, name := range []string{"tutorial", "grown"} {
		config, err := os.ReadFile("testdata/" + name + ".cfg")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(config)
	}
	f.Add([]byte("listen a :80\nserver s 1.2.3.4\nfrontend a *:80\nuse_backend a if { path_beg a } || TRUE\nbackend b from\n\"$x\""))
	f.Fuzz(func(t *testing.T, config []byte) {
		result, err := Import(config)
		if err != nil {
			return
		}
		importingtest.Complete(t, config, result.Report)
		valid(t, result)
	})
}
