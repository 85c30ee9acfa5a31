package proxytest

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	importer "github.com/twotier/twotier/services/l7-router/internal/haproxy"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// rulesConfig is what both are run with: the incumbent as it is, ours through the importer. Its rules look at nothing that
// rules above have changed.
const rulesConfig = `defaults
 mode http
 timeout client 10s
 timeout server 10s
 timeout connect 5s
 timeout tarpit 10ms
frontend f
 bind %s
 option forwardfor
 acl inside src 127.0.0.0/8
 acl outside src 192.0.2.0/24
 acl admin path_beg /admin/ /install/
 acl admin path_end .inc
 acl static path_end -i .css .js .png
 acl static path_dir static
 acl thread path_reg ^/thread-[0-9]+\.html$
 acl badbot hdr_sub(User-Agent) -i badbot scanner
 acl listed hdr(X-List) b
 acl whole req.fhdr(X-List) "a, b"
 acl beta cook(beta) 1 true
 acl debug url_param(debug) -m found
 acl level urlp(level) 3 4
 acl www hdr(host) -i www.example.org
 acl api hdr_beg(host) -i api.
 acl dom hdr_dom(host) -i example.net
 http-request tarpit deny_status 429 if badbot !inside
 http-request tarpit if badbot METH_PUT
 http-request deny deny_status 429 if badbot
 http-request deny if admin !outside
 http-request deny deny_status 404 if { path -m sub .. } or { path_dom dom }
 http-request redirect location https://www.example.org/moved?a=b code 301 if { path /moved }
 http-request redirect prefix https://www.example.org code 302 if { path_beg /pre } METH_GET
 http-request redirect prefix https://www.example.org drop-query code 303 if { path_beg /pre } METH_POST
 http-request redirect scheme https code 308 if { path_beg /secure }
 http-request set-header X-Set new
 http-request set-header X-Set thread if thread
 http-request add-header X-Add "one two"
 http-request add-header X-Add three unless { method GET HEAD }
 http-request del-header X-Del
 http-request set-header X-Post yes if METH_POST
 http-request del-header X-Post if { hdr(X-Drop) -m found }
 http-response del-header Server
 http-response set-header X-Frame-Options DENY
 http-response add-header X-Both ours
 use_backend debug if debug or level
 use_backend static if static METH_GET
 use_backend static if static { method HEAD }
 use_backend posts if METH_POST !beta
 use_backend api if api || { hdr_end(host) -i .api.example.org }
 use_backend beta if beta
 use_backend listed if listed
 use_backend whole if whole !listed
 use_backend dom if dom
 use_backend thread unless !thread
 use_backend www if www
 default_backend app
`

// rewriteConfig is about paths.
const rewriteConfig = `defaults
 mode http
 timeout client 10s
 timeout server 10s
 timeout connect 5s
frontend f
 bind %s
 option forwardfor
 http-request set-path /fixed if { hdr(X-Fix) 1 }
 http-request replace-path ^/thread-([0-9]+)-([0-9]+)\.html$ /thread/\1/page/\2
 http-request replace-path ^/u/(.*)$ /users/\1/x$1
 http-request replace-path sub /whole
 http-request set-header Host inner:8080 if { hdr(X-Host) 1 }
 default_backend app
`

