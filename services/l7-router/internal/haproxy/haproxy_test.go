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
	for _, name := range []string{"tutorial", "grown", "rules", "http2", "health"} {
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
		{"f", "bind 10.0.0.1:81 accept-proxy", "for all addresses of a frontend"},
		{"f", "bind 10.0.0.1:81 ssl crt /a.pem crt /b.pem verify optional ca-file /ca.pem strict-sni alpn h2,http/1.1 ssl-min-ver TLSv1.3", "with TLS"},
		{"f", "bind 10.0.0.1:81 ssl crt /a.pem ciphers ALL:!aNULL", "ciphers: the choice"},
		{"f", "bind 10.0.0.1:81 ssl crt /a.pem ssl-min-ver TLSv1.0", "not spoken any more"},
		{"f", "bind 10.0.0.1:81 ssl crt a.pem", "absolute path"},
		{"f", "bind 10.0.0.1:81 ssl", "ssl needs crt"},
		{"f", "bind 10.0.0.1:81 ssl crt-list /x", `"crt-list"`},
		{"f", "bind 10.0.0.1:81 crt /a.pem", "belongs to ssl"},
		{"f", "bind 10.0.0.1:81 ssl crt /a.pem verify required", "addresses with ssl are left out"},
		{"f", "timeout client-fin 5s", "client-fin 5s"},
		{"b", "timeout server-fin 5s", "server-fin 5s"},
		{"b", "timeout tunnel 1h", "tunnel 1h"},
		{"b", "server s2 172.16.0.99:80 check send-proxy", "taken"},
		{"b", "server s2 172.16.0.99:80 send-proxy-v2 check", "taken"},
		{"f", "bind", "want an address"},
		{"f", "use_backend b if METH_POST", "method POST"},
		{"f", "use_backend b if METH_POST { method GET }", "never holds"},
		{"f", "use_backend b if { path_beg /a/ } { path_beg /a/b /c }", "path /a/ and path /a/b or /c go"},
		{"f", "use_backend b if METH_POST { method GET POST } { path /x }", "method POST and exactly the path /x go"},
		{"f", "use_backend b if ! { path_beg /a } or !!METH_POST", "not (path /a), or method POST go"},
		{"f", "use_backend b unless METH_POST", "not (method POST) go"},
		{"f", "use_backend b unless TRUE", "never holds"},
		{"f", "use_backend b when METH_POST", "begin with if or unless"},
		{"f", "use_backend b if { path_end -i .PNG }", `fits (?i)\.PNG$`},
		{"f", "use_backend b if { path_dir /static/ }", "(^|[/?])static([/?]|$)"},
		{"f", "use_backend b if { path -m dom a.b }", `a\.b`},
		{"f", "use_backend b if { path_sub .. }", `fits \.\.`},
		{"f", "use_backend b if { path_reg ^/(?!a) }", "none of RE2"},
		{"f", "use_backend b if { path_len 5 }", `criterion "path_len"`},
		{"f", "use_backend b if { path_beg -m end /a }", `-m "end"`},
		{"f", "use_backend b if { path -m len 5 }", `-m "len"`},
		{"f", "use_backend b if { url_beg /a }", `criterion "url_beg"`},
		{"f", "use_backend b if { hdr(host) -i www.example.org }", "with any port"},
		{"f", "use_backend b if { hdr(host) www.example.org:80 }", "header host"},
		{"f", "use_backend b if { hdr_dom(host) -i example.org }", "header host"},
		{"f", "use_backend b if { hdr(x,1) a }", "one name in brackets"},
		{"f", "use_backend b if { hdr() a }", "one name in brackets"},
		{"f", "use_backend b if { req.hdr(x),lower a }", "criterion"},
		{"f", "use_backend b if { hdr(x) -m found }", "header x"},
		{"f", "use_backend b if { cook(a) 1 }", "cookie a"},
		{"f", "use_backend b if { urlp(a) -m beg 1 }", "parameter a"},
		{"f", "use_backend b if { src 10.0.0.1/8 192.168.0.0/255.255.0.0 ::1 }", "client in 10.0.0.0/8 or 192.168.0.0/16 or ::1"},
		{"f", "use_backend b if { src 10.0.0.0/255.0.255.0 }", "want an address or a network"},
		{"f", "use_backend b if { src localhost }", "want an address or a network"},
		{"f", "use_backend b if { ssl_fc }", `criterion "ssl_fc"`},
		{"f", "use_backend b if { path_beg /a } or { path_beg /b } || METH_PUT", "path /a or /b, or method PUT"},
		{"f", "use_backend b if FALSE", "ignored"},
		{"f", "use_backend b if", "condition is missing"},
		{"f", "use_backend b if METH_GET or", "condition is missing"},
		{"f", "use_backend b if unknown", `no acl "unknown"`},
		{"f", "use_backend b if { path_beg /a", "want { CRITERION"},
		{"f", "use_backend b if { path_beg }", "want 1 to"},
		{"f", "use_backend b if { path_beg -f /etc/list }", `flag "-f"`},
		{"f", "use_backend %[req.hdr(host)]", "name of a backend"},
		{"f", "use_backend c", "is not there"},
		{"f", "acl a path_beg /a", "no rule that is taken"},
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
		{"f", "timeout tunnel 1h", "no effect"},
		{"f", "server s 10.0.0.1:80", "a frontend has no servers"},
		{"f", "no option httplog", "not logged in this form"},
		{"f", "no option transparent", "ignored"},
		{"f", "option mystery", `"option mystery"`},
		{"f", "redirect scheme https code 301 if !{ path_beg /x }", "are redirected"},
		{"f", "redirect scheme ftp", "want http or https"},
		{"f", "redirect location /a code 99999", "want a number"},
		{"f", "redirect location /a code 305", "want 301"},
		{"f", "redirect location", "want exactly one of"},
		{"f", "redirect prefix https://%[req.hdr(host)]", "fixed texts"},
		{"f", "redirect prefix https://a%%20b drop-query", "are redirected"},
		{"f", "redirect prefix / append-slash", `"append-slash" of a redirect`},
		{"f", "http-request deny if { path_beg /x }", "another spelling"},
		{"f", "http-request deny deny_status 429 if { src 10.0.0.0/8 }", "refused"},
		{"f", "http-request deny deny_status 299", "want one of"},
		{"f", "http-request deny if { ssl_fc }", "let through"},
		{"f", "http-request tarpit", "held for 5s"},
		{"f", "http-request allow if { path / }", `http-request "allow"`},
		{"f", "http-request", "want an action"},
		{"f", "http-request redirect location /a if { path / }", "are redirected"},
		{"f", "http-request set-header X-A b", "are changed"},
		{"f", "http-request set-header X-A %[src]", "fixed texts"},
		{"f", "http-request set-header X-Forwarded-For %[src]", "sent by the frontend itself"},
		{"f", "http-request set-header Content-Length 1", "want the name of a field"},
		{"f", "http-request set-header Host app:80", "are changed"},
		{"f", "http-request set-header X-A", "want a value"},
		{"f", "http-request del-header X- -m beg", "whole name"},
		{"f", "http-request del-header X-A -m str if METH_GET", "are changed"},
		{"f", "http-request set-path /a%[path]", "fixed texts"},
		{"f", "http-request set-path /a", "path of requests"},
		{"f", "http-request set-path", "want 1 words"},
		{"f", "http-request replace-path ^/a/(.*)$ /\\1", "path of requests"},
		{"f", "http-request replace-path ^/a/(.*$ /", "none of RE2"},
		{"f", "http-request replace-path ^/a$ /\\1", "0 groups"},
		{"f", "http-request set-log-level silent", "taken are deny"},
		{"f", "http-response set-header X-A b", "responses to requests"},
		{"f", "http-response del-header Server if { src 10.0.0.0/8 }", "responses to requests"},
		{"f", "http-response del-header Server if { hdr(x) a }", "over the response"},
		{"f", "http-response set-status 200", "taken are set-header"},
		{"f", "block if { path_beg /x }", "refused"},
		{"f", "timeout tarpit 10s", "timeout tarpit 10s"},
		{"f", "option forwardfor except 127.0.0.0/8", "trusted hop"},
		{"f", "option forwardfor except localhost", "want a network"},
		{"f", "option forwardfor header X-Client if-none", "is X-Forwarded-For"},
		{"b", "http-request deny", "belong to frontends"},
		{"f", "mode tcp", "HTTP only"},
		{"f", "disabled", "does not start"},
		{"f", "use_backend b if { path_beg \"/$X\" }", "environment variable"},
		{"f", "use_backend \"b", "quote"},
		{"b", "server s2 172.16.0.99:80", "taken"},
		{"b", "server s1 172.16.0.99:80 check", "another name"},
		{"b", "server s2 172.16.0.99 check", "port 80: HAProxy sends"},
		{"b", "server s2 172.16.0.99:80 check port 81", "taken"},
		{"b", "server s2 172.16.0.99:80 check addr www.example.org", "not a good value"},
		{"b", "server s2 172.16.0.99:80 check fastinter 1ms", "want 10ms"},
		{"b", "server s2 172.16.0.99:80 check observe layer7 on-error mark-down", "belong to the whole backend"},
		{"b", "server s2 172.16.0.99:80 check on-marked-down shutdown-sessions", "belongs to the whole backend"},
		{"b", "server s2 172.16.0.99:80 check on-error panic", "not a good value"},
		{"b", "server s2 172.16.0.99:80 check inter 5s", "taken"},
		{"b", "server s2 172.16.0.99:80 weight 300", "want 0 to 256"},
		{"b", "server s2 172.16.0.99:80 weight x", "not a good value"},
		{"b", "server s2 172.16.0.99:80 disabled", "taken"},
		{"b", "server s2 172.16.0.99:80 check verify none", "belongs to ssl"},
		{"b", "server s2 172.16.0.99:80 mystery 1 check", `"mystery"`},
		{"b", "server s2 172.16.0.99:+1", "offsets"},
		{"b", "server s2 0.0.0.0:80", "one machine"},
		{"b", "server s2", "want a name"},
		{"b", "server s2 172.16.0.99:80 check cookie s2", "the backend has no cookie"},
		{"b", "cookie SRV insert", "taken"},
		{"b", "cookie SRV insert domain .example.org maxidle 30m maxlife 8h attr SameSite=Lax preserve postonly", "taken"},
		{"b", "cookie SRV insert maxidle x", "not a good value"},
		{"b", "cookie SRV insert dynamic", "made of a secret"},
		{"b", "cookie SRV prefix", "taken"},
		{"b", "cookie SRV rewrite indirect", "not together"},
		{"b", "cookie SRV prefix nocache", "inserts the cookie itself"},
		{"b", "cookie SRV insert mystery", "mystery"},
		{"b", "cookie S;V insert", "want a cookie name"},
		{"b", "balance static-rr", "taken"},
		{"b", "balance source", "taken"},
		{"b", "balance leastconn", "taken"},
		{"b", "balance uri whole depth 3 len 20", "taken"},
		{"b", "balance uri depth 500", "1 to 100"},
		{"b", "balance hdr(X-User)", "taken"},
		{"b", "balance hdr(host) use_domain_only", "whole value"},
		{"b", "balance random(3)", "two servers"},
		{"b", "balance url_param user", "roundrobin it is"},
		{"b", "hash-type consistent", "taken"},
		{"b", "hash-type map-based wt6 avalanche", "taken"},
		{"b", "hash-type sideways", "want map-based"},
		{"b", "option allbackups", "taken"},
		{"b", "no option allbackups", "not so"},
		{"b", "option persist", "taken"},
		{"b", "timeout queue 30s", "taken"},
		{"b", "server s2 172.16.0.99:80 check maxconn 10 maxqueue 5 slowstart 500", "taken"},
		{"b", "server s2 172.16.0.99:80 maxconn 9999999", "1 to 1048576"},
		{"b", "server s2 172.16.0.99:80 maxconn 10 minconn 2", "at all times"},
		{"b", "option httpchk HEAD /x HTTP/1.0", "taken"},
		{"b", "option httpchk x", "want a path"},
		{"b", "http-check send meth GET uri /x hdr Host www", "taken"},
		{"b", "http-check send meth GET hdr X-A b", "taken"},
		{"b", "http-check send meth GET hdr Connection close", "close their connections anyway"},
		{"b", "http-check send meth GET hdr Authorization x", "secrets are not taken"},
		{"b", "http-check send foo bar", `"foo"`},
		{"b", "http-check disable-on-404", "taken"},
		{"b", "http-check expect status 200,301-304", "taken"},
		{"b", "http-check expect status 2xx", "want a status"},
		{"b", "http-check expect rstatus ^2", "taken"},
		{"b", "http-check expect rstatus (", "RE2"},
		{"b", "http-check expect rstatus x", "no status fits"},
		{"b", "http-check expect ! string down", "taken"},
		{"b", "http-check expect hdr name X-State value up", "taken"},
		{"b", "http-check expect hdr name -m beg X-State", "compared exactly"},
		{"b", "http-check expect fullhdr x", "can be expected"},
		{"b", "http-check expect status", "and a value"},
		{"b", "http-check connect port 80", "can be taken"},
		{"b", "retries 2", "2 further servers"},
		{"b", "retries many", "want a number"},
		{"b", "retry-on empty-response 503", "taken"},
		{"b", "retry-on 302", "want 401"},
		{"b", "retry-on sometimes", `"sometimes"`},
		{"b", "use_backend b", "no effect"},
		{"b", "no option httpchk", "TCP connections"},
		{"b", "stats auth a:hunter2", "auth ***"},
		{"b", "stats auth a:hunter2", "STATE-DIR/stats-password"},
		{"f", "stats enable", "HAProxy shows the page to everybody"},
		{"f", "stats uri /s", "the page at"},
		{"f", "stats uri s", "the page is at /haproxy?stats"},
		{"f", "stats realm a\\\"b", "HAProxy's own"},
		{"f", "stats refresh 10s", "every 10s"},
		{"f", "stats refresh 10", "every 10s"},
		{"f", "stats refresh 1ms", "does not load itself again"},
		{"f", "stats admin if LOCALHOST", "not by a condition"},
		{"f", "stats admin if TRUE", "may set servers"},
		{"f", "stats show-legends", "its own look"},
		{"f", "stats http-request auth", "not known here"},
		{"b", "stats enable", "the page of frontend/f, answered before its rules"},
		{"f", "log 127.0.0.1 local2", "udp:127.0.0.1:514"},
		{"f", "log 127.0.0.1:5514 local2 info", "udp:127.0.0.1:5514"},
		{"f", "log /dev/log local0", "unix:/dev/log"},
		{"f", "log /dev/log nonsense", "the facility is local0"},
		{"f", "log stdout format raw local0", "as option httplog does"},
		{"f", "log localhost local0", "an IP address"},
		{"f", "log global", "has no log"},
		{"b", "log 127.0.0.1 local2", "changes of health"},
		{"f", "log-format %ci", "two formats"},
		{"f", "option httplog", "in this form"},
		{"f", "option dontlognull", "never logged"},
		{"f", "option logasap", "when it has ended"},
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

func TestLongLines(t *testing.T) {
	t.Parallel()
	for _, rest := range []string{strings.Repeat(" METH_GET", 100000), strings.Repeat(" METH_GET or", 50000) + " TRUE", " " + strings.Repeat("!", 500000) + "TRUE", strings.Repeat(" !", 300000)} {
		config := "listen a\nbind :80\nmode http\nserver s 10.0.0.1:80\nuse_backend a if" + rest + "\n"
		result, err := Import([]byte(config))
		if err != nil {
			t.Fatal(err)
		}
		valid(t, result)
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
	for _, name := range []string{"tutorial", "grown", "rules", "http2", "health"} {
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
