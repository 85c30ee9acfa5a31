package spec

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	routerv1 "github.com/twotier/twotier/proto/router/v1"
	"google.golang.org/protobuf/encoding/protojson"
)

// parseRule reads one rule, in JSON, of the tutorial's frontend.
func parseRule(t *testing.T, text string) (Rule, []string) {
	t.Helper()
	m := &routerv1.Rule{}
	if err := protojson.Unmarshal([]byte(text), m); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	frontends, backends := good()
	frontends[0].Rules = []*routerv1.Rule{m}
	state, violations := Parse(frontends, backends)
	if len(violations) == 0 {
		return state.Frontends[0].Rules[0], nil
	}
	var fields []string
	for _, v := range violations {
		fields = append(fields, strings.TrimPrefix(v.GetField(), "frontend/main.rules"))
	}
	return Rule{}, fields
}

func TestParseRule(t *testing.T) {
	t.Parallel()
	tests := []struct {
		text string
		want Rule
	}{
		{`{"backend": "webservers"}`, Rule{Backend: "webservers"}},
		{`{"condition": {"hosts": ["*.Example.ORG", "[::1]"], "sources": ["10.0.0.0/8", "10.1.2.3", "::1", "::ffff:1.2.3.4"]}, "deny": {}}`, Rule{
			Condition: Condition{Hosts: []string{"*.example.org", "[::1]"}, Sources: []netip.Prefix{
				netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("10.1.2.3/32"), netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("1.2.3.4/32"),
			}}, Deny: &Deny{Status: 403},
		}},
		{`{"deny": {"tarpit": "10s"}}`, Rule{Deny: &Deny{Status: 500, Hold: 10 * time.Second}}},
		{`{"condition": {"headers": [{"name": "UA", "contains": ["BoT"], "ignoreCase": true}], "not": {"paths": ["/A"], "pathForm": "PATH_FORM_DECODED"}}, "redirect": {"scheme": "https"}}`, Rule{
			Condition: Condition{Headers: []TextMatch{{Name: "UA", Contains: []string{"bot"}, IgnoreCase: true}}, Not: &Condition{Paths: []string{"/A"}, PathForm: PathDecoded}},
			Redirect:  &Redirect{Scheme: "https", Code: 302},
		}},
		{`{"edit": {"setHost": "app:80", "removeRequestHeaders": ["A"], "addResponseHeaders": [{"name": "B", "value": "c d"}], "path": {"prefix": "/x", "replacement": "/"}}}`, Rule{
			Edit: &Edit{Host: "app:80", Request: Fields{Remove: []string{"A"}}, Response: Fields{Add: []Header{{"B", "c d"}}}, Path: PathEdit{Prefix: "/x", Replacement: "/"}},
		}},
	}
	for _, test := range tests {
		got, wrong := parseRule(t, test.text)
		if !reflect.DeepEqual(got, test.want) || wrong != nil {
			t.Errorf("%s:\ngot  %+v %v\nwant %+v", test.text, got, wrong, test.want)
		}
	}
	one, _ := parseRule(t, `{"edit": {"path": {"regex": "^/a(.)(.)$", "replacement": "/\\2/$1\\0"}}}`)
	two, _ := parseRule(t, `{"edit": {"path": {"regex": "^/a(.)(.)$", "replacement": "/\\2/$1\\0"}}}`)
	if one.Edit.Path.Replacement != "/${2}/$$1${0}" || !reflect.DeepEqual(one, two) {
		t.Errorf("%+v %+v", one, two) // plan compares what has been parsed
	}
}