// testRulesLikeHAProxy compares rules that were imported with HAProxy itself: answers, servers, and what the servers get.
func testRulesLikeHAProxy(t *testing.T, open Open) {
	t.Parallel()
	t.Run("rules", func(t *testing.T) {
		t.Parallel()
		backends := []string{"debug", "static", "posts", "api", "beta", "listed", "whole", "dom", "thread", "www", "app"}
		both := bothWith(t, open, rulesConfig, backends)
		paths := []string{
			"/", "/index.php?a=b", "/admin/x", "/install/", "/x.inc", "/a/x.CSS", "/static/x", "/a/static", "/statics/", "/thread-7.html", "/thread-x.html",
			"/moved", "/moved/", "/pre/x?y=z", "/secure?a", "/a..b", "/x.dom.y", "/?debug=", "/?x=1&debug=0", "/?level=3", "/?level=5&level=4", "/?nolevel=3", "/?a;level=4",
		}
		heads := [][]string{
			{"Host: www.example.org"}, {"Host: WWW.example.ORG"}, {"Host: other.example"}, {"Host: api.example.org"}, {"Host: v1.api.example.org"}, {"Host: x.example.net"},
			{"Host: www.example.org", "User-Agent: a BadBot/1"}, {"Host: o", "Cookie: beta=1"}, {"Host: o", "Cookie: a=1; beta=true"}, {"Host: o", "Cookie: beta=2"},
			{"Host: o", "X-List: a, b"}, {"Host: o", "X-List: a", "X-List: b,c"}, {"Host: o", "X-List: ab"}, {"Host: o", "X-Set: old", "X-Set: older", "X-Add: mine", "X-Del: 1"},
			{"Host: o", "X-Drop: 1", "X-Post: mine"},
		}
		count := 0
		for _, method := range []string{"GET", "HEAD", "POST", "PUT"} {
			for i, path := range paths {
				for j, head := range heads {
					if j > 0 && i > 2 && (i+j)%4 != 0 {
						continue // not all of all
					}
					both.compare(method, path, head...)
					count++
				}
			}
		}
		t.Logf("%d requests", count)
		// The differences, with their reasons. What denies does so for every spelling that a server may read alike.
		for _, path := range []string{"/%61dmin/x", "//admin/x", "/a/../admin/x", "/admin%2fx"} {
			ours, theirs := both.ask(both.ours, "GET", path, "Host: o"), both.ask(both.theirs, "GET", path, "Host: o")
			if !strings.HasPrefix(ours, "403 ") && !strings.HasPrefix(ours, "404 ") || strings.HasPrefix(theirs, "403 ") {
				t.Errorf("%s: ours %s, HAProxy's %s", path, ours, theirs)
			}
		}
		// A parameter without "=" is there, as everywhere else; HAProxy does not see it. The importer says so.
		ours, theirs := both.ask(both.ours, "GET", "/?debug", "Host: o"), both.ask(both.theirs, "GET", "/?debug", "Host: o")
		if !strings.Contains(ours, `"debug: `) || strings.Contains(theirs, `"debug: `) {
			t.Errorf("/?debug: ours %s, HAProxy's %s", ours, theirs)
		}
	})
	t.Run("paths", func(t *testing.T) {
		t.Parallel()
		both := bothWith(t, open, rewriteConfig, []string{"app"})
		for _, path := range []string{"/", "/a?b", "/thread-1-2.html", "/thread-1-2.html?x=/y", "/thread-1-x.html", "/u/me", "/u/me?q", "/a/sub/b", "/sub?x", "/u/sub"} {
			both.compare("GET", path, "Host: o")
			both.compare("POST", path, "Host: o", "X-Fix: 1")
			both.compare("GET", path, "Host: o:81", "X-Host: 1")
		}
	})
}

// both are the incumbent and ours in front of the same servers.
type both struct {
	t            *testing.T
	ours, theirs string
}

func bothWith(t *testing.T, open Open, config string, backends []string) *both {
	t.Helper()
	for _, name := range backends {
		server := origin(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header()["Date"] = nil
			w.Header().Set("Server", "secret")
			w.Header().Set("X-Frame-Options", "SAMEORIGIN")
			w.Header().Set("X-Both", "server")
			w.Header().Set("X-Got", fmt.Sprintf("%s: %s %s %s %s", name, r.Method, r.RequestURI, r.Host, headers(r.Header, nil)))
		})
		config += fmt.Sprintf("backend %s\n server s %s\n", name, addressOf(server))
	}
	imported, err := importer.Import(fmt.Appendf(nil, config, "127.0.0.1:80"))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range imported.Report.GetLines() {
		if strings.Contains(fmt.Sprint(line), "unsupported") || strings.Contains(fmt.Sprint(line), "UNSUPPORTED") {
			t.Errorf("not imported: %v", line)
		}
	}
	state, violations := spec.Parse(imported.Frontends, imported.Backends)
	if len(violations) > 0 {
		t.Fatal(violations)
	}
	w := newWorld(t, open)
	state.Frontends[0].Bind = w.want.Frontends[0].Bind
	w.want = state
	w.apply()
	return &both{t, w.address(), runHAProxy(t, fmt.Sprintf(config, "fd@3"))}
}

func (b *both) compare(method, path string, head ...string) {
	b.t.Helper()
	ours, theirs := b.ask(b.ours, method, path, head...), b.ask(b.theirs, method, path, head...)
	if ours != theirs {
		b.t.Errorf("%s %s %q:\nours      %s\nHAProxy's %s", method, path, head, ours, theirs)
	}
}

// ask prints what comes back.
func (b *both) ask(address, method, path string, head ...string) string {
	b.t.Helper()
	c := dial(b.t, address)
	defer c.Close()
	body := ""
	if method == "POST" || method == "PUT" {
		head, body = append(slices.Clone(head), "Content-Length: 2"), "hi"
	}
	c.send(method + " " + path + " HTTP/1.1\r\n" + lines(head) + "\r\n" + body)
	r, text := c.response(method)
	return fmt.Sprintf("%d %s %q", r.StatusCode, headers(r.Header, []string{"Connection", "Content-Type"}), text)
}

// headers prints fields in the order of their names.
func headers(h http.Header, but []string) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(h)) {
		if !slices.Contains(but, name) {
			all = append(all, fmt.Sprintf("%s=%q", name, h[name]))
		}
	}
	return strings.Join(all, " ")
}