func TestParseRuleRefuses(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat(`{"not": `, MaxDepth) + "{}" + strings.Repeat("}", MaxDepth)
	many := strings.TrimSuffix(strings.Repeat(`"/a",`, MaxValues+1), ",")
	tests := []struct{ text, field string }{
		{`{}`, "[0].backend"},
		{`{"backend": "nobody"}`, "[0].backend"},
		{`{"backend": "webservers", "deny": {}}`, "[0]"},
		{`{"condition": {"paths": ["a"]}, "deny": {}}`, "[0].condition.paths[0]"},
		{`{"condition": {"paths": ["/a?b"]}, "deny": {}}`, "[0].condition.paths[0]"},
		{`{"condition": {"paths": ["/a/../b"], "pathForm": "PATH_FORM_NORMALISED"}, "deny": {}}`, "[0].condition.paths[0]"},
		{`{"condition": {"pathPrefixes": ["/a%2fb"], "pathForm": "PATH_FORM_DECODED"}, "deny": {}}`, "[0].condition.path_prefixes[0]"},
		{`{"condition": {"pathForm": 9}, "deny": {}}`, "[0].condition.path_form"},
		{`{"condition": {"pathSuffixes": [""]}, "deny": {}}`, "[0].condition.path_suffixes[0]"},
		{`{"condition": {"pathRegexes": ["("]}, "deny": {}}`, "[0].condition.path_regexes[0]"},
		{`{"condition": {"pathRegexes": [""]}, "deny": {}}`, "[0].condition.path_regexes[0]"},
		{`{"condition": {"pathRegexes": ["(a)\\1"]}, "deny": {}}`, "[0].condition.path_regexes[0]"},
		{`{"condition": {"pathRegexes": ["(.{20}){20}(.{20}){40}"]}, "deny": {}}`, "[0].condition.path_regexes[0]"},
		{`{"condition": {"pathRegexes": ["` + strings.Repeat("a", MaxRegexBytes+1) + `"]}, "deny": {}}`, "[0].condition.path_regexes[0]"},
		{`{"condition": {"hosts": ["www.example.org:80"]}, "deny": {}}`, "[0].condition.hosts[0]"},
		{`{"condition": {"hosts": ["*"]}, "deny": {}}`, "[0].condition.hosts[0]"},
		{`{"condition": {"hosts": ["*.*.org"]}, "deny": {}}`, "[0].condition.hosts[0]"},
		{`{"condition": {"headers": [{"name": "a b"}]}, "deny": {}}`, "[0].condition.headers[0].name"},
		{`{"condition": {"headers": [{"name": "a", "prefixes": [""]}]}, "deny": {}}`, "[0].condition.headers[0].prefixes[0]"},
		{`{"condition": {"headers": [{"name": "a", "exact": ["a\r\nb"]}]}, "deny": {}}`, "[0].condition.headers[0].exact[0]"},
		{`{"condition": {"headers": [{"name": "a", "regexes": ["["]}]}, "deny": {}}`, "[0].condition.headers[0].regexes[0]"},
		{`{"condition": {"cookies": [{"name": "a", "members": true}]}, "deny": {}}`, "[0].condition.cookies[0].members"},
		{`{"condition": {"queries": [{"name": "a=b"}]}, "deny": {}}`, "[0].condition.queries[0].name"},
		{`{"condition": {"sources": ["10.0.0.1/8"]}, "deny": {}}`, "[0].condition.sources[0]"},
		{`{"condition": {"sources": ["localhost"]}, "deny": {}}`, "[0].condition.sources[0]"},
		{`{"condition": {"all": [{}, {"methods": ["A B"]}]}, "deny": {}}`, "[0].condition.all[1].methods[0]"},
		{`{"condition": {"any": [{"methods": [""]}]}, "deny": {}}`, "[0].condition.any[0].methods[0]"},
		{`{"condition": ` + deep + `, "deny": {}}`, "[0].condition" + strings.Repeat(".not", MaxDepth)},
		{`{"condition": {"paths": [` + many + `]}, "deny": {}}`, "[0].condition.paths"},
		{`{"deny": {"status": 200}}`, "[0].deny.status"},
		{`{"deny": {"tarpit": "0s"}}`, "[0].deny.tarpit"},
		{`{"redirect": {}}`, "[0].redirect"},
		{`{"redirect": {"location": "/a", "scheme": "https"}}`, "[0].redirect"},
		{`{"redirect": {"location": "/a b"}}`, "[0].redirect.location"},
		{`{"redirect": {"location": "/a\r\nX: y"}}`, "[0].redirect.location"},
		{`{"redirect": {"location": "/a", "dropQuery": true}}`, "[0].redirect.drop_query"},
		{`{"redirect": {"prefix": "/"}}`, "[0].redirect.prefix"},
		{`{"redirect": {"prefix": "https://"}}`, "[0].redirect.prefix"},
		{`{"redirect": {"prefix": "https:"}}`, "[0].redirect.prefix"},
		{`{"redirect": {"prefix": "\\\\"}}`, "[0].redirect.prefix"},
		{`{"redirect": {"scheme": "ftp"}}`, "[0].redirect.scheme"},
		{`{"redirect": {"location": "/a", "code": 200}}`, "[0].redirect.code"},
		{`{"edit": {}}`, "[0].edit"},
		{`{"edit": {"removeRequestHeaders": ["content-length"]}}`, "[0].edit.remove_request_headers[0]"},
		{`{"edit": {"setRequestHeaders": [{"name": "Host", "value": "x"}]}}`, "[0].edit.set_request_headers[0].name"},
		{`{"edit": {"setRequestHeaders": [{"name": "A", "value": "1"}, {"name": "a", "value": "2"}]}}`, "[0].edit.set_request_headers[1].name"},
		{`{"edit": {"addRequestHeaders": [{"name": "Transfer-Encoding", "value": "chunked"}]}}`, "[0].edit.add_request_headers[0].name"},
		{`{"edit": {"addRequestHeaders": [{"name": "A: b", "value": "c"}]}}`, "[0].edit.add_request_headers[0].name"},
		{`{"edit": {"addResponseHeaders": [{"name": "A", "value": "b\r\nC: d"}]}}`, "[0].edit.add_response_headers[0].value"},
		{`{"edit": {"addResponseHeaders": [{"name": "A", "value": " b"}]}}`, "[0].edit.add_response_headers[0].value"},
		{`{"edit": {"setResponseHeaders": [{"name": "Connection", "value": "b"}]}}`, "[0].edit.set_response_headers[0].name"},
		{`{"edit": {"setHost": "a b"}}`, "[0].edit.set_host"},
		{`{"edit": {"setHost": "a:0"}}`, "[0].edit.set_host"},
		{`{"edit": {"path": {}}}`, "[0].edit.path [0].edit.path.replacement"},
		{`{"edit": {"path": {"set": "a"}}}`, "[0].edit.path.set"},
		{`{"edit": {"path": {"set": "/a", "replacement": "/b"}}}`, "[0].edit.path.replacement"},
		{`{"edit": {"path": {"prefix": "/a", "replacement": "b"}}}`, "[0].edit.path.replacement"},
		{`{"edit": {"path": {"regex": "a(b)", "replacement": "/\\2"}}}`, "[0].edit.path.replacement"},
		{`{"edit": {"path": {"regex": "a(b", "replacement": "/"}}}`, "[0].edit.path.regex"},
		{`{"edit": {"path": {"regex": "a", "replacement": "\\0"}}}`, "[0].edit.path.replacement"},
	}
	for _, test := range tests {
		if _, got := parseRule(t, test.text); strings.Join(got, " ") != test.field {
			t.Errorf("%.200s: got %q, want %q", test.text, got, test.field)
		}
	}
}

// The limits of a frontend hold for all its rules together, and are told once.
func TestRulesTogether(t *testing.T) {
	t.Parallel()
	frontends, backends := good()
	for i := range 20 {
		c := &routerv1.Condition{}
		for n := range MaxValues {
			c.PathPrefixes = append(c.PathPrefixes, fmt.Sprintf("/%d/%d/", i, n))
		}
		for range 5 {
			c.PathRegexes = append(c.PathRegexes, "a")
		}
		frontends[0].Rules = append(frontends[0].Rules, &routerv1.Rule{Condition: c, Deny: &routerv1.Deny{}})
	}
	_, violations := Parse(frontends, backends)
	if len(violations) != 2 || violations[0].GetField() != "frontend/main.rules" || violations[1].GetField() != "frontend/main.rules" {
		t.Errorf("got %v", violations)
	}
}

func TestForwarded(t *testing.T) {
	t.Parallel()
	tests := []struct {
		text  string
		want  Forwarded
		field string
	}{
		{`{}`, Forwarded{}, ""},
		{`{"xForwardedFor": "FORWARDED_FOR_REPLACE", "xForwardedProto": true, "forwarded": true, "trusted": ["10.0.0.0/8", "::1"], "clientFrom": "CLIENT_FROM_FORWARDED"}`, Forwarded{
			For: ForwardedReplace, Proto: true, Standard: true, From: FromForwarded,
			Trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")},
		}, ""},
		{`{"xForwardedFor": 9}`, Forwarded{}, ".forwarded.x_forwarded_for"},
		{`{"clientFrom": 9}`, Forwarded{}, ".forwarded.client_from"},
		{`{"clientFrom": "CLIENT_FROM_FORWARDED"}`, Forwarded{}, ".forwarded.client_from"},
		{`{"trusted": ["10.0.0.1/8"]}`, Forwarded{}, ".forwarded.trusted[0]"},
		{`{"trusted": [` + strings.TrimSuffix(strings.Repeat(`"::1",`, MaxTrusted+1), ",") + `]}`, Forwarded{}, ".forwarded.trusted"},
		{`{"xForwardedHost": true}`, Forwarded{Host: true}, ".rules[0].edit"},
	}
	for _, test := range tests {
		frontends, backends := good()
		frontends[0].Forwarded = &routerv1.Forwarded{}
		if err := protojson.Unmarshal([]byte(test.text), frontends[0].Forwarded); err != nil {
			t.Fatal(err)
		}
		if test.field == ".rules[0].edit" {
			frontends[0].Rules = []*routerv1.Rule{{Edit: &routerv1.Edit{AddRequestHeaders: []*routerv1.Header{{Name: "X-FORWARDED-host", Value: "x"}}}}}
		}
		state, violations := Parse(frontends, backends)
		switch {
		case test.field != "":
			if len(violations) != 1 || violations[0].GetField() != "frontend/main"+test.field {
				t.Errorf("%s: got %v, want one at %s", test.text, violations, test.field)
			}
		case len(violations) > 0 || !reflect.DeepEqual(state.Frontends[0].Forwarded, test.want):
			t.Errorf("%s: got %+v %v", test.text, state, violations)
		}
	}
}

// The desired state of the lab is valid.
func TestLab(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../../../deploy/lab/desired/l7-router/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	var frontends []*routerv1.Frontend
	var backends []*routerv1.Backend
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		request := &routerv1.ApplyRequest{}
		if err := protojson.Unmarshal(text, request); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if f := request.GetObject().GetFrontend(); f != nil {
			frontends = append(frontends, f)
		} else {
			backends = append(backends, request.GetObject().GetBackend())
		}
		// The seed applies one after the other.
		if _, violations := Parse(frontends, backends); len(violations) > 0 {
			t.Errorf("%s: %v", file, violations)
		}
	}
}
